"""The figures of the steps: by hand on numbers, and on a real game against what its state says."""

import math
import types

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.config import CompressionConfig, OptimizerConfig
from dqgan_tf.distribute.channel import ENERGIES
from dqgan_tf.distribute.pipeline import TIMES
from dqgan_tf.distribute.replica_local import ReplicaLocal, local_replica_index
from dqgan_tf.gan.step_metrics import StepMetrics
from tests.gan import tiny_gan
from tests.gan.local_strategy import local_strategy

VECTORS = ("generator.1", "generator", "discriminator")
REPLICAS = 2
# Two steps of two replicas: losses, penalty and logits; squared gradients of both players; (|p|^2, |e|^2, |error|^2,
# |s|^2) of the vectors; seconds of compute, encode, exchange, decode and reduction.
SCALARS = [[(1, 2, 0.5, 3, -1), (3, 6, 1.5, 5, -3)], [(5, 0, 0.5, 1, 1), (7, 4, 1.5, 3, 3)]]
GRADIENTS = [[(16, 1), (4, 9)], [(8, 3), (8, 3)]]
STEP_ENERGIES = [
    [[(4, 1, 0.5, 1), (12, 3, 1.5, 2), (25, 9, 5, 1)], [(8, 5, 1.5, 0), (8, 7, 4.5, 3), (75, 7, 15, 2)]],
    [[(16, 16, 1, 0), (16, 0, 1, 1), (30, 1, 1, 4)], [(0, 0, 0, 1), (64, 32, 6, 0), (70, 3, 19, 1)]],
]
SECONDS = [[(0.5, 0.125, 0.25, 0.0625, 0.375)] * 2, [(1.5, 0.375, 0.75, 0.1875, 1.125)] * 2]


class Steps:
    """The metrics of two replicas whose channel holds what is written into it."""

    def __init__(self, strategy):
        self.strategy, devices = strategy, strategy.local_devices
        self.channel = types.SimpleNamespace(
            energies=ReplicaLocal(devices, [len(VECTORS), len(ENERGIES)], "energies"),
            seconds=ReplicaLocal(devices, [len(TIMES)], "seconds", tf.float64),
        )
        self.metrics = StepMetrics(devices, VECTORS)
        self._add = tf.function(lambda *rows: strategy.run(self._add_on_replica, args=rows), autograph=False)
        self._drain = tf.function(lambda: strategy.run(self.metrics.drain), autograph=False)

    def add(self, step):
        for replica in range(REPLICAS):
            self.channel.energies.variables[replica].assign(STEP_ENERGIES[step][replica])
            self.channel.seconds.variables[replica].assign(SECONDS[step][replica][1:])
        rows = (SCALARS[step], GRADIENTS[step], SECONDS[step])
        self._add(*(tf.constant(row, tf.float64) for row in rows))

    def drained(self):
        """Returns every replica's sums."""
        return [value.numpy() for value in self.strategy.experimental_local_results(self._drain())]

    def figures(self):
        return self.metrics.figures(np.mean(self.drained(), 0), 250, 4000)

    def _add_on_replica(self, scalars, gradients, seconds):
        replica = local_replica_index()
        names = ("generator_loss", "discriminator_loss", "penalty", "real_logit", "fake_logit")
        own = tf.unstack(tf.cast(scalars[replica], tf.float32))
        evaluation = types.SimpleNamespace(**dict(zip(names, own, strict=True)))
        energies = tf.unstack(tf.cast(gradients[replica], tf.float32))
        proposals = [types.SimpleNamespace(gradient_energy=energy) for energy in energies]
        self.metrics.add(evaluation, proposals, [self.channel], seconds[replica][0])


class TestByHand:
    @pytest.fixture(scope="class")
    @classmethod
    def steps(cls):
        return Steps(local_strategy(REPLICAS))

    @pytest.fixture(scope="class")
    @classmethod
    def figures(cls, steps):
        """Of both steps."""
        steps.add(0)
        steps.add(1)
        return steps.figures()

    def test_losses_and_logits_are_means_over_steps_and_replicas(self, figures):
        names = ("generator_loss", "discriminator_loss", "penalty", "real_logit", "fake_logit")
        assert [figures[name] for name in names] == [4, 3, 1, 3, 0]

    def test_milliseconds_are_means_over_steps(self, figures):
        names = ("compute", "encode", "exchange", "decode", "reduction")
        assert [figures[f"milliseconds/{name}"] for name in names] == [1000, 250, 500, 125, 750]

    def test_hidden_is_what_the_phases_exceed_the_reduction_by(self, figures):
        """250 + 500 + 125 - 750."""
        assert figures["milliseconds/hidden"] == 125

    def test_norms_are_of_mean_energies(self, figures):
        """|g|^2: (16 + 4 + 8 + 8) / 4 and (1 + 9 + 3 + 3) / 4. |p|^2, of both vectors of the generator: (16 + 16 + 32 +
        64) / 4 = 32; of the discriminator (25 + 75 + 30 + 70) / 4 = 50."""
        assert figures["gradient_norm/generator"] == 3 and figures["gradient_norm/discriminator"] == 2
        assert figures["update_norm/generator"] == pytest.approx(32**0.5)
        assert figures["update_norm/discriminator"] == pytest.approx(50**0.5)

    def test_residual_ratio_is_e_over_p(self, figures):
        """|e|^2: (4 + 12 + 16 + 32) / 4 = 16 of 32; (9 + 7 + 1 + 3) / 4 = 5 of 50."""
        assert figures["residual_ratio/generator"] == pytest.approx(0.5**0.5)
        assert figures["residual_ratio/discriminator"] == pytest.approx(0.1**0.5)

    def test_shift_ratio_is_s_over_p(self, figures):
        """|s|^2: (3 + 3 + 1 + 1) / 4 = 2 of 32; (1 + 2 + 4 + 1) / 4 = 2 of 50."""
        assert figures["shift_ratio/generator"] == pytest.approx(0.25)
        assert figures["shift_ratio/discriminator"] == pytest.approx(0.2)

    def test_compression_error_is_a_share_of_the_energy(self, figures):
        """(2 + 6 + 2 + 6) / 4 = 4 of 32; (5 + 15 + 1 + 19) / 4 = 10 of 50."""
        assert figures["compression_error/generator"] == 1 / 8
        assert figures["compression_error/discriminator"] == pytest.approx(1 / 5)

    def test_bytes_are_the_channels(self, figures):
        assert figures["wire_bytes"] == 250 and figures["compression_ratio"] == 16

    def test_drain_resets(self, steps, figures):
        del figures
        steps.drained()
        assert not np.any(steps.drained())
        steps.add(1)
        assert steps.figures()["generator_loss"] == 6

    def test_every_replica_has_sums_of_its_own(self, steps):
        steps.drained()
        steps.add(0)
        first, second = steps.drained()
        assert first[:3].tolist() == [1, 1, 2] and second[:3].tolist() == [1, 3, 6]

    def test_no_step_has_no_figures(self, steps):
        steps.drained()
        figures = steps.figures()
        names = "generator_loss", "update_norm/generator", "residual_ratio/generator", "milliseconds/encode"
        assert all(math.isnan(figures[name]) for name in names)


