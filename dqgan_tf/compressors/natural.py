"""Powers of two: of a bucket's maximum (`natural`) or of its 2-norm (`nuqsgd`)."""

import abc
import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from dqgan_tf.compressors import exponential_levels, float_bits, reductions
from dqgan_tf.compressors.base import ROUNDING_SLACK
from dqgan_tf.compressors.quantizer import BucketQuantizer

ROUNDINGS = ("stochastic", "nearest")
_LARGEST = np.finfo(np.float32).max


class _Exponential(BucketQuantizer):
    """A code is a sign and an exponent, the scale the largest level."""

    def __post_init__(self):
        exponential_levels.check_bits(self.bits)
        super().__post_init__()

    @property
    def unbiased(self) -> bool:
        return True

    def contracting(self):
        return dataclasses.replace(super().contracting(), bits=max(4, self.bits))

    def _quantize_rows(self, rows, n, seed):
        top = reductions.row_max(float_bits.magnitude(rows))
        tiny = tf.bitcast(top, tf.float32) < float_bits.TINY
        scales = tf.where(tiny, 0.0, tf.minimum(self._scales(rows, top), _LARGEST))
        scales = float_bits.once(float_bits.poison(float_bits.is_finite(top), scales), top)
        share = exponential_levels.uniform_share(rows.shape, seed) if self.unbiased else exponential_levels.HALF
        return exponential_levels.codes(rows, scales, self.bits, share), scales

    @abc.abstractmethod
    def _scales(self, rows, top):
        """Returns float32 [rows], the largest level of each row; `top`, int32 [rows], are the bits of its max |x|."""

    def _dequantize_rows(self, codes, scales):
        return exponential_levels.values(codes, scales, self.bits)


@dataclasses.dataclass(frozen=True)
class Natural(_Exponential):
    """Spec `natural:bits=8,bucket=512,rounding=stochastic|nearest`: x to one of the two powers of two around it.

    The exponents are the 2^(bits-1) - 1 below the power of two S >= max |x| > S / 2; at 8 bits nothing of weight lies
    below those 127. Horvath et al. 2019, arXiv 1905.10988. With K = 2^(bits-1) - 1 and a = d - 1 values beside the
    maximum: 1 - delta = 1/8 (stochastic, unbiased) or 1/9 (nearest), and 4 a 4^-(K-1) / 4 for values below the lowest
    level. 2^128 is no float32: there the top level is FLT_MAX.
    """

    bits: int = 8
    bucket: int = 512
    rounding: str = "stochastic"

    name: ClassVar[str] = "natural"

    def __post_init__(self):
        super().__post_init__()
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"`rounding` must be one of {', '.join(ROUNDINGS)}. Received: rounding={self.rounding}")

    @property
    def unbiased(self) -> bool:
        return self.rounding == "stochastic"

    def delta(self, n):
        lost = exponential_levels.UNBIASED_LOSS if self.unbiased else exponential_levels.NEAREST_LOSS
        lost += 4.0 * exponential_levels.lowest_loss(self.bits, min(self.bucket, n) - 1)
        return max(0.0, 1.0 - lost - ROUNDING_SLACK)

    def _scales(self, rows, top):
        return float_bits.round_up(tf.bitcast(top, tf.float32), 23)


@dataclasses.dataclass(frozen=True)
class NUQSGD(_Exponential):
    """Spec `nuqsgd:bits=4,bucket=512`. Levels ||x||_2 2^-i, i = 0 .. K-1, K = 2^(bits-1) - 1, and 0; unbiased.

    Ramezani-Kebrya et al. 2021, arXiv 1908.06077, with fixed-length codes. 1 - delta = 1/8 and d 4^-(K-1) / 4 for
    values below the lowest level: contractive from 4 bits on in a bucket of 512. A norm above FLT_MAX counts as that.
    """

    bits: int = 4
    bucket: int = 512

    name: ClassVar[str] = "nuqsgd"

    def delta(self, n):
        lowest = exponential_levels.lowest_loss(self.bits, min(self.bucket, n))
        return max(0.0, 1.0 - exponential_levels.UNBIASED_LOSS - lowest - 2.0 * ROUNDING_SLACK)

    def _scales(self, rows, top):
        return reductions.row_norm(rows, top)
