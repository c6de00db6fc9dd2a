"""Checkpoints in one process: to the bit or refused by name, and never half."""

import dataclasses
import json
import resource
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.config import CompressionConfig, DataConfig, NetworkConfig, OptimizerConfig, RunConfig, TrainConfig
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.gan import networks
from dqgan_tf.gan.model import DQGAN
from dqgan_tf.telemetry import atomic
from dqgan_tf.training import checkpoint, tensor_file
from dqgan_tf.training.checkpoint import Checkpoints
from dqgan_tf.training.errors import CheckpointError, TrainingError
from tests.gan.local_strategy import local_strategy

CONFIG = RunConfig(
    model_dir="here",
    data=DataConfig("fashion_mnist"),
    network=NetworkConfig("dcgan", width=2, latent_dim=3),
    compression=CompressionConfig("sign:bucket=32"),
)


@pytest.fixture(scope="module")
def two():
    """(strategy, model) of two replicas."""
    return build(2)


def build(replicas, width=2):
    """An untraced DCGAN: batch-norm statistics, moments, residuals and all, in a moment."""
    strategy = local_strategy(replicas)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        players = networks.build(NetworkConfig("dcgan", width=width, latent_dim=3), (28, 28, 1), 0)
        model = DQGAN(players.generator, players.discriminator)
    model.compile(OptimizerConfig(second_moment="averaged"), CONFIG.compression)
    return strategy, model


def checkpoints(folder, built, config=CONFIG, keep=3, board=None):
    strategy, model = built
    return Checkpoints(folder, config, model, board or MessageBoard(0, 1), strategy, keep)


def fill(built, seed, step=7):
    """Gives every variable values of its own: per replica where replicas may differ."""
    random, (_, model) = np.random.default_rng(seed), built

    def value(variable):
        if "int" in tf.as_dtype(variable.dtype).name:
            return random.integers(1, 1000)
        return random.standard_normal(variable.shape).astype(np.float32)

    for variable in model.shared_state().values():
        variable.assign(value(variable))
    model.step.assign(step)
    for state in model.replica_state().values():
        for variable in state.variables:
            variable.assign(value(variable))
    for state in model.replicated_state().values():
        drawn = value(state.variables[0])
        for variable in state.variables:
            variable.assign(drawn)


def bits(built):
    """The bytes of all state, by name and replica."""
    _, model = built
    state = {name: variable.value.values for name, variable in model.shared_state().items()}
    for named in (model.replica_state(), model.replicated_state()):
        state |= {name: local.variables for name, local in named.items()}
    return {name: [v.numpy().tobytes() for v in variables] for name, variables in state.items()}


def steps(folder):
    return [int(path.name[5:]) for path in checkpoint.committed(folder)]


class TestRestore:
    def test_bit_for_bit(self, two, tmp_path):
        fill(two, 1)
        saved = bits(two)
        assert len({value for values in saved.values() for value in values}) > 30  # all state has values of its own
        checkpoints(tmp_path, two).save(7)
        fill(two, 2)
        assert not any(bits(two)[name] == saved[name] for name in saved if name != "step")
        assert checkpoints(tmp_path, two).restore() == (7, 2)
        assert bits(two) == saved

    def test_nothing_to_restore(self, two, tmp_path):
        before = bits(two)
        assert checkpoints(tmp_path / "none", two).restore() == (0, 2)
        assert bits(two) == before

    def test_the_newest_by_number(self, two, tmp_path):
        for step in (9, 100000000, 99999999):
            checkpoints(tmp_path, two).save(step)
        assert checkpoints(tmp_path, two).restore().step == 100000000

    def test_what_changes_no_weight_may_differ(self, two, tmp_path):
        checkpoints(tmp_path, two).save(1)
        train = TrainConfig(steps=9, steps_per_call=2, log_every=1, keep_checkpoints=1)
        other = dataclasses.replace(CONFIG, model_dir="there", train=train)
        assert checkpoints(tmp_path, two, other).restore().step == 1