class TestGame:
    """Two replicas, two vectors a player, one step at a time: energies follow from residuals and directions."""

    RATES = {"generator": 0.2, "discriminator": 0.1}
    STEPS, NAN_STEP = 3, 1

    @pytest.fixture(scope="class")
    @classmethod
    def game(cls):
        """(figures of all accepted steps together, figures of each accepted step, its energies by player)."""
        strategy = local_strategy(REPLICAS)
        rates = {f"learning_rate_{player[0]}": rate for player, rate in cls.RATES.items()}
        optimizer = OptimizerConfig(direction="sgd", **rates)
        compression = CompressionConfig(compressor="sign:bucket=32", compressor_rules="bias=linear:bits=2,bucket=32")
        model = tiny_gan.build(strategy, optimizer, compression)
        assert len(model.channel.vectors) == 4
        batches = tiny_gan.real_batches(cls.STEPS)[:, :REPLICAS]
        batches[cls.NAN_STEP, 1, 0, 0] = np.nan
        start = model.shared_values(), [model.replica_values(m) for m in range(REPLICAS)]
        each, energies = [], []
        iterator = tiny_gan.distributed_iterator(strategy, batches)
        for step in range(cls.STEPS):
            before = tiny_gan.replica_state(model, "residual")
            model.train_steps(iterator, 1)
            figures = model.drain_metrics()
            if step != cls.NAN_STEP:
                each.append(figures)
                energies.append(cls.energies(model, before))
        model.set_shared_values(start[0])
        for replica, values in enumerate(start[1]):
            model.set_replica_values(replica, values)
        model.train_steps(tiny_gan.distributed_iterator(strategy, batches), cls.STEPS)
        return model.drain_metrics(), each, energies, model.drain_metrics()

    @classmethod
    def energies(cls, model, before):
        """{player: mean over replicas of (|g|^2, |p|^2, |e|^2, |error|^2)}; u is g, the error is the new residual."""
        gradient, after = (tiny_gan.replica_state(model, kind) for kind in ("previous_direction", "residual"))
        named, start = {}, 0
        for player, size in tiny_gan.SIZES:
            g, e, new = (x[:, start : start + size] for x in (gradient, before, after))
            start += size
            squares = [np.sum(x**2, 1) for x in (g, cls.RATES[player] * g + e, e, new)]
            named[player] = np.mean(squares, 1)
        return named

    @pytest.mark.parametrize("player", ["generator", "discriminator"])
    def test_energies_are_those_of_the_state(self, game, player):
        together, each, energies, _ = game
        for figures, by_player in [*zip(each, energies, strict=True), (together, self.mean(energies))]:
            gradient, update, residual, error = by_player[player]
            # float32 sums of squares of some forty values, and residuals that are differences.
            assert figures[f"gradient_norm/{player}"] == pytest.approx(gradient**0.5, rel=1e-5)
            assert figures[f"update_norm/{player}"] == pytest.approx(update**0.5, rel=1e-5)
            assert figures[f"residual_ratio/{player}"] == pytest.approx((residual / update) ** 0.5, rel=1e-5)
            assert figures[f"compression_error/{player}"] == pytest.approx(error / update, rel=1e-4)
        assert 0.01 < together[f"residual_ratio/{player}"] < 10 and 0.01 < together[f"compression_error/{player}"] < 1

    @staticmethod
    def mean(energies):
        return {player: np.mean([one[player] for one in energies], 0) for player in energies[0]}

    @pytest.mark.parametrize("name", ["generator_loss", "discriminator_loss", "penalty", "real_logit", "fake_logit"])
    def test_figures_of_several_steps_are_the_means_of_the_accepted_ones(self, game, name):
        together, each, _, _ = game
        assert each[0][name] != each[1][name]
        assert together[name] == pytest.approx(np.mean([figures[name] for figures in each]), rel=1e-5, abs=1e-6)

    def test_a_second_look_finds_nothing(self, game):
        *_, empty = game
        names = "generator_loss", "gradient_norm/generator", "milliseconds/encode"
        assert all(math.isnan(empty[name]) for name in names)
