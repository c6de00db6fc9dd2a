"""Linear levels of a bucket's maximum: 2 to 8 or 16 bits a value."""

import dataclasses
import math
from typing import ClassVar

import tensorflow as tf

from dqgan_tf.compressors import float_bits, packing, reductions, uniform_levels
from dqgan_tf.compressors.base import ROUNDING_SLACK
from dqgan_tf.compressors.quantizer import BucketQuantizer

ROUNDINGS = ("nearest", "stochastic")


@dataclasses.dataclass(frozen=True)
class Linear(BucketQuantizer):
    """Spec `linear:bits=4,bucket=512[,rounding=nearest|stochastic]`.

    Per bucket of d values, with L = 2^(bits-1) - 1, and the step in the place of the payload's scale:

        step = max_i |x_i| / L,     code_i = round(x_i / step) in [-L, L],     decode: x_i ~ code_i * step.

    `nearest` rounds to even at ties; `stochastic` is floor(x / step + u), u uniform in [0, 1), hence unbiased.

    The step is rounded up to a significand so short that code * step is exact in float32: a fused multiply-add, an
    eager kernel and a GPU then agree to the bit, and x - decode is exact wherever code is not 0 (Sterbenz), so with
    nearest rounding decode + residual = x holds bit for bit.

    Delta, with a = d - 1 values beside the maximum M = L step, which is exact:
      nearest: |error| <= min(|x|, step / 2); worst when all others are at step / 2, so
        1 - delta = a (step/2)^2 / (M^2 + a (step/2)^2) = a / (4 L^2 + a).
      stochastic: a value at f step, 0 <= f <= 1, has the expected squared error f (1 - f) step^2, so
        1 - delta = max_f a f (1 - f) / (L^2 + a f^2),   at   f = (-L^2 + sqrt(L^4 + a L^2)) / a;
        above 1 (few levels in a wide bucket) nothing is proven and delta is 0.
    Rounding the step up by at most 2^(bits - 24) of itself divides L by 1 + 2^(bits - 24).
    """

    bits: int = 4
    bucket: int = 512
    rounding: str = "nearest"

    name: ClassVar[str] = "linear"

    def __post_init__(self):
        if type(self.bits) is not int or self.bits not in packing.SUPPORTED_BITS[1:]:
            raise ValueError(f"`bits` must be 2 to 8 or 16. Received: bits={self.bits}")
        super().__post_init__()
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"`rounding` must be one of {', '.join(ROUNDINGS)}. Received: rounding={self.rounding}")

    @property
    def spec(self) -> str:
        return super().spec.removesuffix(",rounding=nearest")

    @property
    def unbiased(self) -> bool:
        return self.rounding == "stochastic"

    def contracting(self):
        return dataclasses.replace(super().contracting(), rounding="nearest")

    def delta(self, n):
        others = min(self.bucket, n) - 1
        square = (uniform_levels.top_level(self.bits) / (1.0 + 2.0 ** (self.bits - 24))) ** 2
        lost = _stochastic_loss(square, others) if self.unbiased else others / (4.0 * square + others)
        return max(0.0, 1.0 - lost - ROUNDING_SLACK)

    def _quantize_rows(self, rows, n, seed):
        top = reductions.row_max(float_bits.magnitude(rows))
        steps = uniform_levels.steps(self._scales(rows, top), self.bits)
        steps = float_bits.once(float_bits.poison(float_bits.is_finite(top), steps), top)
        noise = uniform_levels.noise(rows.shape, seed) if self.unbiased else None
        return uniform_levels.codes(rows, steps, self.bits, noise), steps

    def _scales(self, rows, top):
        """Returns float32 [rows], the largest value that the levels reach."""
        return tf.bitcast(top, tf.float32)

    def _dequantize_rows(self, codes, scales):
        return uniform_levels.values(codes, scales, self.bits)


def _stochastic_loss(square, others):
    """Returns max_f a f (1 - f) / (square + a f^2), a = others."""
    if others == 0:
        return 0.0
    worst = (-square + math.sqrt(square**2 + others * square)) / others
    return others * worst * (1.0 - worst) / (square + others * worst**2)
