"""Quantizers: a short code for every value, and a scale for every bucket of values."""

from __future__ import annotations

import abc
import collections
import dataclasses
import functools
from typing import Any, NamedTuple

from dqgan_tf.compressors import packing
from dqgan_tf.compressors.base import Compressor
from dqgan_tf.errors import UsageError
from dqgan_tf.lazy_tensorflow import tf

BUCKET_MAX = 1 << 24
"""An arbitrary limit."""
WELL_BOUNDED_BUCKET = 512
"""Largest bucket of a `contractive_variant`. Stochastic rounding of few bits and `terngrad` are not contractive even in
such buckets; their variants round to the nearest level or take more bits."""


def check_bucket(bucket) -> None:
    """Raises UsageError unless `bucket` is a positive multiple of 32 up to 2^24."""
    if type(bucket) is not int or not 0 < bucket <= BUCKET_MAX or bucket % packing.LANE:
        raise UsageError(
            f"`bucket` must be a positive multiple of {packing.LANE} up to {BUCKET_MAX}, such as 512. "
            f"Received: bucket={bucket}"
        )


def rows_shape(n: int, bucket: int) -> tuple[int, int]:
    """Returns (rows, width) of a vector of n values: width = min(bucket, n rounded up to a multiple of 32)."""
    width = min(bucket, -(-n // packing.LANE) * packing.LANE)
    return -(-n // width), width


def to_rows(vector: tf.Tensor, bucket: int) -> tf.Tensor:
    """Returns float32 [n] as float32 [rows, width], one bucket a row, with zeros after the last value."""
    n = vector.shape[0]
    rows, width = rows_shape(n, bucket)
    if rows * width > n:
        vector = tf.pad(vector, [[0, rows * width - n]])
    return tf.reshape(vector, [rows, width])


def to_vector(rows: tf.Tensor, n: int) -> tf.Tensor:
    """Returns the first n values of [rows, width], flat: undoes `to_rows`."""
    flat = tf.reshape(rows, [-1])
    return flat if flat.shape[0] == n else flat[:n]


class Quantizer(Compressor):
    """Encodes in two steps: vector -> codes -> payload.

    `encode_and_decode` computes the decoded values from the codes, without unpacking the payload. Codes are a tuple of
    tensors that the quantizer chooses, such as int32 codes and float32 scales.
    """

    def encode(self, vector, seed):
        return self.pack(*self.quantize(vector, seed))

    def encode_and_decode(self, vector, seed):
        codes = self.quantize(vector, seed)
        return self.pack(*codes), self.dequantize(*codes, vector.shape[0])

    def decode(self, payload, n):
        return self.dequantize(*self.unpack(payload, n), n)

    @abc.abstractmethod
    def quantize(self, vector, seed) -> tuple:
        """Returns the codes of float32 [n]."""

    @abc.abstractmethod
    def pack(self, *codes) -> NamedTuple:
        """Returns the payload of codes."""

    @abc.abstractmethod
    def unpack(self, payload: Any, n: int) -> tuple:
        """Returns the codes of a payload: undoes `pack`."""

    @abc.abstractmethod
    def dequantize(self, *codes_and_n) -> tf.Tensor:
        """Returns float32 [n] of (*codes, n): at most one multiplication a value, with an exact product.

        The product must be exact in float32. Otherwise a compiler may fuse it with the subtraction p - decode(c)
        without rounding, and the residual would not match what the receivers decode.
        """


@functools.cache
def payload_type(bits: int) -> type:
    """Returns the NamedTuple of the payload of a `BucketQuantizer`.

    words1, words2, words4, words8, words16: int32 [rows, words], the planes of the codes (`packing`). A payload has the
      planes whose widths add up to `bits`, the widest first.
    scales: float32 [rows], one for each bucket.
    """
    return collections.namedtuple("BucketPayload", [*(f"words{width}" for width in packing.planes(bits)), "scales"])


class BucketQuantizer(Quantizer):
    """A frozen dataclass with the fields `bits`, of a code, and `bucket`, the number of values that share a scale.

    A subclass maps rows to codes and scales, and back: `encode_and_decode` calls `quantize` and `dequantize`, which
    call `quantize_rows` and `dequantize_rows` of the subclass.
    """

    bits: int
    bucket: int

    def __post_init__(self):
        check_bucket(self.bucket)

    @property
    def block_multiple(self) -> int:
        return self.bucket

    def contractive_variant(self):
        return dataclasses.replace(self, bucket=min(self.bucket, WELL_BOUNDED_BUCKET))

    def payload_spec(self, n):
        rows, width = rows_shape(n, self.bucket)
        counts = [packing.words_per_row(b, width) for b in packing.planes(self.bits)]
        planes = [tf.TensorSpec([rows, count], tf.int32) for count in counts]
        return payload_type(self.bits)(*planes, tf.TensorSpec([rows], tf.float32))

    @abc.abstractmethod
    def quantize_rows(self, rows, n: int, seed) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (int32 [rows, width] codes, float32 [rows] scales) of float32 [rows, width]: n values, then zeros.

        Only the lowest `bits` bits of a code are used. A bucket with a value that is not finite has such a scale.
        """

    @abc.abstractmethod
    def dequantize_rows(self, codes, scales) -> tf.Tensor:
        """Returns float32 [rows, width]; products are exact, see `dequantize`."""

    def quantize(self, vector, seed):
        return self.quantize_rows(to_rows(vector, self.bucket), vector.shape[0], seed)

    def pack(self, codes, scales):
        return payload_type(self.bits)(*packing.pack_planes(codes, self.bits), scales)

    def unpack(self, payload, n):
        return packing.unpack_planes(payload[:-1], self.bits), payload.scales

    def dequantize(self, codes, scales, n):
        return to_vector(self.dequantize_rows(codes, scales), n)
