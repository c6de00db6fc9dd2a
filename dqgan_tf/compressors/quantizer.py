"""What quantizers have in common: every value has a code, and the error is known before the codes are packed."""

import abc
import collections
import dataclasses
import functools
from typing import Any, NamedTuple

import tensorflow as tf

from dqgan_tf.compressors import buckets, packing
from dqgan_tf.compressors.base import Compressor


class Quantizer(Compressor):
    """Four steps, whose order is that of `encode` and `decode`: vector -> codes -> payload -> codes -> vector.

    "Codes" is a tuple of tensors of the quantizer's own choice, such as int32 codes and float32 scales.
    """

    def encode(self, vector, seed):
        return self._pack(*self._quantize(vector, seed))

    def encode_and_error(self, vector, seed):
        codes = self._quantize(vector, seed)
        return self._pack(*codes), vector - self._dequantize(*codes, vector.shape[0])

    def decode(self, payload, n):
        return self._dequantize(*self._unpack(payload, n), n)

    @abc.abstractmethod
    def _quantize(self, vector, seed) -> tuple:
        """Returns the codes of float32 [n]."""

    @abc.abstractmethod
    def _pack(self, *codes) -> NamedTuple:
        """Returns the payload."""

    @abc.abstractmethod
    def _unpack(self, payload: Any, n: int) -> tuple:
        """Inverse of `_pack`."""

    @abc.abstractmethod
    def _dequantize(self, *codes_and_n) -> tf.Tensor:
        """Returns float32 [n] of (*codes, n): at most one multiplication per value, which is exact.

        A product that is not would be rounded in `decode`, and not where a compiler fuses it into the subtraction in
        `encode_and_error`.
        """


@functools.cache
def payload_type(bits: int) -> type:
    """Returns the NamedTuple of the payload of buckets with codes of so many bits.

    words1, words2, words4, words8, words16: int32 [rows, words], the planes of the codes; see `packing`. Only those of
    which `bits` is the sum, widest first.
    scales: float32 [rows], one a bucket.
    """
    return collections.namedtuple("BucketPayload", [*(f"words{width}" for width in packing.planes(bits)), "scales"])


class BucketQuantizer(Quantizer):
    """A frozen dataclass with the fields `bits`, of a code, and `bucket`, the number of values that share a scale."""

    bits: int
    bucket: int

    def __post_init__(self):
        buckets.check_bucket(self.bucket)

    @property
    def block_multiple(self) -> int:
        return self.bucket

    def contracting(self):
        return dataclasses.replace(self, bucket=buckets.narrow(self.bucket))

    def payload_spec(self, n):
        rows, width = buckets.shape(n, self.bucket)
        words = [packing.words_per_row(plane, width) for plane in packing.planes(self.bits)]
        planes = [tf.TensorSpec([rows, count], tf.int32) for count in words]
        return payload_type(self.bits)(*planes, tf.TensorSpec([rows], tf.float32))

    @abc.abstractmethod
    def _quantize_rows(self, rows, n: int, seed) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns int32 [rows, width] codes and float32 [rows] scales of float32 [rows, width], n values and zeros.

        Higher bits of the codes than `bits` are ignored. The scale of a bucket that is not finite is not finite.
        """

    @abc.abstractmethod
    def _dequantize_rows(self, codes, scales) -> tf.Tensor:
        """Returns float32 [rows, width]; see `_dequantize`."""

    def _quantize(self, vector, seed):
        return self._quantize_rows(buckets.split(vector, self.bucket), vector.shape[0], seed)

    def _pack(self, codes, scales):
        return payload_type(self.bits)(*packing.pack_planes(codes, self.bits), scales)

    def _unpack(self, payload, n):
        return packing.unpack_planes(payload[:-1], self.bits), payload.scales

    def _dequantize(self, codes, scales, n):
        return buckets.join(self._dequantize_rows(codes, scales), n)
