"""Bit tricks that must not change a bit."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import float_bits

FLT_MAX = np.finfo(np.float32).max
VALUES = np.array([0.0, 1.0, 0.1, -2.5, 2.0**-100, FLT_MAX, -np.inf, np.nan], np.float32)


@pytest.mark.parametrize("jit", [False, True])
def test_once_is_the_same_number(jit):
    tops = tf.constant([0, 1, 5, 7, 0x7F800000, 0x7FFFFFFF, 2, 3])
    same = tf.function(float_bits.once, jit_compile=jit)(tf.constant(VALUES), tops)
    np.testing.assert_array_equal(same.numpy().view(np.int32), VALUES.view(np.int32))


@pytest.mark.parametrize("jit", [False, True])
def test_inverse(jit):
    inverse = tf.function(float_bits.inverse, jit_compile=jit)(tf.constant([0.0, 4.0, -1.0, np.nan, 3.0, np.inf]))
    np.testing.assert_array_equal(inverse, np.array([0.0, 0.25, 0.0, 0.0, 1.0 / 3.0, 0.0], np.float32))
