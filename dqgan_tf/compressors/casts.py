"""Compressors without scales: none (float32), and 16-bit floating point, two values in a word."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

from dqgan_tf.compressors import float_bits, packing, quantizer
from dqgan_tf.compressors.base import ROUNDING_SLACK, Compressor
from dqgan_tf.lazy_tensorflow import tf

_ROW = 512
"""Values of a row of words."""
_HALF_MAX = 65504.0
_BRAIN_MAX_BITS = 0x7F7F


class IdentityPayload(NamedTuple):
    """values: float32 [n]."""

    values: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Identity(Compressor):
    """No compression: an exact all-reduce.

    Spec `none`. The payload is the vector, 4 n bytes, delta = 1.
    """

    name: ClassVar[str] = "none"
    use: ClassVar[str] = "fast links, and the reference for the others"
    is_identity: ClassVar[bool] = True

    @property
    def unbiased(self) -> bool:
        return True

    def delta(self, n):
        return 1.0

    def encode(self, vector, seed):
        return IdentityPayload(tf.identity(vector))

    def decode(self, payload, n):
        return tf.identity(payload.values)

    def encode_and_decode(self, vector, seed):
        return self.encode(vector, seed), vector

    def payload_spec(self, n):
        return IdentityPayload(tf.TensorSpec([n], tf.float32))


class CastPayload(NamedTuple):
    """words: int32 [rows, width / 2], two 16-bit patterns each."""

    words: tf.Tensor


class _Cast(quantizer.Quantizer):
    """Rounds every value to nearest, ties to even. Finite values stay finite, inf and NaN stay what they are.

    `_to_patterns` maps float32 values to int32 16-bit patterns, `_to_floats` maps them back.
    """

    @property
    def block_multiple(self) -> int:
        return _ROW

    def payload_spec(self, n):
        rows, width = quantizer.rows_shape(n, _ROW)
        return CastPayload(tf.TensorSpec([rows, packing.words_per_row(16, width)], tf.int32))

    def quantize(self, vector, seed):
        return (self._to_patterns(quantizer.to_rows(vector, _ROW)),)

    def pack(self, patterns):
        return CastPayload(packing.pack(patterns, 16))

    def unpack(self, payload, n):
        return (packing.unpack(payload.words, 16),)

    def dequantize(self, patterns, n):
        return quantizer.to_vector(self._to_floats(patterns), n)


@dataclasses.dataclass(frozen=True)
class Float16(_Cast):
    """IEEE binary16.

    Spec `fp16`, 2 n bytes. Finite values beyond +-65504 become +-65504. The relative error is at most 2^-11 where
    2^-14 <= |x| <= 65504; below, the error is at most 2^-25, and values up to 2^-25 become 0. Since this error does not
    shrink with x, nothing is proven and delta = 0; `bf16` and `linear:bits=16` have a bound at the same size.
    """

    name: ClassVar[str] = "fp16"
    use: ClassVar[str] = "without error feedback; values below 2^-25 vanish"

    def delta(self, n):
        return 0.0

    def contractive_variant(self):
        return BFloat16()

    def _to_patterns(self, rows):
        finite = float_bits.is_finite(float_bits.magnitude_bits(rows))
        halves = tf.cast(tf.where(finite, tf.clip_by_value(rows, -_HALF_MAX, _HALF_MAX), rows), tf.float16)
        return tf.cast(tf.bitcast(halves, tf.uint16), tf.int32)

    def _to_floats(self, patterns):
        return tf.cast(tf.bitcast(tf.cast(patterns, tf.uint16), tf.float16), tf.float32)


@dataclasses.dataclass(frozen=True)
class BFloat16(_Cast):
    """The upper half of a float32, rounded.

    Spec `bf16`, 2 n bytes. Finite values beyond the largest bfloat16 become that one. Eight significand bits in the
    whole range of float32: |error| <= 2^-8 |x|, hence delta = 1 - 2^-16.
    """

    name: ClassVar[str] = "bf16"
    use: ClassVar[str] = "half the bytes at almost no error"

    def delta(self, n):
        return 1.0 - 2.0**-16 - ROUNDING_SLACK

    def _to_patterns(self, rows):
        # Integer arithmetic: subnormal values are kept, and the rounding does not depend on the device. Adding 0x7FFF,
        # and 1 if the lowest remaining bit is set, carries into that bit exactly if the lower half rounds up.
        magnitude = float_bits.magnitude_bits(rows)
        odd = tf.bitwise.bitwise_and(tf.bitwise.right_shift(magnitude, 16), 1)
        rounded = tf.minimum(tf.bitwise.right_shift(magnitude + 0x7FFF + odd, 16), _BRAIN_MAX_BITS)
        # A NaN whose significand has bits in the lower half only would become inf.
        special = tf.where(magnitude > float_bits.INFINITY_BITS, float_bits.NAN_BITS, float_bits.INFINITY_BITS)
        special = tf.bitwise.right_shift(special, 16)
        patterns = tf.where(float_bits.is_finite(magnitude), rounded, special)
        negative = tf.bitwise.bitwise_and(tf.bitwise.right_shift(tf.bitcast(rows, tf.int32), 16), 0x8000)
        return tf.bitwise.bitwise_or(patterns, negative)

    def _to_floats(self, patterns):
        return tf.bitcast(tf.bitwise.left_shift(patterns, 16), tf.float32)
