"""Metrics as JSON lines: one object a line, each with its `step`."""

import json
import math
import os
import pathlib
from typing import Any

from dqgan_tf.telemetry import atomic


class JsonLinesWriter:
    """Appends one JSON object per line to a file and flushes each.

    A run that resumes from a checkpoint repeats the steps after it: entries beyond `resume_step`, and a last line torn
    by a crash, are removed at construction, so that every step is in the file once.

    Args:
      path: of the file; its folder is made when missing.
      resume_step: the last step whose entries are kept (0 for a run that starts); None keeps all and touches nothing,
        for a second writer beside a run.

    Raises:
      ValueError: a line other than the last is no entry, with the file and the line's number.
    """

    def __init__(self, path: str | os.PathLike, resume_step: int | None = 0):
        self._path = pathlib.Path(path)
        if resume_step is not None:
            truncate(self._path, resume_step)
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Appends `{"step": step, **values}`.

        Args:
          step: training steps done so far.
          values: numbers, strings, numpy scalars and arrays, eager tensors, or lists and dicts of them. A non-finite
            number is written as null: JSON has none.
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
    """Returns the entries of the file in order; none when it does not exist. A torn last line is left out.

    Raises:
      ValueError: a line other than the last is no entry, with the file and the line's number.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    entries = [_parse(line) for line in lines]
    if entries and entries[-1] is None:
        entries.pop()
    if None in entries:
        raise ValueError(f"Line {entries.index(None) + 1} of {path} is not a JSON object with a step; mend or move it.")
    return entries


def truncate(path: str | os.PathLike, step: int) -> None:
    """Removes the entries beyond `step` and a torn last line, atomically. A missing file becomes an empty one."""
    kept = [entry for entry in read(path) if entry["step"] <= step]
    atomic.write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))


def _parse(line):
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def _plain(value):
    if hasattr(value, "numpy"):
        value = value.numpy()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
