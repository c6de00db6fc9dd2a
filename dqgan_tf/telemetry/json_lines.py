"""Metrics as JSON lines (one object a line, each with its `step`), and atomic replacement of whole files."""

import json
import math
import os
import pathlib
import tempfile
import time
from typing import Any

from dqgan_tf.errors import UsageError

_WRITING_SECONDS = 0.2  # a line whose size does not change for so long was cut off


def write_atomically(path: str | os.PathLike, content: bytes | str) -> None:
    """Replaces the file at `path` by `content` (text as UTF-8). A missing folder is created.

    The bytes go to a temporary file in the same folder, reach the disk (fsync) and take the name in one rename. A
    reader, or a restart after a crash, sees either the whole old file or the whole new one.

    Raises:
      OSError: the folder cannot be written. The old file is unchanged and no temporary file remains.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644  # mkstemp gives access to the owner alone
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # A power cut can undo the rename until the folder itself is on the disk.
    finally:
        os.close(folder)


class JsonLinesWriter:
    """Appends one JSON object per line to a file and flushes after each.

    A run that resumes from a checkpoint repeats the steps after it. The constructor therefore removes entries beyond
    `resume_step`, and a last line that a crash or a full disk cut off, so that the file holds every step once.

    Args:
      path: the file.
      resume_step: last step whose entries stay (0 for a new run). None leaves all whole lines, for a second writer
        beside a run.

    Raises:
      UsageError: a line other than the last is not an entry; see `read`.
    """

    def __init__(self, path: str | os.PathLike, resume_step: int | None = 0):
        if resume_step is not None:
            lines = [json.dumps(entry) + "\n" for entry in read(path) if entry["step"] <= resume_step]
            write_atomically(path, "".join(lines))
        else:
            _end_last_line(pathlib.Path(path))
        self._file = open(path, "a", encoding="utf-8")

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Appends `{"step": step, **values}`.

        Args:
          step: training steps done so far.
          values: numbers, strings, numpy scalars and arrays, eager tensors, or lists and dicts of these. A number that
            is not finite becomes null, because JSON has no such number.
        """
        entry = {"step": int(step)} | {key: _plain(value) for key, value in values.items() if key != "step"}
        self._file.write(json.dumps(entry, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the entries of a file in order, or none if it does not exist. A torn last line is left out.

    Raises:
      UsageError: a line other than the last is not an entry. The message names the file and the line.
    """
    path = pathlib.Path(path)
    entries = [_parse(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    if entries and entries[-1] is None:
        entries.pop()
    if None in entries:
        raise UsageError(
            f"Line {entries.index(None) + 1} of {path} is not a JSON object with a `step`, such as "
            '{"step": 100, "penalty": 0.5}. Repair the line or move the file away.'
        )
    return entries


def _end_last_line(path):
    """Removes a last line that was cut off, unless another process is writing it; ends one that lacks its end alone."""
    content = path.read_bytes() if path.exists() else b""
    last = content.rpartition(b"\n")[2]
    if last and _parse(last) is None:
        time.sleep(_WRITING_SECONDS)
        if path.stat().st_size == len(content):
            os.truncate(path, len(content) - len(last))
    elif last:
        with open(path, "ab") as file:
            file.write(b"\n")


def _parse(line):
    """Returns the entry of one line, or None."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def _plain(value):
    """Returns `value` as Python numbers, strings, lists and dicts."""
    if hasattr(value, "numpy"):
        value = value.numpy()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
