"""Checkpoints in one process: to the bit on the same replicas, by the mean on others, and of this run alone."""

import dataclasses
import pathlib
import types

import numpy as np
import pytest

from dqgan_tf.config import OptimizerConfig, TrainConfig
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.errors import CheckpointError, TrainingError
from dqgan_tf.training import checkpoint
from tests.gan import model_state
from tests.training.tiny_run import CONFIG, bits, build, checkpoints, fill, steps


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
        run = checkpoints(tmp_path, two)
        for step in (9, 100000000, 99999999):
            run.save(step)
        assert checkpoints(tmp_path, two).restore().step == 100000000

    def test_names_are_those_of_weights(self, two):
        """Of what belongs to a weight; the name of no other thing says how updates are cut."""
        model = two[1]
        weights = {name for name in model.shared_values() if name.split("/")[0] in ("generator", "discriminator")}
        by_kind = {}
        for name in [*model.replica_values(0), *model.shared_values()]:
            kind, _, rest = name.partition("/")
            by_kind.setdefault(kind if rest else "", set()).add(rest or kind)
        assert by_kind.pop("") == {"calls", "step", "skipped", "skipped_in_row"}
        trainable = by_kind["m"]
        assert trainable < weights and len(trainable) == sum(len(p.trainable_variables) for p in players(model))
        assert "generator/000_kernel" in trainable and "discriminator/000_kernel" in trainable
        for kind in ("m", "v", "averaged", "previous_direction", "residual", "shift", "mean_shift"):
            assert by_kind.pop(kind) == trainable, kind
        assert by_kind.pop("ema") == {name for name in trainable if name.startswith("generator/")}
        assert set(by_kind) == {"generator", "discriminator"}

    def test_every_name_has_the_shape_of_its_weight(self, two):
        shared = two[1].shared_values()
        for name, value in [*two[1].replica_values(1).items(), *shared.items()]:
            weight = shared.get(name.partition("/")[2])
            assert weight is None or weight.shape == value.shape, name

    def test_what_changes_no_weight_may_differ(self, two, tmp_path):
        """Values under another size of packets: tests/gan/test_cuts.py."""
        checkpoints(tmp_path / "here", two).save(1)
        (tmp_path / "here").rename(tmp_path / "there")
        train = TrainConfig(steps=9, steps_per_call=2, log_every=1, keep_checkpoints=1)
        compression = dataclasses.replace(CONFIG.compression, packet_mb=0.25, transport="ring")
        other = dataclasses.replace(CONFIG, train=train, compression=compression)
        assert checkpoints(tmp_path / "there", two, other).restore().step == 1


def players(model):
    return model.generator, model.discriminator


class TestPrune:
    def test_keeps_the_newest(self, two, tmp_path):
        run = checkpoints(tmp_path, two, keep=2)
        for step in (1, 2, 3, 10):
            run.save(step)
        assert steps(tmp_path) == [3, 10]
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_00000003", "step_00000010"]

    def test_killed_while_removing(self, two, tmp_path, monkeypatch):
        checkpoints(tmp_path, two).save(1)

        def die(folder):
            raise KeyboardInterrupt

        monkeypatch.setattr(checkpoint.shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            checkpoints(tmp_path, two, keep=1).save(2)
        assert steps(tmp_path) == [2]
        assert checkpoints(tmp_path, two).restore().step == 2

    def test_one_that_cannot_be_removed_is_no_failure(self, two, tmp_path, monkeypatch, caplog):
        """As while another program has a file open on NFS: the new one is complete, the old one does not count."""

        def busy(folder):
            raise OSError(39, "Directory not empty")

        run = checkpoints(tmp_path, two, keep=1)
        run.save(1)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.shutil, "rmtree", busy)
            run.save(2)
        assert steps(tmp_path) == [2] and "step_00000001 is not needed any more and cannot be removed" in caplog.text
        run.save(3)
        assert steps(tmp_path) == [3] and caplog.text.count("cannot be removed") == 1


class TestMemory:
    def test_a_worker_keeps_the_state_of_its_own_replicas(self, two, tmp_path):
        run = checkpoints(tmp_path, two)
        run.save(7)
        folder = checkpoint.newest(tmp_path / "checkpoints")
        commit = checkpoint.read_commit(folder)
        kept = {name.rpartition("/")[2] for name in run._read_replicas(folder, commit)}
        assert kept == {"0", "1"}
        run._strategy = types.SimpleNamespace(local_replica_ids=[1], num_replicas_in_sync=2)
        assert {name.rpartition("/")[2] for name in run._read_replicas(folder, commit)} == {"1"}
        run._strategy = types.SimpleNamespace(local_replica_ids=[0], num_replicas_in_sync=3)
        assert {name.rpartition("/")[2] for name in run._read_replicas(folder, commit)} == {"0", "1"}


