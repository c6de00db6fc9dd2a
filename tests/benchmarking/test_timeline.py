"""Against a profile made by hand."""

import pytest

from dqgan_tf.benchmarking import timeline
from dqgan_tf.private_tensorflow import XSpace

MS = 10**9  # picoseconds


@pytest.fixture
def folder(tmp_path):
    """Two threads; the second one's clock begins 2 ms later."""
    space = XSpace()
    plane = space.planes.add(name="/host:CPU")
    names = [
        "run_steps",
        "CpuExecutable::ExecuteAsyncOnStream",
        "PyFunc_1:PyFunc",
        "Mul:Mul",
        "ExecutorState::Process",
        "EagerLocalExecute: f",
    ]
    for number, name in enumerate(names, 1):
        plane.event_metadata[number].id, plane.event_metadata[number].name = number, name
    first = plane.lines.add(timestamp_ns=5 * 10**6)
    second = plane.lines.add(timestamp_ns=7 * 10**6)
    for line, number, start, lasted in [
        (first, 1, 0, 20),
        (first, 5, 1, 9),
        (first, 6, 1, 9),
        (second, 3, 4, 6),
        (second, 4, 1, 0.2),
        (first, 2, 1.5, 2),
    ]:
        line.events.add(metadata_id=number, offset_ps=int(start * MS), duration_ps=int(lasted * MS))
    path = tmp_path / "sign" / "plugins" / "vm.xplane.pb"
    path.parent.mkdir(parents=True)
    path.write_bytes(space.SerializeToString())
    return tmp_path


def test_operations_in_order_since_the_beginning(folder):
    (path,) = folder.rglob("*.xplane.pb")
    assert timeline.events(path) == [(1.5, 3.5, "compiled by XLA"), (6.0, 12.0, "PyFunc_1:PyFunc")]


def test_a_table_for_every_profile(folder, capsys):
    timeline.main(str(folder))
    said = capsys.readouterr().out
    assert "## sign\n" in said and "| 6.0 | 12.0 | 6.0 | PyFunc_1:PyFunc |" in said


def test_no_profile_is_an_error_that_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="trainers.benchmark --profile"):
        timeline.main(str(tmp_path))
