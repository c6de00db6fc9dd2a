"""What the workers compare before the first step, and what a failure of one does to all."""

import dataclasses
import json
import pathlib
import shutil

import pytest
import tensorflow as tf

import dqgan_tf
from dqgan_tf.config import DataConfig, RunConfig, TrainConfig
from dqgan_tf.data import DataSpec
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.errors import CheckpointError, PeerLostError, UsageError
from dqgan_tf.training import run

CONFIG = RunConfig(model_dir="here", data=DataConfig(data_dir="on this disk"))


class Board(MessageBoard):
    """A board on which another worker's text stands already."""

    def __init__(self, other):
        super().__init__(0, 2)
        self.other = other

    def exchange(self, topic, text, timeout_seconds=0.0):
        return [text, self.other]


def other_worker(config=CONFIG, **changes):
    return Board(json.dumps(run.identity(config) | changes))


def refusal(board):
    """What `check_agreement` refuses on this board, or None."""
    try:
        run.check_agreement(board, CONFIG)
    except UsageError as error:
        return str(error)
    return None


def test_equal_workers_agree():
    assert refusal(other_worker()) is None
    assert refusal(MessageBoard(0, 1)) is None


def test_what_is_local_may_differ():
    other = dataclasses.replace(CONFIG, model_dir="there", data=DataConfig(data_dir="on that disk"))
    assert refusal(other_worker(other)) is None


def test_a_flag_is_named_with_both_values():
    other = dataclasses.replace(CONFIG, train=TrainConfig(seed=3))
    with pytest.raises(
        UsageError, match="disagree: --seed is 0 on worker 0 and 3 on worker 1. Start all with the same"
    ):
        run.check_agreement(other_worker(other), CONFIG)


def test_a_limit_of_silence_that_differs_is_refused():
    """TensorFlow sends heartbeats by the sender's limit and misses them by that of worker 0."""
    other = dataclasses.replace(CONFIG, train=TrainConfig(silence_timeout=60))
    with pytest.raises(UsageError, match="--silence_timeout is 30.0 on worker 0 and 60.0 on worker 1"):
        run.check_agreement(other_worker(other), CONFIG)


@pytest.mark.parametrize("key", ["code", "tensorflow", "keras", "numpy", "python"])
def test_code_and_versions_are_compared(key):
    with pytest.raises(UsageError, match=f"{key} is '.*' on worker 0 and 'other' on worker 1"):
        run.check_agreement(other_worker(**{key: "other"}), CONFIG)


def test_copies_of_the_data_with_other_classes_are_refused():
    """A conditional network has a weight for each class: collectives of other shapes would meet."""
    spec = DataSpec("images", (4, 4, 1), 10, "own", num_classes=3)
    other = "own with 10 examples of shape (4, 4, 1)"
    assert run._check_equal_data(Board(f"{other} in 3 classes"), spec) is None
    with pytest.raises(UsageError, match="in 3 classes on worker 0, .* in 2 classes on worker 1"):
        run._check_equal_data(Board(f"{other} in 2 classes"), spec)


@pytest.mark.parametrize("chief, own", [(True, False), (False, True)])
def test_the_chief_says_whether_the_run_is_finished(tmp_path, chief, own):
    """A worker may see summary.json later than the chief, or another one; all must go the same way."""

    class Chiefs(Board):
        def exchange(self, topic, text, timeout_seconds=0.0):
            assert (topic, text) == ("finished", json.dumps(own))
            return [json.dumps(chief), text]

    if own:
        (tmp_path / "summary.json").write_text('{"steps": 6}')
    assert run._is_finished(Chiefs(""), str(tmp_path), 6) is chief


class TestFindDifferences:
    def test_every_key_of_any_worker(self):
        assert run.find_differences([{"a": 1}, {"a": 1, "group.b": 2}]) == ["--b is None on worker 0 and 2 on worker 1"]

    def test_the_first_worker_that_differs(self):
        assert run.find_differences([{"a": 1}, {"a": 1}, {"a": 2}]) == ["a is 1 on worker 0 and 2 on worker 2"]

    def test_none(self):
        assert run.find_differences([{"a": 1}] * 3) == []


