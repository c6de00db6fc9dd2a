"""Two-stage reductions and float bit patterns."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import float_bits, reductions


@pytest.mark.parametrize("width", [32, 96, 512])
@pytest.mark.parametrize("jit", [False, True])
def test_rows(width, jit):
    x = np.random.default_rng(0).standard_normal((5, width)).astype(np.float32)
    maximum = tf.function(lambda v: reductions.row_max(float_bits.magnitude(v)), jit_compile=jit)(x)
    np.testing.assert_array_equal(maximum.numpy().view(np.float32), np.abs(x).max(axis=1))
    total = tf.function(reductions.row_sum, jit_compile=jit)(x)
    np.testing.assert_allclose(total, x.astype(np.float64).sum(axis=1), atol=width * 2.0**-22)


@pytest.mark.parametrize("special", [np.nan, -np.nan, np.inf, -np.inf])
def test_row_max_never_loses_a_special_value(special):
    x = np.full((2, 64), np.finfo(np.float32).max)
    x[1, 40] = special
    top = tf.function(lambda v: reductions.row_max(float_bits.magnitude(v)), jit_compile=True)(x.astype(np.float32))
    assert float_bits.is_finite(top).numpy().tolist() == [True, False]


@pytest.mark.parametrize("n", [1, 511, 512, 5000, 1_000_001])
def test_sum_of_squares(n):
    x = (1 + np.random.default_rng(0).random(n)).astype(np.float32)
    value = tf.function(reductions.sum_of_squares, jit_compile=True)(x)
    # 32 float32 additions at most, then float64: 32 * 2^-24.
    np.testing.assert_allclose(value, np.sum(x.astype(np.float64) ** 2), rtol=2e-6)


def test_round_up_by_hand():
    x = np.array([0.0, 1.0, 1.0 + 2.0**-23, 1.5 + 2.0**-22], np.float32)
    np.testing.assert_array_equal(float_bits.round_up(tf.constant(x), 3), [0.0, 1.0, 1.0 + 2.0**-20, 1.5 + 2.0**-20])