class TestPrune:
    def test_keeps_the_newest(self, two, tmp_path):
        for step in (1, 2, 3, 10):
            checkpoints(tmp_path, two, keep=2).save(step)
        assert steps(tmp_path) == [3, 10]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000003", "step_00000010"]

    def test_killed_while_removing(self, two, tmp_path, monkeypatch):
        checkpoints(tmp_path, two).save(1)

        def die(folder):
            raise KeyboardInterrupt

        monkeypatch.setattr(checkpoint.shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            checkpoints(tmp_path, two, keep=1).save(2)
        assert steps(tmp_path) == [2]
        assert checkpoints(tmp_path, two).restore().step == 2


class TestTornWrites:
    @pytest.mark.parametrize(("place", "name"), [(tensor_file, "write"), (atomic, "write_text")])
    def test_a_kill_leaves_the_last_complete_one(self, two, tmp_path, monkeypatch, place, name):
        """Before the tensors are complete, and between them and COMMIT."""
        fill(two, 1)
        saved = bits(two)
        checkpoints(tmp_path, two).save(7)
        fill(two, 2, step=8)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, name, _die)
            checkpoints(tmp_path, two).save(8)
        assert (tmp_path / "step_00000008").exists() and steps(tmp_path) == [7]
        assert checkpoints(tmp_path, two).restore().step == 7
        assert bits(two) == saved

        fill(two, 3, step=8)  # the run comes by again and this time completes
        saved = bits(two)
        checkpoints(tmp_path, two).save(8)
        fill(two, 4)
        assert checkpoints(tmp_path, two).restore().step == 8
        assert bits(two) == saved

    def test_a_kill_while_writing_a_step_again(self, two, tmp_path, monkeypatch):
        """A run that resumed from step 7, since step 8 was of no use, writes step 8 again."""
        for step in (7, 8):
            checkpoints(tmp_path, two).save(step)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(tensor_file, "write", _die)
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
        monkeypatch.setattr(atomic, "write_text", full)
        with pytest.raises(TrainingError, match="could not commit .*No space left on device.*is intact"):
            checkpoints(tmp_path, two).save(8)
        assert steps(tmp_path) == [7]

    def test_the_others_learn_of_it(self, two, tmp_path):
        class Board(MessageBoard):
            def exchange(self, topic, text, timeout_seconds=0.0):
                return [text, "disk full" if topic.startswith("write") else ""]

        with pytest.raises(TrainingError, match="Worker 1 could not write .*disk full"):
            checkpoints(tmp_path, two, board=Board(0, 2)).save(8)
        assert steps(tmp_path) == []


