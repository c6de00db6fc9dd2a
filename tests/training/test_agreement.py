"""What the workers compare before the first step."""

import dataclasses
import json
import pathlib
import shutil

import pytest

import dqgan_tf
from dqgan_tf.config import DataConfig, RunConfig, TrainConfig
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.training import agreement
from dqgan_tf.training.errors import UsageError

CONFIG = RunConfig(model_dir="here", data=DataConfig(data_dir="on this disk"))


class Board(MessageBoard):
    """A board on which another worker's text stands already."""

    def __init__(self, other):
        super().__init__(0, 2)
        self.other = other

    def exchange(self, topic, text, timeout_seconds=0.0):
        return [text, self.other]


def other_worker(config=CONFIG, **changes):
    return Board(json.dumps(agreement.identity(config) | changes))


def refusal(board):
    """What `check` refuses on this board, or None."""
    try:
        agreement.check(board, CONFIG)
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
        agreement.check(other_worker(other), CONFIG)


@pytest.mark.parametrize("key", ["code", "tensorflow", "keras", "python"])
def test_code_and_versions_are_compared(key):
    with pytest.raises(UsageError, match=f"{key} is '.*' on worker 0 and 'other' on worker 1"):
        agreement.check(other_worker(**{key: "other"}), CONFIG)


class TestFindDifferences:
    def test_every_key_of_any_worker(self):
        assert agreement.find_differences([{"a": 1}, {"a": 1, "group.b": 2}]) == [
            "--b is None on worker 0 and 2 on worker 1"
        ]

    def test_the_first_worker_that_differs(self):
        assert agreement.find_differences([{"a": 1}, {"a": 1}, {"a": 2}]) == ["a is 1 on worker 0 and 2 on worker 2"]

    def test_none(self):
        assert agreement.find_differences([{"a": 1}] * 3) == []


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
        in_copy = agreement.code_hash()
        monkeypatch.undo()
        assert agreement.code_hash() == in_copy
        assert len(in_copy) == 16 and int(in_copy, 16) >= 0

    def test_changes_with_one_character(self, copy):
        before, path = agreement.code_hash(), copy / "distribute" / "channel.py"
        path.write_text(path.read_text() + "#")
        assert agreement.code_hash() != before

    def test_changes_with_a_name(self, copy):
        before = agreement.code_hash()
        (copy / "gan" / "noise.py").rename(copy / "gan" / "noises.py")
        assert agreement.code_hash() != before

    def test_compiled_files_do_not_count(self, copy):
        before = agreement.code_hash()
        (copy / "cached.pyc").write_bytes(b"1")
        assert agreement.code_hash() == before
