"""float32 arithmetic on rows of values: bit patterns, exact multipliers, and reductions that vectorise.

Read as an integer, the bit pattern of |x| orders all float32 as their values do, inf above every finite value and NaN
above inf. A maximum of patterns is therefore exact in any order and keeps a NaN, which a maximum of floats may drop.

A reduction of a row has two stages: over groups of 32 lanes, which is vectorised, then over the 32 lanes. XLA for CPU
reduces the last axis one value at a time (measured: 2 GB/s, against 10 for a middle axis). XLA also merges two adjacent
reductions into one; the operation between the two stages prevents it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dqgan_tf.compressors.packing import LANE
from dqgan_tf.lazy_tensorflow import tf

INFINITY_BITS = 0x7F800000
NAN_BITS = 0x7FC00000
FLT_MAX = np.finfo(np.float32).max
TINY = 2.0**-100
"""A bucket with a smaller maximum decodes to zeros, because its squares and steps would be subnormal."""

LARGEST_SCALE = 1e30
"""Scales from here on make all replicas skip the step, like infinity: a sum over replicas must not overflow."""

_COUNT_WIDTH = 512


def magnitude_bits(x: tf.Tensor) -> tf.Tensor:
    """Returns the int32 bit pattern of |x|."""
    return tf.bitwise.bitwise_and(tf.bitcast(x, tf.int32), 0x7FFFFFFF)


def is_finite(magnitude_bits: tf.Tensor) -> tf.Tensor:
    """Returns bool: neither inf nor NaN."""
    return magnitude_bits < INFINITY_BITS


def are_bounded(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns whether all values are finite and below `LARGEST_SCALE` in magnitude, bool scalar."""
    return tf.reduce_all(tf.stack([tf.reduce_all(tf.abs(tensor) < LARGEST_SCALE) for tensor in tensors]))


def nan_unless(finite: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Returns `value` where `finite`, else NaN."""
    return tf.where(finite, value, tf.bitcast(tf.constant(NAN_BITS, tf.int32), tf.float32))


def optimization_barrier(x: tf.Tensor, top: tf.Tensor) -> tf.Tensor:
    """Returns x, bit for bit. XLA computes it once instead of again at every use.

    XLA recomputes cheap operations in every loop that uses their result, e.g. the scale of a bucket for every 8 values.
    XLA does not recompute a division, so this function divides by 1. XLA cannot remove the division, because it does
    not know that `top` is never negative.

    Args:
      x: float32 [rows].
      top: int32 [rows], the bits of each row's maximum.
    """
    return x / tf.where(top < 0, 2.0, 1.0)


def inverse_or_zero(x: tf.Tensor) -> tf.Tensor:
    """Returns 1 / x where x > 0, else 0."""
    return 1.0 / tf.where(x > 0.0, x, np.float32(np.inf))


def round_up(x: tf.Tensor, dropped_bits: int) -> tf.Tensor:
    """Returns the smallest float32 >= x, x >= 0, whose `dropped_bits` lowest significand bits are zero."""
    mask = (1 << dropped_bits) - 1
    bits = tf.bitwise.bitwise_and(tf.bitcast(x, tf.int32) + mask, ~mask)
    return tf.bitcast(bits, tf.float32)


def row_max(rows: tf.Tensor) -> tf.Tensor:
    """Returns int32 [rows], the maximum of each row of non-negative int32 [rows, width], width a multiple of 32."""
    lanes = tf.bitcast(tf.reduce_max(_split_lanes(rows), axis=1), tf.uint32)
    return tf.bitcast(tf.reduce_max(lanes, axis=1), tf.int32)


def row_sum(rows: tf.Tensor) -> tf.Tensor:
    """Returns float32 [rows], the sum of each row of float32 [rows, width], width a multiple of 32."""
    return tf.reduce_sum(_add_halves(tf.reduce_sum(_split_lanes(rows), axis=1)), axis=1)


def row_norm(rows: tf.Tensor, top: tf.Tensor) -> tf.Tensor:
    """Returns float32 [rows], the 2-norm of each row; inf only if the norm itself exceeds FLT_MAX.

    Squares of values above 2^64 overflow, so each row is divided by the power of two of its maximum first.

    Args:
      rows: float32 [rows, width], width a multiple of 32.
      top: int32 [rows], the bits of each row's maximum.
    """
    exponent = tf.clip_by_value(tf.bitwise.right_shift(top, 23), 1, 252)
    power, inverse = (tf.bitcast(tf.bitwise.left_shift(e, 23), tf.float32) for e in (exponent, 254 - exponent))
    return tf.sqrt(row_sum(tf.square(rows * inverse[:, None]))) * power


def sum_of_squares(vector: tf.Tensor) -> tf.Tensor:
    """Returns ||vector||^2, a float32 scalar, of float32 [n]; partial sums of 32 squares are added in float64."""
    width = LANE * 16
    whole = vector.shape[0] // width * width
    rows = tf.reshape(tf.square(vector[:whole]), [whole // width, width])
    lanes = _add_halves(tf.reduce_sum(_split_lanes(rows), axis=1))
    rest = tf.reduce_sum(tf.cast(tf.square(vector[whole:]), tf.float64))
    return tf.cast(tf.reduce_sum(tf.cast(lanes, tf.float64)) + rest, tf.float32)


def count_true(flags: tf.Tensor) -> tf.Tensor:
    """Returns the int32 number of true values of bool [n]."""
    whole = flags.shape[0] // _COUNT_WIDTH * _COUNT_WIDTH
    lanes = tf.reduce_sum(tf.cast(tf.reshape(flags[:whole], [-1, _COUNT_WIDTH]), tf.int32), axis=0)
    rest = tf.reduce_sum(tf.cast(flags[whole:], tf.int32))
    return tf.reduce_sum(lanes[: _COUNT_WIDTH // 2] + lanes[_COUNT_WIDTH // 2 :]) + rest


def _split_lanes(rows):
    count, width = rows.shape
    return tf.reshape(rows, [count, width // LANE, LANE])


def _add_halves(lanes):
    return lanes[:, : LANE // 2] + lanes[:, LANE // 2 :]
