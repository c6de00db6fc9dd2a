"""What happened when in a profiled step: a table of a TensorFlow profile's longest operations, in order.

python -m dqgan_tf.benchmarking.timeline FOLDER
"""

import pathlib
import sys
from typing import NamedTuple

from dqgan_tf.benchmarking.table import markdown
from dqgan_tf.private_tensorflow import XSpace

LEAST_MILLISECONDS = 0.3
_COMPILED = "CpuExecutable::ExecuteAsyncOnStream"
_NAMES = {_COMPILED: "compiled by XLA"}


class Event(NamedTuple):
    """start, end: milliseconds since the step began. name: of the operation, or what XLA has compiled."""

    start: float
    end: float
    name: str


def events(path: pathlib.Path) -> list[Event]:
    """Returns the operations of at least `LEAST_MILLISECONDS` in a profile (`*.xplane.pb`), by their start.

    Operations of TensorFlow are told as `NAME:TYPE`; a Python function that waits for a packet waits in its `PyFunc`.
    """
    space = XSpace()
    space.ParseFromString(path.read_bytes())
    found = [
        (
            line.timestamp_ns / 1e6 + one.offset_ps / 1e9,
            one.duration_ps / 1e9,
            plane.event_metadata[one.metadata_id].name,
        )
        for plane in space.planes
        for line in plane.lines
        for one in line.events
    ]
    first = min((start for start, _, _ in found), default=0.0)
    told = [
        Event(start - first, start - first + lasted, _NAMES.get(name, name))
        for start, lasted, name in found
        if lasted >= LEAST_MILLISECONDS and _is_operation(name)
    ]
    return sorted(told)


def _is_operation(name):
    return name == _COMPILED or (":" in name and "::" not in name and ": " not in name)


def main(folder: str) -> None:
    """Prints one table per profile under `folder`.

    Raises:
      FileNotFoundError: there is none.
    """
    paths = sorted(pathlib.Path(folder).rglob("*.xplane.pb"))
    if not paths:
        raise FileNotFoundError(f"There is no profile (*.xplane.pb) under {folder!r}: trainers.benchmark --profile")
    for path in paths:
        rows = [[f"{e.start:.1f}", f"{e.end:.1f}", f"{e.end - e.start:.1f}", e.name] for e in events(path)]
        print(f"\n## {path.relative_to(folder).parts[0]}\n\n" + markdown(["from, ms", "to, ms", "ms", "what"], rows))


if __name__ == "__main__":
    main(sys.argv[1])
