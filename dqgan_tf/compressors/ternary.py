"""Three levels, five values in a byte: rounding to the nearest (`ternary`) or stochastic rounding (`terngrad`)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import numpy as np

from dqgan_tf.compressors import float_bits, hash_random, quantizer
from dqgan_tf.compressors.base import ROUNDING_SLACK
from dqgan_tf.lazy_tensorflow import tf

_GROUP = 5
"""Number of buckets that share their words: 5 buckets of 32 m values are exactly 8 m words of 20 digits."""


class TernaryPayload(NamedTuple):
    """words: int32 [groups, words], base-three digits. scales: float32 [groups, 5], largest |x| of each bucket."""

    words: tf.Tensor
    scales: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Ternary(quantizer.Quantizer):
    """The nearest of -s, 0 and s, s the bucket's maximum.

    Spec `ternary:bucket=512`. Per bucket with s = max |x|: decode = sign(x) s where |x| > s / 2, else 0. 1.6 bits a
    value and 4 bytes a bucket.

    The maximum is encoded without error; of the a = d - 1 other values |error| <= min(|x|, s / 2), so
    1 - delta = a / (4 + a), as for `linear:bits=2`.
    """

    bucket: int = 512

    name: ClassVar[str] = "ternary"
    use: ClassVar[str] = "the error of `linear:bits=2` with 20 % fewer bits"

    def __post_init__(self):
        quantizer.check_bucket(self.bucket)

    @property
    def block_multiple(self) -> int:
        return _GROUP * self.bucket

    def delta(self, n):
        return max(0.0, 4.0 / (3.0 + min(self.bucket, n)) - ROUNDING_SLACK)

    def contractive_variant(self):
        return Ternary(min(self.bucket, quantizer.WELL_BOUNDED_BUCKET))

    def payload_spec(self, n):
        groups, group, width = self._shape(n)
        words = -(-group * width // _DIGITS)
        return TernaryPayload(tf.TensorSpec([groups, words], tf.int32), tf.TensorSpec([groups, group], tf.float32))

    def quantize(self, vector, seed):
        """Returns int32 [rows, width] digits 0, 1, 2 and float32 [rows] scales, 0 if tiny; whole groups of rows."""
        groups, group, width = self._shape(vector.shape[0])
        padding = groups * group * width - vector.shape[0]
        rows = tf.reshape(tf.pad(vector, [[0, padding]]) if padding else vector, [groups * group, width])
        top = float_bits.row_max(float_bits.magnitude_bits(rows))
        largest = tf.bitcast(top, tf.float32)
        scales = tf.where(largest < float_bits.TINY, 0.0, largest)
        scales = float_bits.nan_unless(float_bits.is_finite(top), scales)
        threshold = self._threshold_share(rows, seed) * scales[:, None]
        return 1 + tf.cast(rows > threshold, tf.int32) - tf.cast(rows < -threshold, tf.int32), scales

    def pack(self, digits, scales):
        groups, group, width = self._shape(digits.shape[0] * digits.shape[1])
        words = pack_digits(tf.reshape(digits, [groups, group * width]))
        return TernaryPayload(words, tf.reshape(scales, [groups, group]))

    def unpack(self, payload, n):
        groups, group, width = self._shape(n)
        digits = unpack_digits(payload.words, group * width)
        return tf.reshape(digits, [groups * group, width]), tf.reshape(payload.scales, [-1])

    def dequantize(self, digits, scales, n):
        return quantizer.to_vector(tf.cast(digits - 1, tf.float32) * scales[:, None], n)

    def _shape(self, n):
        """Returns (groups, buckets of a group, values of a bucket); fewer than five buckets are one group."""
        rows, width = quantizer.rows_shape(n, self.bucket)
        group = min(_GROUP, rows)
        return -(-rows // group), group, width

    def _threshold_share(self, rows, seed):
        """Returns t: |x| becomes s where |x| > t s."""
        return 0.5


@dataclasses.dataclass(frozen=True)
class TernGrad(Ternary):
    """-s, 0 or s at random, s the bucket's maximum.

    Spec `terngrad:bucket=512`. Per bucket with s = max |x|: decode = sign(x) s with probability |x| / s, else 0; hence
    unbiased. 1.6 bits a value and 4 bytes a bucket. Wen et al. 2017, arXiv:1705.07878, without its gradient clipping.

    The expected squared error is sum |x| (s - |x|). The worst case is a = d - 1 values of size f s,
    f = (sqrt(1 + a) - 1) / a, so 1 - delta = a f (1 - f) / (1 + a f^2) = (sqrt(1 + a) - 1) / 2: contractive up to a
    bucket of 8 values; delta = 0 for wider buckets.
    """

    name: ClassVar[str] = "terngrad"
    use: ClassVar[str] = "to compare with the paper; unbiased"

    @property
    def unbiased(self) -> bool:
        return True

    def delta(self, n):
        return max(0.0, 1.5 - 0.5 * min(self.bucket, n) ** 0.5 - ROUNDING_SLACK)

    def _threshold_share(self, rows, seed):
        return hash_random.uniform(hash_random.row_positions(rows), seed)


# Base three. A word holds 20 digits 0, 1, 2: 1.6 bits a digit, where the entropy of uniform digits is 1.585. A row of
# digits is 20 planes of W digits; word w holds the digits w, w + W, ..., w + 19 W as a fraction of 2^32:
#
#     V = sum_i digit[w + i W] 3^(19 - i) < 3^20,      V s <= word < (V + 1) s,    s = 2^32 / 3^20 = 1.2318,
#
# so that digit i is floor(3 frac(3^i word / 2^32)). The product 3^i word wraps at 2^32, which is the fraction; the
# floor is two comparisons, with 2^32 / 3 and 2^33 / 3. So digits are computed independently and without a division.
#
# `pack_digits` needs a word in [V s, (V + 1) s). In integers, V + floor(V _SCALE / 2^34) + 1 with
# _SCALE = ceil((s - 1) 2^34) lies in (V s, V s + 1 + 3^20 / 2^34], and 1 + 3^20 / 2^34 = 1.203 < s.

_DIGITS = 20
_POWERS = np.array([3**i for i in range(_DIGITS)], np.uint32)
_THIRDS = (-(-(2**32) // 3), -(-(2**33) // 3))
_SHIFT = 34
_SCALE = -(-(2**32 - 3**_DIGITS) * 2**_SHIFT // 3**_DIGITS)


def pack_digits(digits: tf.Tensor) -> tf.Tensor:
    """Returns int32 [rows, ceil(width / 20)] words of int32 [rows, width] digits 0, 1 and 2."""
    rows, width = digits.shape
    count = -(-width // _DIGITS)
    if count * _DIGITS > width:
        digits = tf.pad(digits, [[0, 0], [0, count * _DIGITS - width]])
    planes = tf.bitcast(tf.reshape(digits, [rows, _DIGITS, count]), tf.uint32)
    values = tf.cast(tf.reduce_sum(planes * _column(_POWERS[::-1]), axis=1), tf.uint64)
    scale, shift, one = (tf.constant(value, tf.uint64) for value in (_SCALE, _SHIFT, 1))
    words = values + tf.bitwise.right_shift(values * scale, shift) + one
    return tf.bitcast(tf.cast(words, tf.uint32), tf.int32)


def unpack_digits(words: tf.Tensor, width: int) -> tf.Tensor:
    """Returns int32 [rows, width] digits: undoes `pack_digits`."""
    rows, count = words.shape
    fractions = tf.bitcast(words, tf.uint32)[:, None, :] * _column(_POWERS)
    digits = sum(tf.cast(fractions >= tf.constant(third, tf.uint32), tf.int32) for third in _THIRDS)
    return tf.reshape(digits, [rows, _DIGITS * count])[:, :width]


def _column(powers):
    return tf.constant(powers.reshape(1, _DIGITS, 1), tf.uint32)
