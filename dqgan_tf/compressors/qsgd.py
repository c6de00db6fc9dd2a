"""Linear levels of a bucket's 2-norm, stochastic: unbiased."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import tensorflow as tf

from dqgan_tf.compressors import buckets, reductions, uniform_levels
from dqgan_tf.compressors.base import ROUNDING_SLACK
from dqgan_tf.compressors.linear import Linear


@dataclasses.dataclass(frozen=True)
class QSGD(Linear):
    """Spec `qsgd:bits=4,bucket=512`. As stochastic `linear`, with step = ||x||_2 / L, L = 2^(bits-1) - 1.

    Alistarh et al. 2017, arXiv 1610.02132, with fixed-length codes. Lemma 3.1 has E||error||^2 <= sqrt(d) / L ||x||^2,
    and rounding a value between two levels costs at most step^2 / 4, so 1 - delta = min(d / (4 L^2), sqrt(d) / L);
    above 1 (4 bits in a bucket of 512) nothing is proven and delta is 0. A norm above FLT_MAX counts as FLT_MAX.
    """

    bits: int = 4
    bucket: int = 512
    rounding: str = dataclasses.field(default="stochastic", init=False, repr=False)

    name: ClassVar[str] = "qsgd"

    def contracting(self):
        return QSGD(max(8, self.bits), buckets.narrow(self.bucket))

    def delta(self, n):
        count = min(self.bucket, n)
        levels = uniform_levels.top_level(self.bits) / (1.0 + 2.0 ** (self.bits - 24) + 1e-5)
        return max(0.0, 1.0 - min(count / (4.0 * levels**2), math.sqrt(count) / levels) - ROUNDING_SLACK)

    def _scales(self, rows, top):
        return tf.minimum(reductions.row_norm(rows, top), np.finfo(np.float32).max)
