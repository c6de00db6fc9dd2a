"""Levels 0 and +-S 2^-i, i = 0 .. K-1, K = 2^(bits-1) - 1: a sign and an exponent, by integer arithmetic.

For r = |x| / S in [0, 1] and a share u in [0, 1), adding u 2^23 to the bits of r carries into the exponent exactly when
the significand's fraction exceeds 1 - u: with a uniform u that is unbiased rounding between two powers of two, with
u = 1/2 rounding to the nearest. Below the lowest level s = 2^-(K-1), r becomes s where r > u s, else 0.

Squared error, relative to the value's square: unbiased (x - a)(2a - x) / x^2 <= 1/8, at x = 4a/3; nearest at most 1/9,
at x = 3a/2. Below the lowest level it is at most (s S)^2 / 4.
"""

import tensorflow as tf

from dqgan_tf.compressors import float_bits, hash_random, uniform_levels

UNBIASED_LOSS, NEAREST_LOSS = 1.0 / 8.0, 1.0 / 9.0
_ONE_BITS = 127 << 23
HALF = 1 << 22
"""The share of rounding to the nearest."""


def check_bits(bits) -> None:
    """Raises ValueError unless `bits` is 3 to 8."""
    if type(bits) is not int or not 3 <= bits <= 8:
        raise ValueError(f"`bits` must be 3 to 8. Received: bits={bits}")


def lowest_loss(bits: int, count: int) -> float:
    """Returns the largest squared error, in units of S^2, of `count` values below the lowest level."""
    return count * 4.0 ** -(uniform_levels.top_level(bits) - 1) / 4.0


def uniform_share(shape, seed: tf.Tensor) -> tf.Tensor:
    """Returns int32 [rows, width] u 2^23: one uniform number for every value."""
    return hash_random.bits(uniform_levels.positions(shape), seed, 23)


def codes(rows: tf.Tensor, scales: tf.Tensor, bits: int, share) -> tf.Tensor:
    """Returns int32 [rows, width] codes: the level's number, 0 for zero to K for S, and the sign in the bit above.

    Args:
      rows: float32 [rows, width], |x| <= S.
      scales: float32 [rows], S >= 0.
      bits: 3 to 8.
      share: u 2^23, int32 [rows, width] or a scalar.
    """
    top = uniform_levels.top_level(bits)
    ratio = tf.minimum(float_bits.magnitude(_ratio(rows, scales)), _ONE_BITS)
    carried = tf.bitwise.right_shift(ratio + share, 23) - (127 - top)
    lowest = tf.cast(tf.bitcast(ratio, tf.float32) > tf.cast(share, tf.float32) * 2.0**-23 * 2.0 ** (1 - top), tf.int32)
    level = tf.where(ratio < (128 - top) << 23, lowest, carried)
    sign = tf.bitwise.bitwise_and(tf.bitwise.right_shift(tf.bitcast(rows, tf.int32), 32 - bits), 1 << (bits - 1))
    return tf.bitwise.bitwise_or(level, sign)


def values(codes: tf.Tensor, scales: tf.Tensor, bits: int) -> tf.Tensor:
    """Returns float32 [rows, width] of `codes`: S with a smaller exponent, 0 where none is left, NaN where S is."""
    top, scale = uniform_levels.top_level(bits), tf.bitcast(scales, tf.int32)[:, None]
    level = tf.bitwise.bitwise_and(codes, top)
    lowered = scale - tf.bitwise.left_shift(top - level, 23)
    magnitude = tf.where((level > 0) & (lowered >= 1 << 23), lowered, 0)
    magnitude = tf.where(float_bits.is_finite(scale), magnitude, float_bits.NAN_BITS)
    sign = tf.bitwise.left_shift(tf.bitwise.right_shift(codes, bits - 1), 31)
    return tf.bitcast(tf.bitwise.bitwise_or(magnitude, sign), tf.float32)


def _ratio(rows, scales):
    """Returns x / S, by the inverse, which must not be subnormal; 0 in rows without a scale."""
    shrink = 1.0 / tf.where(scales > 1.0, 16.0, 1.0)
    return rows * shrink[:, None] * float_bits.inverse(scales * shrink)[:, None]
