"""Sixteen-bit floating point: two values to a word, no scale."""

import abc
import dataclasses
from typing import ClassVar, NamedTuple

import tensorflow as tf

from dqgan_tf.compressors import buckets, float_bits, packing
from dqgan_tf.compressors.base import ROUNDING_SLACK
from dqgan_tf.compressors.quantizer import Quantizer

_ROW = 512
_HALF_MAX = 65504.0
_BRAIN_MAX_BITS = 0x7F7F


class CastPayload(NamedTuple):
    """words: int32 [rows, width / 2], two 16-bit patterns each."""

    words: tf.Tensor


class _Cast(Quantizer):
    """Rounds every value on its own, to nearest with ties to even; finite stays finite, inf and NaN stay so."""

    @property
    def unbiased(self) -> bool:
        return False

    @property
    def block_multiple(self) -> int:
        return _ROW

    def payload_spec(self, n):
        rows, width = buckets.shape(n, _ROW)
        return CastPayload(tf.TensorSpec([rows, packing.words_per_row(16, width)], tf.int32))

    def _quantize(self, vector, seed):
        return (self._narrow(buckets.split(vector, _ROW)),)

    def _pack(self, codes):
        return CastPayload(packing.pack(codes, 16))

    def _unpack(self, payload, n):
        return (packing.unpack(payload.words, 16),)

    def _dequantize(self, codes, n):
        return buckets.join(self._widen(codes), n)

    @abc.abstractmethod
    def _narrow(self, rows):
        """Returns int32 16-bit patterns of float32 values."""

    @abc.abstractmethod
    def _widen(self, codes):
        """Returns the float32 values of int32 16-bit patterns."""


@dataclasses.dataclass(frozen=True)
class Float16(_Cast):
    """Spec `fp16`: IEEE binary16, 2 n bytes. Finite values beyond +-65504 become +-65504.

    The relative error is at most 2^-11 where 2^-14 <= |x| <= 65504; below, the error is at most 2^-25 and values up to
    2^-25 vanish. An error that does not shrink with x proves no contraction, hence delta = 0: `bf16` and
    `linear:bits=16` are contractive at the same size.
    """

    name: ClassVar[str] = "fp16"

    def delta(self, n):
        return 0.0

    def contracting(self):
        return BFloat16()

    def _narrow(self, rows):
        finite = float_bits.is_finite(float_bits.magnitude(rows))
        halves = tf.cast(tf.where(finite, tf.clip_by_value(rows, -_HALF_MAX, _HALF_MAX), rows), tf.float16)
        return tf.cast(tf.bitcast(halves, tf.uint16), tf.int32)

    def _widen(self, codes):
        return tf.cast(tf.bitcast(tf.cast(codes, tf.uint16), tf.float16), tf.float32)


@dataclasses.dataclass(frozen=True)
class BFloat16(_Cast):
    """Spec `bf16`: the upper half of a float32, 2 n bytes. Finite values beyond the largest one become that.

    Eight significand bits in the whole range of float32: |error| <= 2^-8 |x|, hence delta = 1 - 2^-16. Integer
    arithmetic only, so that subnormal values survive and no backend's own rounding matters.
    """

    name: ClassVar[str] = "bf16"

    def delta(self, n):
        return 1.0 - 2.0**-16 - ROUNDING_SLACK

    def _narrow(self, rows):
        magnitude = float_bits.magnitude(rows)
        odd = tf.bitwise.bitwise_and(tf.bitwise.right_shift(magnitude, 16), 1)
        rounded = tf.minimum(tf.bitwise.right_shift(magnitude + 0x7FFF + odd, 16), _BRAIN_MAX_BITS)
        # NaN may hold all its bits in the half that is dropped.
        special = tf.where(magnitude > float_bits.INFINITY_BITS, float_bits.NAN_BITS, float_bits.INFINITY_BITS)
        special = tf.bitwise.right_shift(special, 16)
        codes = tf.where(float_bits.is_finite(magnitude), rounded, special)
        negative = tf.bitwise.bitwise_and(tf.bitwise.right_shift(tf.bitcast(rows, tf.int32), 16), 0x8000)
        return tf.bitwise.bitwise_or(codes, negative)

    def _widen(self, codes):
        return tf.bitcast(tf.bitwise.left_shift(codes, 16), tf.float32)