class TestDamage:
    @pytest.fixture
    def saved(self, two, tmp_path):
        fill(two, 1)
        checkpoints(tmp_path, two).save(7)
        fill(two, 2)
        return tmp_path / "step_00000007"

    def refused(self, two, folder, message):
        before = bits(two)
        with pytest.raises(CheckpointError, match=message) as caught:
            checkpoints(folder.parent, two).restore()
        assert bits(two) == before, "something was changed"
        return str(caught.value)

    FILES = [f"{name}.{end}" for name in ("replicated", "worker_0") for end in ("index", "data-00000-of-00001")]

    @pytest.mark.parametrize("name", FILES)
    def test_truncated(self, two, saved, name):
        size = (saved / name).stat().st_size
        (saved / name).write_bytes((saved / name).read_bytes()[:-1])
        text = self.refused(two, saved, f"{name} has {size - 1} bytes instead of {size}")
        assert "remove this folder" in text

    @pytest.mark.parametrize("name", FILES)
    def test_missing(self, two, saved, name):
        (saved / name).unlink()
        self.refused(two, saved, f"{name} is missing; remove this folder")

    @pytest.mark.parametrize("name", FILES)
    def test_one_bit_flipped(self, two, saved, name):
        """The size is right; TensorFlow's checksum is not."""
        content = bytearray((saved / name).read_bytes())
        content[len(content) // 2] ^= 1
        (saved / name).write_bytes(content)
        self.refused(two, saved, f"{name.split('.')[0]} cannot be read")

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format": 1}', '{"format": 1, "files": 3}'])
    def test_unreadable_commit(self, two, saved, text):
        (saved / "COMMIT").write_text(text)
        self.refused(two, saved, "COMMIT cannot be read .*remove this folder")

    @pytest.mark.parametrize("key", ["step", "num_workers", "num_replicas", "config"])
    def test_commit_without_a_key(self, two, saved, key):
        commit = json.loads((saved / "COMMIT").read_text())
        del commit[key]
        (saved / "COMMIT").write_text(json.dumps(commit))
        self.refused(two, saved, f"COMMIT has no '{key}'; remove this folder")

    def test_another_format(self, two, saved):
        (saved / "COMMIT").write_text('{"format": 99, "files": {}}')
        self.refused(two, saved, "step_00000007 has checkpoint format 99; this version reads format 1")

    def test_without_commit_a_folder_counts_for_nothing(self, two, saved):
        (saved / "COMMIT").unlink()
        assert checkpoints(saved.parent, two).restore().step == 0

    def test_after_removal_the_one_before_is_taken(self, two, saved):
        checkpoints(saved.parent, two).save(8)
        newest = saved.parent / "step_00000008"
        (newest / "replicated.index").unlink()
        self.refused(two, newest, "is missing")
        for path in newest.iterdir():
            path.unlink()
        newest.rmdir()
        assert checkpoints(saved.parent, two).restore().step == 7


class TestOtherRuns:
    @pytest.mark.parametrize(
        ("group", "change", "message"),
        [
            ("network", {"width": 4}, "--width=2, this run asks for --width=4"),
            ("compression", {"compressor": "none"}, "--compressor=sign:bucket=32, this run asks for --compressor=none"),
            ("compression", {"error_feedback": False}, "--error_feedback=True, .* --error_feedback=False"),
            ("train", {"seed": 1}, "--seed=0, this run asks for --seed=1"),
            ("train", {"batch_size": 128}, "--batch_size=256, .* --batch_size=128"),
            ("data", {"dataset": "mnist"}, "--dataset=fashion_mnist, .* --dataset=mnist"),
            ("optimizer", {"learning_rate_g": 0.5}, "--learning_rate_g=0.001, .* --learning_rate_g=0.5"),
        ],
    )
    def test_another_setting_is_refused_by_its_flag(self, two, tmp_path, group, change, message):
        fill(two, 1)
        checkpoints(tmp_path, two).save(7)
        fill(two, 2)
        before = bits(two)
        other = dataclasses.replace(CONFIG, **{group: dataclasses.replace(getattr(CONFIG, group), **change)})
        with pytest.raises(CheckpointError, match=f"step_00000007 was trained with {message}"):
            checkpoints(tmp_path, two, other).restore()
        assert bits(two) == before

    def test_the_length_of_a_schedule_is_a_setting(self, two, tmp_path):
        linear = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(learning_rate_schedule="linear"))
        checkpoints(tmp_path, two, linear).save(7)
        longer = dataclasses.replace(linear, train=TrainConfig(steps=5000))
        with pytest.raises(CheckpointError, match="--steps=4000, this run asks for --steps=5000"):
            checkpoints(tmp_path, two, longer).restore()

    def test_another_network_is_refused_by_its_tensor(self, two, tmp_path):
        """Even where the configurations agree, as after a change of the code."""
        checkpoints(tmp_path, two).save(7)
        wider = build(2, width=3)
        before = bits(wider)
        with pytest.raises(
            CheckpointError, match=r"step_00000007 does not fit: .* has shape \(\d+,\) there and \(\d+,\)"
        ):
            checkpoints(tmp_path, wider).restore()
        assert bits(wider) == before

    def test_workers_that_see_other_folders(self, two, tmp_path):
        class Board(MessageBoard):
            def exchange(self, topic, text, timeout_seconds=0.0):
                return [text, "nothing"]

        checkpoints(tmp_path, two).save(7)
        with pytest.raises(CheckpointError, match=r"\['step_00000007', 'nothing'\]. It must be shared"):
            checkpoints(tmp_path, two, board=Board(0, 2)).restore()


class TestOtherNumberOfReplicas:
    @pytest.mark.parametrize("replicas", [1, 3])
    def test_the_mean_over_replicas_is_conserved(self, two, tmp_path, replicas):
        """The virtual iterate w - (1/M) sum_m e^m and the mean half step go on where they were."""
        fill(two, 1)
        for calls, variable in zip((3, 5), two[1].channel.calls.variables, strict=True):
            variable.assign(calls)
        means = mean_state(two)
        saved = bits(two)
        checkpoints(tmp_path, two).save(7)
        other = build(replicas)
        fill(other, 2)
        assert checkpoints(tmp_path, other).restore() == (7, 2)
        after = bits(other)
        for name in saved:
            if name in other[1].replica_state():
                assert len(set(after[name])) == 1 and len(after[name]) == replicas, name
            else:
                assert after[name] == [saved[name][0]] * replicas, name
        for name, mean in mean_state(other).items():
            # Tolerance: the mean of two float32 of magnitude up to 4, rounded to float32 once.
            np.testing.assert_allclose(mean, means[name], atol=3e-7, err_msg=name)
        # Every replica continues beyond all old streams of stochastic rounding.
        assert {int(v.numpy()) for v in other[1].channel.calls.variables} == {5}


def mean_state(built):
    """The mean over replicas of each of their float vectors, in float64."""
    vectors = {
        name: [variable.numpy() for variable in state.variables]
        for name, state in built[1].replica_state().items()
        if state.variables[0].dtype == tf.float32
    }
    return {name: np.mean(values, 0, np.float64) for name, values in vectors.items()}
