"""The estimate of spread and lag against the exact figures of vectors that are sampled."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.distribute import residual_sample

SIZES = [(64, 150), (150,), (3, 3, 16, 60), (7,), (1,), (40, 30)]  # 20,598 values


def tensors(values):
    ends = np.cumsum([np.prod(size) for size in SIZES])
    return [
        tf.constant(part.reshape(size), tf.float32)
        for part, size in zip(np.split(values, ends[:-1]), SIZES, strict=True)
    ]


@pytest.mark.parametrize("lag", [0.0, 2.0])
def test_of_many_values(lag):
    rng = np.random.default_rng(3)
    count = sum(int(np.prod(size)) for size in SIZES)
    residuals = lag * rng.standard_normal(count) + rng.standard_normal((4, count))
    samples = [residual_sample.sample([None, *tensors(e)]) for e in residuals]
    assert all(400 < sample.shape[0] < 700 for sample in samples)
    mean = tf.reduce_mean(tf.stack(samples), 0)
    square = tf.reduce_mean(tf.stack(samples) ** 2, 0)
    spread, lag_found = (float(value) for value in residual_sample.energies(mean, square))
    centre = residuals.mean(0)
    exact = np.mean(np.sum((residuals - centre) ** 2, 1)), np.sum(centre**2)
    assert (spread, lag_found) == (pytest.approx(exact[0], rel=0.15), pytest.approx(exact[1], rel=0.15))


def test_of_few_values_is_exact():
    residuals = np.random.default_rng(4).standard_normal((3, 500))
    samples = tf.stack([residual_sample.sample([tf.constant(e, tf.float32)]) for e in residuals])
    spread, lag = residual_sample.energies(tf.reduce_mean(samples, 0), tf.reduce_mean(samples**2, 0))
    centre = residuals.mean(0)
    assert float(spread) == pytest.approx(np.mean(np.sum((residuals - centre) ** 2, 1)), rel=1e-5)
    assert float(lag) == pytest.approx(np.sum(centre**2), rel=1e-5)


def test_without_residuals():
    empty = residual_sample.sample([None, None])
    assert empty.shape == [0] and [float(e) for e in residual_sample.energies(empty, empty)] == [0, 0]
