"""Bit tricks that must not change a bit."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import float_bits

FLT_MAX = np.finfo(np.float32).max
VALUES = np.array([0.0, 1.0, 0.1, -2.5, 2.0**-100, FLT_MAX, -np.inf, np.nan], np.float32)


@pytest.mark.parametrize("jit", [False, True])
def test_barrier_is_the_same_number(jit):
    tops = tf.constant([0, 1, 5, 7, 0x7F800000, 0x7FFFFFFF, 2, 3])
    same = tf.function(float_bits.optimization_barrier, jit_compile=jit, autograph=False)(tf.constant(VALUES), tops)
    np.testing.assert_array_equal(same.numpy().view(np.int32), VALUES.view(np.int32))


@pytest.mark.parametrize("jit", [False, True])
def test_inverse(jit):
    inverse = tf.function(float_bits.inverse_or_zero, jit_compile=jit, autograph=False)(
        tf.constant([0.0, 4.0, -1.0, np.nan, 3.0, np.inf])
    )
    np.testing.assert_array_equal(inverse, np.array([0.0, 0.25, 0.0, 0.0, 1.0 / 3.0, 0.0], np.float32))


# Reductions in two stages.


@pytest.mark.parametrize("width", [32, 96, 512])
@pytest.mark.parametrize("jit", [False, True])
def test_rows(width, jit):
    x = np.random.default_rng(0).standard_normal((5, width)).astype(np.float32)
    maximum = tf.function(lambda v: float_bits.row_max(float_bits.magnitude_bits(v)), jit_compile=jit, autograph=False)(
        x
    )
    np.testing.assert_array_equal(maximum.numpy().view(np.float32), np.abs(x).max(axis=1))
    total = tf.function(float_bits.row_sum, jit_compile=jit, autograph=False)(x)
    np.testing.assert_allclose(total, x.astype(np.float64).sum(axis=1), atol=width * 2.0**-22)


@pytest.mark.parametrize("special", [np.nan, -np.nan, np.inf, -np.inf])
def test_row_max_never_loses_a_special_value(special):
    x = np.full((2, 64), np.finfo(np.float32).max, np.float32)
    x[1, 40] = special
    top = tf.function(lambda v: float_bits.row_max(float_bits.magnitude_bits(v)), jit_compile=True, autograph=False)(
        x.astype(np.float32)
    )
    assert float_bits.is_finite(top).numpy().tolist() == [True, False]


@pytest.mark.parametrize("n", [1, 511, 512, 5000, 1_000_001])
def test_sum_of_squares(n):
    x = (1 + np.random.default_rng(0).random(n)).astype(np.float32)
    value = tf.function(float_bits.sum_of_squares, jit_compile=True, autograph=False)(x)
    # 32 float32 additions at most, then float64: 32 * 2^-24.
    np.testing.assert_allclose(value, np.sum(x.astype(np.float64) ** 2), rtol=2e-6)


def test_round_up_by_hand():
    x = np.array([0.0, 1.0, 1.0 + 2.0**-23, 1.5 + 2.0**-22], np.float32)
    np.testing.assert_array_equal(float_bits.round_up(tf.constant(x), 3), [0.0, 1.0, 1.0 + 2.0**-20, 1.5 + 2.0**-20])