class TestBest:
    NAME = "frechet_distance(resnet20,n=70)"

    def test_outlives_its_checkpoint_and_can_be_loaded(self, two, tmp_path):
        run = checkpoints(tmp_path, two, keep=1)
        fill(two, 1)
        saved = bits(two)
        run.save(7)
        run.keep_best(7, self.NAME, 3.5)
        fill(two, 2, 8)
        run.save(8)
        assert steps(tmp_path) == [8]
        best = run.best()
        assert (best.figure, best.value, best.folder.name) == (self.NAME, 3.5, "step_00000007")
        checkpoint.check_files(best.folder)
        checkpoint.restore_shared(best.folder, two[1])
        assert {name: bits(two)[name] for name in two[1].shared_values()} == {
            name: saved[name] for name in two[1].shared_values()
        }

    def test_one_is_kept(self, two, tmp_path):
        run = checkpoints(tmp_path, two, keep=1)
        for step, value in ((1, 3.0), (2, 2.0), (2, 1.0)):  # the last one in a run that was resumed
            run.save(step)
            run.keep_best(step, self.NAME, value)
        assert [path.name for path in (tmp_path / "checkpoints" / "best").iterdir()] == ["step_00000002"]
        assert run.best().value == 1.0

    def test_killed_before_the_old_one_is_removed(self, two, tmp_path, monkeypatch):
        """The evaluator takes the newest checkpoint first: the better one may be the older."""
        run = checkpoints(tmp_path, two)
        for step in (1, 2):
            run.save(step)
        run.keep_best(2, self.NAME, 3.0)
        monkeypatch.setattr(checkpoint, "_remove_old", lambda folder: None)
        run.keep_best(1, self.NAME, 2.0)
        assert len(list((tmp_path / "checkpoints" / "best").iterdir())) == 2
        assert (run.best().folder.name, run.best().value) == ("step_00000001", 2.0)

    def test_without_hard_links_files_are_copied(self, two, tmp_path, monkeypatch):
        def refuse(source, target):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(checkpoint.os, "link", refuse)
        run = checkpoints(tmp_path, two)
        run.save(1)
        run.keep_best(1, self.NAME, 3.0)
        checkpoint.check_files(run.best().folder)

    def test_that_of_another_run_does_not_count(self, two, tmp_path):
        run = checkpoints(tmp_path, two)
        assert run.best() is None
        run.save(1)
        run.keep_best(1, self.NAME, 3.0)
        other = checkpoints(tmp_path, two)
        other.save(2)
        assert other.best() is None and checkpoint.best(tmp_path / "checkpoints").value == 3.0

    def test_without_its_figure_there_is_none(self, two, tmp_path):
        run = checkpoints(tmp_path, two)
        run.save(1)
        run.keep_best(1, self.NAME, 3.0)
        (run.best().folder / "FIGURE").write_text("{")
        assert run.best() is None

    def test_a_checkpoint_that_is_removed_meanwhile(self, two, tmp_path):
        run = checkpoints(tmp_path, two)
        run.save(1)
        (tmp_path / "checkpoints" / "step_00000001" / "COMMIT").unlink()
        with pytest.raises(TrainingError, match="Worker 0 could not keep a checkpoint .* is no complete checkpoint"):
            run.keep_best(1, self.NAME, 3.0)
        assert run.best() is None

    @pytest.mark.parametrize(
        ("figure", "value", "expected"),
        [
            ("frechet_distance(resnet20,n=70)", 2.9, True),
            ("frechet_distance(resnet20,n=70)", 3.0, False),
            ("frechet_distance(resnet20,n=70)", 3.1, False),
            ("frechet_distance(resnet20,n=80)", 99.0, True),
        ],
    )
    def test_a_smaller_distance_is_better(self, figure, value, expected):
        so_far = checkpoint.Best(pathlib.Path("x"), "run", self.NAME, 3.0)
        assert checkpoint.is_better(so_far, figure, value) is expected
        assert checkpoint.is_better(None, figure, value)

    @pytest.mark.parametrize(("name", "smaller"), [("FID", True), ("mode_distance", True), ("recall(x,n=7)", False)])
    def test_other_figures(self, name, smaller):
        so_far = checkpoint.Best(pathlib.Path("x"), "run", name, 3.0)
        assert checkpoint.is_better(so_far, name, 2.0) is smaller
        assert checkpoint.is_better(so_far, name, 4.0) is not smaller


