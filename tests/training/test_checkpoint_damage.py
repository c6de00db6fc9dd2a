"""Checkpoints that were cut off, found no room or were damaged: the last complete one, or refused by name."""

import json
import resource
import signal

import numpy as np
import pytest

from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.errors import CheckpointError, TrainingError
from dqgan_tf.telemetry import json_lines
from dqgan_tf.training import checkpoint
from tests.training.tiny_run import bits, checkpoints, fill, steps


class TestTornWrites:
    @pytest.mark.parametrize(("place", "name"), [(checkpoint, "write_tensors"), (json_lines, "write_atomically")])
    def test_a_kill_leaves_the_last_complete_one(self, two, tmp_path, monkeypatch, place, name):
        """Before the tensors are complete, and between them and COMMIT."""
        fill(two, 1)
        saved, run = bits(two), checkpoints(tmp_path, two)
        run.save(7)
        fill(two, 2, step=8)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, name, _die)
            run.save(8)
        assert (tmp_path / "checkpoints" / "step_00000008").exists() and steps(tmp_path) == [7]
        assert checkpoints(tmp_path, two).restore().step == 7
        assert bits(two) == saved

        fill(two, 3, step=8)  # the run comes by again and this time completes
        saved = bits(two)
        run.save(8)
        fill(two, 4)
        assert checkpoints(tmp_path, two).restore().step == 8
        assert bits(two) == saved

    def test_a_kill_while_writing_a_step_again(self, two, tmp_path, monkeypatch):
        """A run that resumed from step 7, since step 8 was of no use, writes step 8 again."""
        run = checkpoints(tmp_path, two)
        for step in (7, 8):
            run.save(step)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(checkpoint, "write_tensors", _die)
            checkpoints(tmp_path, two).save(8)
        assert steps(tmp_path) == [7]


def _die(*arguments):
    raise KeyboardInterrupt


class TestFullDisk:
    def test_no_room_for_the_tensors(self, two, tmp_path):
        """The system itself refuses to write: no file may grow beyond 1000 bytes."""
        fill(two, 1)
        checkpoints(tmp_path, two).save(7)
        fill(two, 2)
        before, limits = bits(two), resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
            with pytest.raises(TrainingError, match="Worker 0 could not write a checkpoint in .*is intact"):
                checkpoints(tmp_path, two).save(8)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert steps(tmp_path) == [7] and bits(two) == before
        assert checkpoints(tmp_path, two).restore().step == 7

    def test_no_room_for_the_last_file(self, two, tmp_path, monkeypatch):
        def full(path, text):
            raise OSError(28, "No space left on device")

        checkpoints(tmp_path, two).save(7)
        monkeypatch.setattr(json_lines, "write_atomically", full)
        with pytest.raises(TrainingError, match="could not commit .*No space left on device.*is intact"):
            checkpoints(tmp_path, two).save(8)
        assert steps(tmp_path) == [7]

    def test_the_others_learn_of_it(self, two, tmp_path):
        class Board(MessageBoard):
            def exchange(self, topic, text, timeout_seconds=0.0):
                other = json.dumps([None, "disk full" if topic.startswith("write") else ""])
                return [text, text if topic.startswith("name") else other]

        with pytest.raises(TrainingError, match="Worker 1 could not write .*disk full"):
            checkpoints(tmp_path, two, board=Board(0, 2)).save(8)
        assert steps(tmp_path) == []


