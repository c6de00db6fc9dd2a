"""Files that are either the old one or the new one, never a part."""

import os
import pathlib
import tempfile


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Replaces the file at `path` by `data`.

    The bytes go to a temporary file of the same folder, reach the disk (fsync) and take the name in one rename,
    so that a reader, or a start after a crash, sees all of the old file or all of the new one.

    Args:
      path: of the file; its folder is made when missing.
      data: all of its bytes.

    Raises:
      OSError: the folder cannot be written; the old file is untouched and no temporary file stays.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(path))
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text(path: str | os.PathLike, text: str) -> None:
    """`write_bytes` of `text` in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def _mode(path):
    # mkstemp makes private files; a replaced file keeps its mode and a new one is readable by the group.
    return path.stat().st_mode & 0o777 if path.exists() else 0o644


def _sync_folder(folder):
    # The rename itself is lost in a power cut unless the folder reaches the disk too.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
