"""By hand; identity: the mean of the half-step points is the look-ahead point of the virtual iterate."""

import numpy as np
import tensorflow as tf

from dqgan_tf import optimizers


def half_step_point(*arguments):
    return optimizers.half_step_point(*(tf.constant(argument, tf.float32) for argument in arguments)).numpy()


def test_by_hand():
    point = half_step_point([1.0, 2.0], [10.0, -10.0], [0.25, 0.5], 0.125)
    assert point.tolist() == [1 - (1.25 + 0.25), 2 - (-1.25 + 0.5)]


def test_the_start_is_the_weights_themselves():
    weights = np.random.default_rng(0).normal(size=9).astype(np.float32)
    zeros = np.zeros(9, np.float32)
    assert half_step_point(weights, zeros, zeros, 0.1).tolist() == weights.tolist()


def test_the_mean_over_workers_looks_ahead_from_the_virtual_iterate():
    """mean(w_half) = z - eta mean(u) with z = w - mean(e), the identity of docs/algorithm.md."""
    rng = np.random.default_rng(1)
    weights, directions, residuals = rng.normal(size=20), rng.normal(size=(4, 20)), rng.normal(size=(4, 20))
    float32 = [values.astype(np.float32) for values in (weights, directions, residuals)]
    points = [half_step_point(float32[0], u, e, 0.1) for u, e in zip(*float32[1:], strict=True)]
    virtual = weights - residuals.mean(0)
    # Values of order 1, rounded in float32 (6e-8) some four times.
    np.testing.assert_allclose(np.mean(points, 0), virtual - 0.1 * directions.mean(0), atol=1e-6)