class TestCodeHash:
    @pytest.fixture
    def copy(self, tmp_path, monkeypatch):
        """A copy of the library's files, to which the hash is pointed."""
        root = tmp_path / "dqgan_tf"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(pathlib.Path(dqgan_tf.__file__).parent, root, ignore=ignored)
        monkeypatch.setattr(dqgan_tf, "__file__", str(root / "__init__.py"))
        return root

    def test_depends_on_contents_and_names_alone(self, copy, monkeypatch):
        in_copy = run.code_hash()
        monkeypatch.undo()
        assert run.code_hash() == in_copy
        assert len(in_copy) == 16 and int(in_copy, 16) >= 0

    def test_changes_with_one_character(self, copy):
        before, path = run.code_hash(), copy / "distribute" / "channel.py"
        path.write_text(path.read_text() + "#")
        assert run.code_hash() != before

    def test_changes_with_a_name(self, copy):
        before = run.code_hash()
        (copy / "gan" / "steps.py").rename(copy / "gan" / "step.py")
        assert run.code_hash() != before

    def test_compiled_files_do_not_count(self, copy):
        before = run.code_hash()
        (copy / "cached.pyc").write_bytes(b"1")
        assert run.code_hash() == before


class TestTogether:
    """Worker 0 runs an action; worker 1's answer stands on the board already."""

    @pytest.fixture
    def board(self):
        class Board(MessageBoard):
            other = [0, ""]
            left = False

            def exchange(self, topic, text, timeout_seconds=0.0):
                self.own = json.loads(text)
                return [text, json.dumps(self.other)]

            def leave(self, timeout_seconds=0.0):
                self.left = True

        return Board(0, 2)

    def test_returns_what_the_action_does(self, board):
        assert run.run_on_all_workers(board, lambda: 5) == 5
        assert board.own == [0, ""]

    @pytest.mark.parametrize(
        "error",
        [
            UsageError("no\n data set"),
            CheckpointError("no\n data set"),
            tf.errors.PermissionDeniedError(None, None, "no\n data set"),
        ],
    )
    def test_a_usage_error_of_this_worker_ends_all(self, board, error):
        with pytest.raises(UsageError, match="^no data set$"):
            run.run_on_all_workers(board, raising(error))
        assert board.own == [2, "no data set"]

    def test_a_file_that_cannot_be_written_is_a_usage_error(self, board):
        with pytest.raises(UsageError, match=r"^\[Errno 28\] No space left on device: 'x'$"):
            run.run_on_all_workers(board, raising(OSError(28, "No space left on device", "x")))

    def test_a_full_disk_is_no_fault_and_lack_of_memory_is_one(self, board):
        error = tf.errors.ResourceExhaustedError
        with pytest.raises(UsageError, match="^x; No space left on device$"):
            run.run_on_all_workers(board, raising(error(None, None, "x; No space left on device")))
        with pytest.raises(error, match="OOM"):
            run.run_on_all_workers(board, raising(error(None, None, "OOM when allocating tensor with shape[9]")))
        assert board.own == [70, "ResourceExhaustedError: OOM when allocating tensor with shape[9]"]

    def test_a_usage_error_of_another_worker(self, board):
        board.other = [2, "no data set"]
        with pytest.raises(UsageError, match="^Worker 1: no data set$"):
            run.run_on_all_workers(board, lambda: 5)

    @pytest.mark.parametrize("error", [ValueError("ours\nmore"), TypeError("ours"), KeyError("ours")])
    def test_a_fault_of_this_worker_keeps_its_traceback(self, board, error):
        with pytest.raises(type(error)) as caught:
            run.run_on_all_workers(board, raising(error))
        assert caught.value is error and caught.traceback[-1].name == "action"
        assert board.own[0] == 70 and board.own[1].startswith(f"{type(error).__name__}: ") and "\n" not in board.own[1]
        assert board.left

    def test_a_fault_of_another_worker_is_named(self, board):
        board.other = [70, "ValueError: theirs"]
        with pytest.raises(PeerLostError, match="^Worker 1 met a fault: ValueError: theirs. Its own output has the"):
            run.run_on_all_workers(board, lambda: 5)
        assert board.left  # worker 0, where the coordination service lives, waits until worker 1 has read its answer

    def test_a_usage_error_beside_a_fault(self, board):
        """Each worker ends with its own; who had none hears of what can be mended."""
        board.other = [70, "ValueError: theirs"]
        with pytest.raises(UsageError, match="^ours$"):
            run.run_on_all_workers(board, raising(UsageError("ours")))
        board.other = [2, "theirs"]
        with pytest.raises(ValueError, match="^ours$"):
            run.run_on_all_workers(board, raising(ValueError("ours")))


def raising(error):
    def action():
        raise error

    return action
