"""Theorem, on the real system: few bits reach the float32 figure on a bilinear game, and no ablation does.

min_x max_y x'Ay as a GAN: G(z) = x, D(v) = v'Ay, the generator minimises E D(G), the discriminator -E D(G), so that
F = (A y, -A' x). Two replicas; game, start and eta of tests/oracles/test_oracles.py, eta doubled, half the steps.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.config import CompressionConfig, OptimizerConfig
from dqgan_tf.gan import losses
from dqgan_tf.gan.model import DQGAN
from tests.gan import tiny_gan
from tests.gan.local_strategy import local_strategy
from tests.oracles import dqgan_numpy as oracle
from tests.oracles import games, quantizers_numpy

D, REPLICAS, ETA, STEPS = 20, 2, 0.2, 1500
MATRIX = games.gaussian_matrix(D, seed=1)
START = np.random.default_rng(101).standard_normal(2 * D).astype(np.float32)
TOP_1 = "topk:fraction=0.05"
QUANTIZERS = {"none": quantizers_numpy.identity, "sign": quantizers_numpy.sign(), TOP_1: quantizers_numpy.top_k(1)}
BLOWN_UP = 1e4


class Weight(keras.layers.Layer):
    """Returns the player's strategy, a weight [d], once per sample; or D(v) = v' A weight."""

    def __init__(self, start, matrix=None):
        super().__init__()
        self.start, self.matrix = start, matrix

    def build(self, shape):
        self.strategy = self.add_weight(shape=(D,), initializer=lambda shape, dtype: tf.constant(self.start, dtype))

    def call(self, inputs):
        if self.matrix is None:
            return tf.ones_like(inputs[:, :1]) * self.strategy
        return tf.linalg.matvec(inputs, tf.linalg.matvec(tf.constant(self.matrix, tf.float32), self.strategy))[:, None]


ZERO_SUM = losses.Loss(
    "bilinear",
    generator=tf.reduce_mean,
    discriminator=lambda real, fake: -tf.reduce_mean(fake),
    penalty=losses.no_penalty,
)


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(REPLICAS)


def final_norm(strategy, compressor, half_step="own", **compression):
    """||w|| after `STEPS` steps of the real system; inf once it exceeds `BLOWN_UP`."""
    with strategy.scope():
        generator = keras.Sequential([keras.Input((1,)), Weight(START[:D])])
        discriminator = keras.Sequential([keras.Input((D,)), Weight(START[D:], MATRIX)])
        model = DQGAN(generator, discriminator, loss=ZERO_SUM)
    optimizer = OptimizerConfig(direction="sgd", learning_rate_g=ETA, learning_rate_d=ETA, half_step=half_step)
    model.compile(optimizer, CompressionConfig(compressor=compressor, **compression))
    data = tf.data.Dataset.from_tensors(np.zeros((1, D), np.float32)).repeat()
    iterator = iter(strategy.distribute_datasets_from_function(lambda _: data))
    for _ in range(3):
        model.train_steps(iterator, STEPS // 3)
        norm = np.linalg.norm(tiny_gan.weights(model)[0])
        if not norm < BLOWN_UP:
            return np.inf
    return norm


def oracle_norm(compressor):
    """The same by the float64 simulator: workers agree, so that one stands for all."""
    quantizer = quantizers_numpy.for_all_players(QUANTIZERS[compressor])
    settings = oracle.Settings(oracle.players(("x", D), ("y", D)), np.full(2 * D, ETA), quantizer)
    for state in oracle.run(games.bilinear(MATRIX), START, 1, settings, STEPS):
        norm = np.linalg.norm(state.w)
    return norm


@pytest.mark.slow  # the next test compares few bits with the same figure
def test_float32_reaches_the_oracle_figure(strategy):
    dense = final_norm(strategy, "none")
    assert dense == pytest.approx(oracle_norm("none"), rel=1e-3)
    assert dense < 0.4 * np.linalg.norm(START)


@pytest.mark.slow
@pytest.mark.parametrize("compressor", ["sign", TOP_1])
def test_few_bits_reach_the_float32_figure(strategy, compressor):
    assert final_norm(strategy, compressor) == pytest.approx(oracle_norm("none"), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("compressor", ["sign", TOP_1])
def test_ablations_do_not(strategy, compressor):
    dense = oracle_norm("none")
    assert final_norm(strategy, compressor, residual_in_half_step=False) == np.inf
    assert final_norm(strategy, compressor, error_feedback=False) > 1.2 * dense
    assert final_norm(strategy, compressor, half_step="none") == np.inf
