"""State that overflows in float32 while the update stays finite: all replicas skip the step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.config import CompressionConfig, OptimizerConfig
from dqgan_tf.gan.model import DQGAN
from tests.gan import model_state
from tests.gan.local_strategy import local_strategy

REPLICAS, BATCH, LARGEST = 2, 4, float(np.finfo(np.float32).max)


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(REPLICAS)


def build(strategy, *layers, **optimizer):
    """A linear discriminator, logit = x_1 + x_2, whose gradient at real samples of very negative logits is -mean(x).

    `layers` come before it.
    """
    keras.utils.set_random_seed(8)
    with strategy.scope():
        generator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        discriminator = keras.Sequential([keras.Input((2,)), *layers, keras.layers.Dense(1, kernel_initializer="ones")])
        model = DQGAN(generator, discriminator)
    model.compile(OptimizerConfig(direction="adam", **optimizer), CompressionConfig(compressor="sign:bucket=32"))
    return model


def batches(values):
    """float32 [steps, replicas, batch, 2]: step t of replica 1 sees `values[t]`, the other one ordinary points."""
    data = np.random.default_rng(3).standard_normal((len(values), REPLICAS, BATCH, 2)).astype(np.float32)
    for step, value in enumerate(values):
        if value is not None:
            data[step, 1] = value
    return data.reshape(-1, BATCH, 2)


def served(strategy, values):
    data = batches(values)
    return iter(strategy.distribute_datasets_from_function(lambda _: tf.data.Dataset.from_tensor_slices(data)))


def state(model):
    """Every replica's weights, moments, previous directions and residuals by name, as float32 arrays."""
    named = {name: row for name, row in model_state.values(model).items() if "/" in name}
    return {(name, m): value for name, row in named.items() for m, value in enumerate(row)}


def assert_same_bits(one, other):
    assert [key for key in one if one[key].tobytes() != other[key].tobytes()] == []


def counts(variable):
    return [int(value.numpy()) for value in variable.value.values]


@pytest.mark.slow
def test_a_second_moment_that_overflows_on_one_replica_makes_all_skip(strategy):
    """At 2e20, g^2 is beyond float32 and v infinite, but m / sqrt(v) is 0: nothing else would tell."""
    model = build(strategy, second_moment="local")
    iterator = served(strategy, [None, -2e20, -1e18])
    model.train_steps(iterator, 1)
    before = state(model)
    assert any(name.startswith("v/") and np.any(values) for (name, _), values in before.items())

    model.train_steps(iterator, 1)
    assert counts(model.step) == [2] * REPLICAS
    assert counts(model.skipped) == [1] * REPLICAS
    assert_same_bits(state(model), before)

    model.train_steps(iterator, 1)  # large, but its square is a float32: no reason to skip
    assert counts(model.skipped) == [1] * REPLICAS
    after = state(model)
    assert all(np.all(np.isfinite(values)) for values in after.values())
    assert max(np.max(values) for (name, m), values in after.items() if name.startswith("v/discr") and m == 1) > 1e34
    changed = [np.any(after[key] != before[key]) for key in before if key[0].startswith(("v/", "generator/"))]
    assert all(changed) and len(changed) == REPLICAS * 6


@pytest.mark.slow
def test_an_average_that_overflows_makes_all_skip(strategy):
    """v = (1 - beta_2) g^2 is still finite where v / (1 - beta_2), which is averaged at the first step, is not."""
    gradient = 4e19
    assert 0.1 * gradient**2 < LARGEST < gradient**2 / REPLICAS
    model = build(strategy, second_moment="averaged", beta_2=0.9)
    before = state(model)
    model.train_steps(served(strategy, [-gradient]), 1)
    assert counts(model.skipped) == [1] * REPLICAS
    assert_same_bits(state(model), before)


@pytest.mark.slow  # the first test has a moment that overflows
def test_a_variance_that_overflows_makes_all_skip(strategy):
    """Batch normalisation divides by the infinite root: its outputs, the gradients and all updates are finite."""
    model = build(strategy, keras.layers.BatchNormalization(), second_moment="local")
    before = state(model)
    spread = 2e20 * np.array([[1, -1], [-1, 1], [2, 0], [-2, 0]])
    model.train_steps(served(strategy, [spread, None]), 1)
    assert counts(model.skipped) == [1] * REPLICAS
    assert_same_bits(state(model), before)
