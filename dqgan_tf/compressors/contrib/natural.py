"""Powers of two: of a bucket's maximum (`natural`) or of its 2-norm (`nuqsgd`).

The levels are 0 and +-S 2^-i, i = 0 .. K-1, K = 2^(bits-1) - 1. A code is a sign and an exponent.

Rounding is integer arithmetic. For r = |x| / S in [0, 1] and a number u in [0, 1), adding u 2^23 to the bit pattern of
r carries into the exponent exactly if the fraction of the significand is at least 1 - u. If u is uniform, this is
unbiased rounding between two powers of two; if u = 1/2, it is rounding to nearest. Below the lowest level
s = 2^-(K-1), r becomes s if r > u s, else 0.

Squared error, relative to the value's square: unbiased (x - a)(2a - x) / x^2 <= 1/8, at x = 4a/3; nearest at most 1/9,
at x = 3a/2. Below the lowest level it is at most (s S)^2 / 4.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

from dqgan_tf.compressors import float_bits, hash_random, quantizer
from dqgan_tf.compressors.base import ROUNDING_SLACK
from dqgan_tf.errors import UsageError
from dqgan_tf.lazy_tensorflow import tf

ROUNDINGS = ("stochastic", "nearest")
_UNBIASED_LOSS, _NEAREST_LOSS = 1.0 / 8.0, 1.0 / 9.0
_ONE_BITS = 127 << 23
_HALF = 1 << 22
"""u 2^23 for rounding to nearest."""


class _PowersOfTwo(quantizer.BucketQuantizer):
    """Rounds to powers of two of a scale that the subclass chooses."""

    def __post_init__(self):
        if type(self.bits) is not int or not 3 <= self.bits <= 8:
            raise UsageError(f"`bits` must be 3 to 8. Received: bits={self.bits}")
        super().__post_init__()

    @property
    def unbiased(self) -> bool:
        return True

    @property
    def num_levels(self) -> int:
        """K = 2^(bits-1) - 1, without 0."""
        return 2 ** (self.bits - 1) - 1

    def contractive_variant(self):
        return dataclasses.replace(super().contractive_variant(), bits=max(4, self.bits))

    def quantize_rows(self, rows, n, seed):
        top = float_bits.row_max(float_bits.magnitude_bits(rows))
        is_tiny = tf.bitcast(top, tf.float32) < float_bits.TINY
        scales = tf.where(is_tiny, 0.0, tf.minimum(self._scales(rows, top), float_bits.FLT_MAX))
        scales = float_bits.optimization_barrier(float_bits.nan_unless(float_bits.is_finite(top), scales), top)
        share = hash_random.bits(hash_random.row_positions(rows), seed, 23) if self.unbiased else _HALF
        return self._codes(rows, scales, share), scales

    def dequantize_rows(self, codes, scales):
        """S with a smaller exponent; 0 if the exponent would be too small; NaN if S is not finite."""
        scale = tf.bitcast(scales, tf.int32)[:, None]
        level = tf.bitwise.bitwise_and(codes, self.num_levels)
        lowered = scale - tf.bitwise.left_shift(self.num_levels - level, 23)
        magnitude = tf.where((level > 0) & (lowered >= 1 << 23), lowered, 0)
        magnitude = tf.where(float_bits.is_finite(scale), magnitude, float_bits.NAN_BITS)
        sign = tf.bitwise.left_shift(tf.bitwise.right_shift(codes, self.bits - 1), 31)
        return tf.bitcast(tf.bitwise.bitwise_or(magnitude, sign), tf.float32)

    @abc.abstractmethod
    def _scales(self, rows, top):
        """Returns float32 [rows], S of each row; `top`, int32 [rows], are the bits of its maximum."""

    def _codes(self, rows, scales, share):
        """Returns int32 [rows, width]: the level's number, 0 for zero to K for S, and the sign in the bit above.

        `share` is u 2^23, an int or int32 [rows, width].
        """
        K = self.num_levels
        # The inverse of a scale near FLT_MAX would be subnormal and flushed to zero, so divide both by 16.
        shrink = 1.0 / tf.where(scales > 1.0, 16.0, 1.0)
        ratio = rows * shrink[:, None] * float_bits.inverse_or_zero(scales * shrink)[:, None]
        ratio = tf.minimum(float_bits.magnitude_bits(ratio), _ONE_BITS)
        rounded = tf.bitwise.right_shift(ratio + share, 23) - (127 - K)
        reaches_lowest = tf.bitcast(ratio, tf.float32) > tf.cast(share, tf.float32) * 2.0**-23 * 2.0 ** (1 - K)
        level = tf.where(ratio < (128 - K) << 23, tf.cast(reaches_lowest, tf.int32), rounded)
        sign = tf.bitwise.right_shift(tf.bitcast(rows, tf.int32), 32 - self.bits)
        return tf.bitwise.bitwise_or(level, tf.bitwise.bitwise_and(sign, 1 << (self.bits - 1)))

    def _loss_below_lowest(self, count):
        """Returns the largest squared error, in units of S^2, of `count` values below the lowest level."""
        return count * 4.0 ** -(self.num_levels - 1) / 4.0


@dataclasses.dataclass(frozen=True)
class Natural(_PowersOfTwo):
    """One of the two powers of two around a value.

    Spec `natural:bits=8,bucket=512,rounding=stochastic|nearest`. The levels are the K = 2^(bits-1) - 1 powers of two
    from S down, S >= max |x| > S / 2; with 8 bits, values below these 127 are negligible. Horvath et al. 2019,
    arXiv:1905.10988.

    1 - delta = 1/8 (stochastic, unbiased) or 1/9 (nearest), plus 4 a 4^-(K-1) / 4 if the a = d - 1 values beside the
    maximum are below the lowest level. If S would be 2^128, which is no float32, the top level is FLT_MAX.
    """

    bits: int = 8
    bucket: int = 512
    rounding: str = "stochastic"

    name: ClassVar[str] = "natural"
    use: ClassVar[str] = "values of very different size; `bits` 3 to 8, and a bound from 4 bits on"

    def __post_init__(self):
        super().__post_init__()
        if self.rounding not in ROUNDINGS:
            raise UsageError(f"`rounding` must be one of {', '.join(ROUNDINGS)}. Received: rounding={self.rounding}")

    @property
    def unbiased(self) -> bool:
        return self.rounding == "stochastic"

    def delta(self, n):
        loss = _UNBIASED_LOSS if self.unbiased else _NEAREST_LOSS
        loss += 4.0 * self._loss_below_lowest(min(self.bucket, n) - 1)
        return max(0.0, 1.0 - loss - ROUNDING_SLACK)

    def _scales(self, rows, top):
        return float_bits.round_up(tf.bitcast(top, tf.float32), 23)


@dataclasses.dataclass(frozen=True)
class NUQSGD(_PowersOfTwo):
    """Powers of two of the bucket's 2-norm, stochastic.

    Spec `nuqsgd:bits=4,bucket=512`. Levels ||x||_2 2^-i, i = 0 .. K-1, K = 2^(bits-1) - 1, and 0; unbiased.
    Ramezani-Kebrya et al. 2021, arXiv:1908.06077, with codes of a fixed length. A norm above FLT_MAX becomes FLT_MAX.

    1 - delta = 1/8 and d 4^-(K-1) / 4 for values below the lowest level: contractive from 4 bits on in a bucket of 512.
    """

    bits: int = 4
    bucket: int = 512

    name: ClassVar[str] = "nuqsgd"
    use: ClassVar[str] = "to compare with the paper; unbiased, a bound from 4 bits on"

    def delta(self, n):
        lowest = self._loss_below_lowest(min(self.bucket, n))
        return max(0.0, 1.0 - _UNBIASED_LOSS - lowest - 2.0 * ROUNDING_SLACK)

    def _scales(self, rows, top):
        return float_bits.row_norm(rows, top)
