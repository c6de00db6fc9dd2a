"""float32 by its bits: an absolute maximum that never loses NaN, and a step that multiplies exactly.

The bit pattern of |x|, read as an integer, orders all float32 as their values do, with inf above every finite value
and NaN above inf. A maximum over it is exact, independent of order, and cannot drop a NaN as a float maximum may.
"""

import numpy as np
import tensorflow as tf

INFINITY_BITS = 0x7F800000
NAN_BITS = 0x7FC00000
TINY = 2.0**-100
"""Buckets whose largest absolute value is below decode to zeros: their squares and steps would be subnormal."""


def magnitude(x: tf.Tensor) -> tf.Tensor:
    """Returns the int32 bit pattern of |x|."""
    return tf.bitwise.bitwise_and(tf.bitcast(x, tf.int32), 0x7FFFFFFF)


def is_finite(magnitude_bits: tf.Tensor) -> tf.Tensor:
    """Returns bool: neither inf nor NaN."""
    return magnitude_bits < INFINITY_BITS


def poison(finite: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Returns `value` where `finite`, else NaN."""
    return tf.where(finite, value, tf.bitcast(tf.constant(NAN_BITS, tf.int32), tf.float32))


def once(x: tf.Tensor, top: tf.Tensor) -> tf.Tensor:
    """Returns x, exactly: divided by one, which XLA neither knows nor, since it is a division, computes per use.

    Without it what follows from a bucket's maximum is computed again for every eight values of the bucket.

    Args:
      x: float32 [rows].
      top: int32 [rows], bits of magnitudes, never negative.
    """
    return x / tf.where(top < 0, 2.0, 1.0)


def inverse(x: tf.Tensor) -> tf.Tensor:
    """Returns 1 / x where x > 0, else 0."""
    return 1.0 / tf.where(x > 0.0, x, np.float32(np.inf))


def round_up(x: tf.Tensor, dropped_bits: int) -> tf.Tensor:
    """Returns the smallest float32 >= x, x >= 0, whose `dropped_bits` lowest significand bits are zero."""
    mask = (1 << dropped_bits) - 1
    bits = tf.bitwise.bitwise_and(tf.bitcast(x, tf.int32) + mask, ~mask)
    return tf.bitcast(bits, tf.float32)
