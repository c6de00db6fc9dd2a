"""One bit a value: its sign, times the bucket's mean absolute value."""

import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from dqgan_tf.compressors import buckets, float_bits, reductions
from dqgan_tf.compressors.base import ROUNDING_SLACK
from dqgan_tf.compressors.quantizer import BucketQuantizer


@dataclasses.dataclass(frozen=True)
class Sign(BucketQuantizer):
    """Spec `sign:bucket=512`. Per bucket of d values: decode = sign(x_i) mean, mean = ||x||_1 / d.

    The error is ||x||^2 - 2 mean ||x||_1 + d mean^2 = ||x||^2 - ||x||_1^2 / d <= (1 - 1/d) ||x||^2, hence delta = 1/d.
    A set bit is negative, the sign of zero is its sign bit. Karimireddy et al. 2019, arXiv 1901.09847, per bucket.
    """

    bucket: int = 512

    name: ClassVar[str] = "sign"
    bits: ClassVar[int] = 1

    @property
    def unbiased(self) -> bool:
        return False

    def delta(self, n):
        return max(0.0, 1.0 / min(self.bucket, n) - ROUNDING_SLACK)

    def _quantize_rows(self, rows, n, seed):
        """The mean is sum |x| / count in an order that cannot overflow."""
        halves = reductions.row_sum(tf.abs(rows) * (0.5 / rows.shape[1]))
        counts = np.array(buckets.counts(n, self.bucket), np.float32)
        means = tf.minimum(halves * (2.0 * rows.shape[1] / counts), np.finfo(np.float32).max)
        negative = tf.bitwise.right_shift(tf.bitcast(rows, tf.int32), 31)
        return negative, float_bits.poison(tf.math.is_finite(halves), means)

    def _dequantize_rows(self, codes, scales):
        """The mean with its sign bit set: no arithmetic."""
        bits = tf.bitwise.bitwise_or(tf.bitwise.left_shift(codes, 31), tf.bitcast(scales, tf.int32)[:, None])
        return tf.bitcast(bits, tf.float32)
