"""One bit per value: its sign, times the mean absolute value of the bucket."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from dqgan_tf.compressors import float_bits, quantizer
from dqgan_tf.compressors.base import ROUNDING_SLACK
from dqgan_tf.lazy_tensorflow import tf


@dataclasses.dataclass(frozen=True)
class Sign(quantizer.BucketQuantizer):
    """The sign, times the bucket's mean absolute value.

    Spec `sign:bucket=512`. Per bucket of d values: decode = sign(x_i) mean, mean = ||x||_1 / d. A negative value is bit
    1; the sign of zero is its sign bit. Karimireddy et al. 2019, arXiv:1901.09847, per bucket.

    The error is ||x||^2 - 2 mean ||x||_1 + d mean^2 = ||x||^2 - ||x||_1^2 / d <= (1 - 1/d) ||x||^2, hence delta = 1/d.
    """

    bucket: int = 512

    name: ClassVar[str] = "sign"
    use: ClassVar[str] = "slow links; one bit of every value arrives in every step"
    bits: ClassVar[int] = 1  # type: ignore[misc]  # a field of the other quantizers

    def delta(self, n):
        return max(0.0, 1.0 / min(self.bucket, n) - ROUNDING_SLACK)

    def quantize_rows(self, rows, n, seed):
        count, width = rows.shape
        # The mean is sum |x| / d. Values are divided by 2 width before they are added, so that the sum cannot overflow.
        # The last row may have fewer than `width` values.
        half_means = float_bits.row_sum(tf.abs(rows) * (0.5 / width))
        d = np.array([width] * (count - 1) + [n - width * (count - 1)], np.float32)
        means = tf.minimum(half_means * (2.0 * width / d), float_bits.FLT_MAX)
        negative = tf.bitwise.right_shift(tf.bitcast(rows, tf.int32), 31)
        return negative, float_bits.nan_unless(tf.math.is_finite(half_means), means)

    def dequantize_rows(self, codes, scales):
        # The mean with the value's sign bit: no arithmetic.
        bits = tf.bitwise.bitwise_or(tf.bitwise.left_shift(codes, 31), tf.bitcast(scales, tf.int32)[:, None])
        return tf.bitcast(bits, tf.float32)