class TestDamage:
    @pytest.fixture
    def run(self, two, tmp_path):
        return checkpoints(tmp_path, two)

    @pytest.fixture
    def saved(self, two, tmp_path, run):
        fill(two, 1)
        run.save(7)
        fill(two, 2)
        return tmp_path / "checkpoints" / "step_00000007"

    def assert_refused(self, two, folder, message):
        before = bits(two)
        with pytest.raises(CheckpointError, match=message) as caught:
            checkpoints(folder.parent.parent, two).restore()
        assert bits(two) == before, "something was changed"
        return str(caught.value)

    FILES = [f"{name}.{end}" for name in ("replicated", "worker_0") for end in ("index", "data-00000-of-00001")]

    @pytest.mark.parametrize("name", FILES)
    def test_truncated(self, two, saved, name):
        size = (saved / name).stat().st_size
        (saved / name).write_bytes((saved / name).read_bytes()[:-1])
        text = self.assert_refused(two, saved, f"{name} has {size - 1} bytes instead of {size}")
        assert "remove this folder" in text

    @pytest.mark.parametrize("name", FILES)
    def test_missing(self, two, saved, name):
        (saved / name).unlink()
        self.assert_refused(two, saved, f"{name} is missing; remove this folder")

    @pytest.mark.parametrize("name", FILES)
    def test_one_bit_flipped(self, two, saved, name):
        """The size is right; the digest is not."""
        content = bytearray((saved / name).read_bytes())
        content[len(content) // 2] ^= 1
        (saved / name).write_bytes(content)
        self.assert_refused(two, saved, f"{name} is not the one that was saved: its sha256 differs; remove")

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "[" * 200_000])
    def test_unreadable_commit(self, two, saved, text):
        (saved / "COMMIT").write_text(text)
        self.assert_refused(two, saved, "COMMIT cannot be read .*remove this folder")

    @pytest.mark.parametrize("key", ["run", "step", "num_workers", "num_replicas", "config", "files"])
    def test_commit_without_a_key(self, two, saved, key):
        commit = json.loads((saved / "COMMIT").read_text())
        del commit[key]
        (saved / "COMMIT").write_text(json.dumps(commit))
        self.assert_refused(two, saved, f"COMMIT has no '{key}'; remove this folder")

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("run", 3, "COMMIT has run = 3, which is no str"),
            ("step", "7", "COMMIT has step = '7', which is no int"),
            ("step", 8, "COMMIT does not belong there: it is of step 8"),
            ("step", True, "COMMIT has step = True, which is no int"),
            ("num_workers", 0, "COMMIT does not belong there: .*num_workers 0"),
            ("num_workers", 10**30, "COMMIT does not belong there: .*num_workers 10{30}"),
            ("num_replicas", 10**30, "COMMIT does not belong there: .*num_replicas 10{30}"),
            ("num_workers", 2, "COMMIT does not list the files of its workers: see 'worker_1"),
            ("num_replicas", [], r"COMMIT has num_replicas = \[\], which is no int"),
            ("config", "x", "COMMIT has config = 'x', which is no dict"),
            ("files", {}, "COMMIT does not list the files of its workers: see 'replicated"),
            ("files", dict.fromkeys(FILES, 3), "COMMIT holds no digests"),
            ("files", dict.fromkeys(FILES, {}), "has .* bytes instead of None"),
            ("format", "3", "was written by an unknown version of dqgan-tf"),
            ("format", [], "was written by an unknown version of dqgan-tf"),
        ],
    )
    def test_commit_with_a_value_of_another_kind(self, two, saved, key, value, message):
        commit = json.loads((saved / "COMMIT").read_text())
        (saved / "COMMIT").write_text(json.dumps(commit | {key: value}))
        self.assert_refused(two, saved, f"{message}.*(remove this folder|Finish the run)")

    @pytest.mark.parametrize("name", ["replicated", "worker_0"])
    def test_an_older_file_in_the_newest_checkpoint(self, two, saved, run, name):
        """Both files are intact and have the right names, shapes and sizes."""
        run.save(8)
        newest = saved.parent / "step_00000008"
        for path in saved.glob(f"{name}.*"):
            (newest / path.name).write_bytes(path.read_bytes())
        message = rf"{name}\.\S+ does not belong there: it is of step 7 and not of 8; remove"
        self.assert_refused(two, newest, message)

    def test_the_file_of_another_worker(self, two, saved):
        for path in saved.glob("replicated.*"):
            path.with_name(path.name.replace("replicated", "worker_0")).write_bytes(path.read_bytes())
        self.assert_refused(
            two, saved, r"worker_0\S+ does not belong there: it is of file replicated and not of worker_0"
        )

    def test_a_checkpoint_of_another_run(self, two, saved, tmp_path_factory):
        """The same configuration, another start: its residuals belong to other weights."""
        elsewhere = tmp_path_factory.mktemp("other")
        checkpoints(elsewhere, two).save(9)
        (elsewhere / "checkpoints" / "step_00000009").rename(saved.parent / "step_00000009")
        self.assert_refused(two, saved, "checkpoints of two runs: step_00000007 is of run .*, the newest of run")

    @pytest.mark.parametrize(
        ("number", "writer"),
        [(1, "dqgan-tf 0.1"), (2, "dqgan-tf 0.2 before its release"), (99, "an unknown version of dqgan-tf")],
    )
    def test_another_format(self, two, saved, number, writer):
        """Format 1 named state by groups of weights, in an order that a constant of the library determined."""
        (saved / "COMMIT").write_text(f'{{"format": {number}, "files": {{}}}}')
        message = rf"step_00000007 was written by {writer} \(checkpoint format {number}\); this is dqgan-tf .*, which "
        self.assert_refused(two, saved, message + "reads format 3. Finish the run with the version that began it, or")

    def test_without_commit_a_folder_counts_for_nothing(self, two, saved):
        (saved / "COMMIT").unlink()
        assert checkpoints(saved.parent.parent, two).restore().step == 0

    def test_after_removal_the_one_before_is_taken(self, two, saved, run):
        run.save(8)
        newest = saved.parent / "step_00000008"
        (newest / "replicated.index").unlink()
        self.assert_refused(two, newest, "is missing")
        for path in newest.iterdir():
            path.unlink()
        newest.rmdir()
        assert checkpoints(saved.parent.parent, two).restore().step == 7

    @pytest.mark.parametrize("value", [np.inf, np.nan])
    def test_a_value_that_is_not_finite(self, two, tmp_path, value):
        """A second moment of infinity makes every later direction zero: the run would go on and never learn."""
        model = two[1]

        def poisoned(tensor):
            array = tensor.numpy()
            array.flat[-1] = value
            return array

        def save_and_restore(name):
            checkpoints(tmp_path, two).save(7)
            fill(two, 2)
            self.assert_refused(
                two, tmp_path / "checkpoints" / "step_00000007", f"holds values in {name} that are not finite; remove"
            )

        fill(two, 1)
        own, name = model.replica_values(1), "v/generator/000_kernel"
        model.set_replica_values(1, own | {name: poisoned(own[name])})
        save_and_restore(f"{name}/1")
        fill(two, 1)
        shared, name = model.shared_values(), "ema/generator/000_kernel"
        model.set_shared_values(shared | {name: poisoned(shared[name])})
        save_and_restore(name)
