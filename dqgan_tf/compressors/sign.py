"""One bit a value: its sign, times the bucket's mean absolute value."""

import dataclasses
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from dqgan_tf.compressors import buckets, float_bits, packing, reductions
from dqgan_tf.compressors.base import ROUNDING_SLACK, Compressor


class SignPayload(NamedTuple):
    """words: int32 [rows, width / 32], bit set = negative. means: float32 [rows], mean |x| per bucket."""

    words: tf.Tensor
    means: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Sign(Compressor):
    """Spec `sign:bucket=512`. Per bucket of d values: decode = sign(x_i) mean, mean = ||x||_1 / d.

    The error is ||x||^2 - 2 mean ||x||_1 + d mean^2 = ||x||^2 - ||x||_1^2 / d <= (1 - 1/d) ||x||^2, hence delta = 1/d.
    The sign of zero is its sign bit. Karimireddy et al. 2019, arXiv 1901.09847, per bucket.
    """

    bucket: int = 512

    name: ClassVar[str] = "sign"

    def __post_init__(self):
        buckets.check_bucket(self.bucket)

    @property
    def unbiased(self) -> bool:
        return False

    @property
    def block_multiple(self) -> int:
        return self.bucket

    def encode(self, vector, seed):
        return self.encode_and_decode(vector, seed)[0]

    def decode(self, payload, n):
        return self._dequantize(packing.unpack(payload.words, 1), payload.means, n)

    def encode_and_decode(self, vector, seed):
        rows = buckets.split(vector, self.bucket)
        negative = tf.bitwise.right_shift(tf.bitcast(rows, tf.int32), 31)
        means = self._means(rows, vector.shape[0])
        payload = SignPayload(packing.pack(negative, 1), means)
        return payload, self._dequantize(negative, means, vector.shape[0])

    def _dequantize(self, negative, means, n):
        """Returns float32 [n]: the mean with its sign bit set; no arithmetic, so equal bits everywhere."""
        bits = tf.bitwise.bitwise_or(tf.bitwise.left_shift(negative, 31), tf.bitcast(means, tf.int32)[:, None])
        return buckets.join(tf.bitcast(bits, tf.float32), n)

    def payload_spec(self, n):
        rows, width = buckets.shape(n, self.bucket)
        return SignPayload(tf.TensorSpec([rows, width // 32], tf.int32), tf.TensorSpec([rows], tf.float32))

    def delta(self, n):
        return max(0.0, 1.0 / min(self.bucket, n) - ROUNDING_SLACK)

    def _means(self, rows, n):
        """Returns float32 [rows]: sum |x| / count in an order that cannot overflow; NaN if not finite."""
        halves = reductions.row_sum(tf.abs(rows) * (0.5 / rows.shape[1]))
        counts = np.array(buckets.counts(n, self.bucket), np.float32)
        means = tf.minimum(halves * (2.0 * rows.shape[1] / counts), np.finfo(np.float32).max)
        return float_bits.poison(tf.math.is_finite(halves), means)
