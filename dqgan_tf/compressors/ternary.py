"""Three levels a value, five values to a byte: nearest (`ternary`) or stochastic (`terngrad`)."""

import abc
import dataclasses
from typing import ClassVar, NamedTuple

import tensorflow as tf

from dqgan_tf.compressors import base_three, buckets, float_bits, hash_random, reductions
from dqgan_tf.compressors.base import ROUNDING_SLACK
from dqgan_tf.compressors.quantizer import Quantizer

_GROUP = 5
"""Buckets that share their words: 5 buckets of 32 m values are 8 m whole words, without waste."""


class TernaryPayload(NamedTuple):
    """words: int32 [groups, words], base-three digits. scales: float32 [groups, 5], largest |x| of each bucket."""

    words: tf.Tensor
    scales: tf.Tensor


class _Ternary(Quantizer):
    bucket: int

    def __post_init__(self):
        buckets.check_bucket(self.bucket)

    @property
    def block_multiple(self) -> int:
        return _GROUP * self.bucket

    def contracting(self):
        return Ternary(buckets.narrow(self.bucket))

    def payload_spec(self, n):
        groups, group, width = self._shape(n)
        words = base_three.words_per_row(group * width)
        return TernaryPayload(tf.TensorSpec([groups, words], tf.int32), tf.TensorSpec([groups, group], tf.float32))

    def _shape(self, n):
        """Returns (groups, buckets in each, values in each of them); fewer than five buckets are one group."""
        rows, width = buckets.shape(n, self.bucket)
        group = min(_GROUP, rows)
        return -(-rows // group), group, width

    def _quantize(self, vector, seed):
        """Returns int32 [rows, width] digits and float32 [rows] scales, 0 if tiny, NaN if not finite; whole groups."""
        groups, group, width = self._shape(vector.shape[0])
        missing = groups * group * width - vector.shape[0]
        rows = tf.reshape(tf.pad(vector, [[0, missing]]) if missing else vector, [groups * group, width])
        top = reductions.row_max(float_bits.magnitude(rows))
        largest = tf.bitcast(top, tf.float32)
        scales = float_bits.poison(float_bits.is_finite(top), tf.where(largest < float_bits.TINY, 0.0, largest))
        threshold = self._share(rows.shape, seed) * scales[:, None]
        return 1 + tf.cast(rows > threshold, tf.int32) - tf.cast(rows < -threshold, tf.int32), scales

    @abc.abstractmethod
    def _share(self, shape, seed):
        """Returns the share of the scale above which |x| becomes the scale."""

    def _pack(self, digits, scales):
        groups, group, width = self._shape(digits.shape[0] * digits.shape[1])
        words = base_three.pack(tf.reshape(digits, [groups, group * width]))
        return TernaryPayload(words, tf.reshape(scales, [groups, group]))

    def _unpack(self, payload, n):
        groups, group, width = self._shape(n)
        digits = base_three.unpack(payload.words, group * width)
        return tf.reshape(digits, [groups * group, width]), tf.reshape(payload.scales, [-1])

    def _dequantize(self, digits, scales, n):
        return buckets.join(tf.cast(digits - 1, tf.float32) * scales[:, None], n)


@dataclasses.dataclass(frozen=True)
class Ternary(_Ternary):
    """Spec `ternary:bucket=512`. Per bucket with s = max |x|: decode = sign(x) s where |x| > s / 2, else 0.

    1.6 bits a value and 4 bytes a bucket. |error| <= min(|x|, s / 2) beside the maximum, which is exact, so with
    a = d - 1:   1 - delta = a / (4 + a), as `linear:bits=2`.
    """

    bucket: int = 512

    name: ClassVar[str] = "ternary"

    @property
    def unbiased(self) -> bool:
        return False

    def delta(self, n):
        return max(0.0, 4.0 / (3.0 + min(self.bucket, n)) - ROUNDING_SLACK)

    def _share(self, shape, seed):
        return 0.5


@dataclasses.dataclass(frozen=True)
class TernGrad(_Ternary):
    """Spec `terngrad:bucket=512`. Per bucket with s = max |x|: decode = sign(x) s with probability |x| / s, else 0.

    1.6 bits a value and 4 bytes a bucket; unbiased. Wen et al. 2017, arXiv 1705.07878, without its gradient clipping.
    The expected squared error is sum |x| (s - |x|); worst when the a = d - 1 others are at f s,
    f = (sqrt(1 + a) - 1) / a, so 1 - delta = a f (1 - f) / (1 + a f^2) = (sqrt(1 + a) - 1) / 2:
    contractive up to a bucket of 8 values, delta = 0 above.
    """

    bucket: int = 512

    name: ClassVar[str] = "terngrad"

    @property
    def unbiased(self) -> bool:
        return True

    def delta(self, n):
        return max(0.0, 1.5 - 0.5 * min(self.bucket, n) ** 0.5 - ROUNDING_SLACK)

    def _share(self, shape, seed):
        return hash_random.uniform(tf.reshape(tf.range(shape[0] * shape[1]), shape), seed)