class TestOtherRuns:
    @pytest.mark.parametrize(
        ("group", "change", "message"),
        [
            ("network", {"width": 4}, "--width=2, this run asks for --width=4"),
            ("compression", {"compressor": "none"}, "--compressor=sign:bucket=32, this run asks for --compressor=none"),
            (
                "compression",
                {"error_feedback": False, "shift": 0.0},
                "--error_feedback=True, .* --error_feedback=False",
            ),
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

    def test_a_setting_that_is_younger_than_the_checkpoint_had_its_default(self):
        saved = dataclasses.asdict(CONFIG)
        del saved["data"]["shards"]
        checkpoint.check_config(pathlib.Path("step_00000007"), saved, CONFIG)
        other = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, shards="by_class"))
        with pytest.raises(CheckpointError, match="--shards=iid, this run asks for --shards=by_class"):
            checkpoint.check_config(pathlib.Path("step_00000007"), saved, other)

    def test_a_setting_that_an_older_version_did_not_have_had_its_default(self, tmp_path):
        saved = dataclasses.asdict(CONFIG)
        del saved["algorithm"], saved["optimizer"]["half_step"]
        checkpoint.check_config(tmp_path, saved, CONFIG)
        without = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(half_step="none"))
        with pytest.raises(CheckpointError, match="--half_step=own, this run asks for --half_step=none"):
            checkpoint.check_config(tmp_path, saved, without)

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
        with pytest.raises(CheckpointError, match=r"step_00000007 does not fit: .* has shape \(.*\) there and \(.*\)"):
            checkpoints(tmp_path, wider).restore()
        assert bits(wider) == before

    def test_workers_that_see_other_folders(self, two, tmp_path):
        class Board(MessageBoard):
            def exchange(self, topic, text, timeout_seconds=0.0):
                return [text, '["nothing", ""]' if topic == "resume from" else text]

        checkpoints(tmp_path, two).save(7)
        with pytest.raises(CheckpointError, match=r"\['step_00000007', 'nothing'\]. It must be shared"):
            checkpoints(tmp_path, two, board=Board(0, 2)).restore()

    def test_a_folder_that_one_worker_cannot_read(self, two, tmp_path, monkeypatch):
        """All workers hear of it at once, which otherwise would wait for this one in other exchanges."""

        class Board(MessageBoard):
            def exchange(self, topic, text, timeout_seconds=0.0):
                topics.append(topic)
                return [text, other if topic == "resume from" else text]

        def fail(folder):
            raise PermissionError(13, "Permission denied")

        topics, other = [], '["nothing", "Worker 1 cannot read there: stale"]'
        with pytest.raises(CheckpointError, match="^Worker 1 cannot read there: stale$"):
            checkpoints(tmp_path, two, board=Board(0, 2)).restore()
        other = '["nothing", ""]'
        monkeypatch.setattr(checkpoint, "newest", fail)
        with pytest.raises(CheckpointError, match="Worker 0 cannot read .*checkpoints: .*Permission denied"):
            checkpoints(tmp_path, two, board=Board(0, 2)).restore()
        assert topics == ["lock", "resume from"] * 2


class TestOtherNumberOfReplicas:
    @pytest.mark.parametrize("replicas", [1, 3])
    def test_the_mean_over_replicas_is_conserved(self, two, tmp_path, replicas):
        """The virtual iterate w - (1/M) sum_m e^m and the mean half step go on; so does sbar, the mean of s."""
        fill(two, 1)
        for replica, calls in enumerate((3, 5)):
            two[1].set_replica_values(replica, two[1].replica_values(replica) | {"calls": calls})
        means = mean_state(two)
        saved = bits(two)
        checkpoints(tmp_path, two).save(7)
        other = build(replicas)
        fill(other, 2)
        assert checkpoints(tmp_path, other).restore() == (7, 2)
        after = bits(other)
        for name in saved:
            if name in other[1].shared_values():
                assert after[name] == [saved[name][0]] * replicas, name
            else:
                assert len(set(after[name])) == 1 and len(after[name]) == replicas, name
        for name, mean in mean_state(other).items():
            # Tolerance: the mean of two float32 of magnitude up to 4, rounded to float32 once.
            np.testing.assert_allclose(mean, means[name], atol=3e-7, err_msg=name)
        # Every replica continues beyond all old streams of stochastic rounding.
        assert {int(v.numpy()) for v in other[1].channel.calls.variables} == {5}


def mean_state(built):
    """The mean over replicas of each of their float tensors, in float64."""
    named, shared = model_state.values(built[1]), model_state.shared(built[1])
    return {name: np.mean(row, 0, np.float64) for name, row in named.items() if name not in {*shared, "calls"}}
