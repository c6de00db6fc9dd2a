"""Equally spaced levels: of a bucket's maximum (`linear`) or of its 2-norm (`qsgd`)."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np

from dqgan_tf.compressors import float_bits, hash_random, packing, quantizer
from dqgan_tf.compressors.base import ROUNDING_SLACK
from dqgan_tf.errors import UsageError
from dqgan_tf.lazy_tensorflow import tf

ROUNDINGS = ("nearest", "stochastic")
_ROUNDER = 1.5 * 2.0**23
_ROUNDER_BITS = int(np.float32(_ROUNDER).view(np.int32))


@dataclasses.dataclass(frozen=True)
class Linear(quantizer.BucketQuantizer):
    """Equally spaced levels up to the bucket's maximum.

    Spec `linear:bits=4,bucket=512[,rounding=nearest|stochastic]`, bits 2 to 8 or 16. Per bucket of d values, with
    L = 2^(bits-1) - 1, the scale in the payload is the step:

        step = max_i |x_i| / L,     code_i = round(x_i / step) in [-L, L],     decode: x_i ~ code_i * step.

    `nearest` rounds to even at ties; `stochastic` is floor(x / step + u), u uniform in [0, 1), hence unbiased.

    The significand of the step is rounded up to so few bits that code * step is exact in float32. Fused multiply-adds,
    eager kernels and GPUs then give the same bits. x - decode is exact if the code is not 0 (Sterbenz's lemma), so with
    nearest rounding decode + residual = x holds bit for bit.

    Delta. Let a = d - 1, and let m = L step be the maximum of the bucket, which is encoded without error.
      nearest: |error| <= min(|x|, step / 2); the worst case is a values of size step / 2, so
        1 - delta = a (step/2)^2 / (m^2 + a (step/2)^2) = a / (4 L^2 + a).
      stochastic: a value at f step, 0 <= f <= 1, has the expected squared error f (1 - f) step^2, so
        1 - delta = max_f a f (1 - f) / (L^2 + a f^2),   at   f = (-L^2 + sqrt(L^4 + a L^2)) / a;
        if that is above 1 (few levels in a wide bucket), nothing is proven and delta is 0.
    Rounding the step up multiplies it by at most 1 + 2^(bits - 24), which divides L by as much.
    """

    bits: int = 4
    bucket: int = 512
    rounding: str = "nearest"

    name: ClassVar[str] = "linear"
    use: ClassVar[str] = (
        "the default; `bits` 2 to 8 or 16; with `rounding=stochastic` unbiased, and a bound from 5 bits on"
    )

    def __post_init__(self):
        if type(self.bits) is not int or self.bits not in packing.SUPPORTED_BITS[1:]:
            raise UsageError(f"`bits` must be 2 to 8 or 16. Received: bits={self.bits}")
        super().__post_init__()
        if self.rounding not in ROUNDINGS:
            raise UsageError(f"`rounding` must be one of {', '.join(ROUNDINGS)}. Received: rounding={self.rounding}")

    @property
    def spec(self) -> str:
        return super().spec.removesuffix(",rounding=nearest")

    @property
    def max_code(self) -> int:
        """L = 2^(bits-1) - 1."""
        return 2 ** (self.bits - 1) - 1

    @property
    def unbiased(self) -> bool:
        return self.rounding == "stochastic"

    def contractive_variant(self):
        return dataclasses.replace(super().contractive_variant(), rounding="nearest")

    def delta(self, n):
        a = min(self.bucket, n) - 1
        square = (self.max_code / (1.0 + 2.0 ** (self.bits - 24))) ** 2
        loss = a / (4.0 * square + a)
        if self.unbiased:
            f = (-square + math.sqrt(square**2 + a * square)) / max(a, 1)
            loss = a * f * (1.0 - f) / (square + a * f**2)
        return max(0.0, 1.0 - loss - ROUNDING_SLACK)

    def quantize_rows(self, rows, n, seed):
        top = float_bits.row_max(float_bits.magnitude_bits(rows))
        steps = float_bits.nan_unless(float_bits.is_finite(top), self._steps(self._range(rows, top)))
        steps = float_bits.optimization_barrier(steps, top)
        # floor(y + u) = round(y + u - 1/2)
        noise = hash_random.uniform(hash_random.row_positions(rows), seed) - 0.5 if self.unbiased else None
        return self._codes(rows, steps, noise), steps

    def dequantize_rows(self, codes, steps):
        # The payload has unsigned codes, code_i + L.
        return tf.cast(codes - self.max_code, tf.float32) * steps[:, None]

    def _range(self, rows, top):
        """Returns float32 [rows], the largest level of each row; `top` are the bits of its maximum."""
        return tf.bitcast(top, tf.float32)

    def _steps(self, ranges):
        """Returns range / L, rounded up so that every code * step is exact and L * step <= FLT_MAX; 0 if tiny.

        A code has bits - 1 bits beside its sign and a float32 has 24, so bits - 1 bits of the step are zero.
        """
        dropped = self.bits - 1
        largest = (float_bits.FLT_MAX / self.max_code).astype(np.float32).view(np.int32)
        largest_step = (largest & ~np.int32(2**dropped - 1)).view(np.float32)
        # A product: XLA would turn a division by a constant into a product, eager kernels would not.
        steps = float_bits.round_up(ranges * np.float32(1.0 / self.max_code), dropped)
        return tf.where(ranges < float_bits.TINY, 0.0, tf.minimum(steps, largest_step))

    def _codes(self, rows, steps, noise):
        """Returns int32 [rows, width] round(x / step + noise) + L in [0, 2 L]; ties to even without noise.

        A float32 between 2^23 and 2^24 is an integer. So adding 1.5 * 2^23 rounds to the nearest integer, ties to even,
        and the low bits of the sum are that integer, also if it is negative.
        """
        if self.max_code < 4:
            # The inverse of a step near FLT_MAX would be subnormal and flushed to zero, so divide both by 16. The
            # factor depends on the data, because XLA would merge a constant factor into 1 / step.
            shrink = 1.0 / tf.where(steps > 1.0, 16.0, 1.0)
            rows, steps = rows * shrink[:, None], steps * shrink
        scaled = rows * float_bits.inverse_or_zero(steps)[:, None]
        if noise is not None:
            scaled += noise
        if noise is not None or self.bits == 16:
            scaled = tf.clip_by_value(scaled, -float(self.max_code), float(self.max_code))
        return tf.bitcast(scaled + _ROUNDER, tf.int32) - (_ROUNDER_BITS - self.max_code)


@dataclasses.dataclass(frozen=True)
class QSGD(Linear):
    """Equally spaced levels up to the bucket's 2-norm, stochastic.

    Spec `qsgd:bits=4,bucket=512`. As stochastic `linear`, with step = ||x||_2 / L, L = 2^(bits-1) - 1. Alistarh et al.
    2017, arXiv:1610.02132, with codes of a fixed length. A norm above FLT_MAX counts as FLT_MAX.

    Lemma 3.1 has E||error||^2 <= sqrt(d) / L ||x||^2, and rounding a value between two levels costs at most
    step^2 / 4, so 1 - delta = min(d / (4 L^2), sqrt(d) / L); above 1 (4 bits in a bucket of 512) delta is 0.
    """

    rounding: str = dataclasses.field(default="stochastic", init=False, repr=False)

    name: ClassVar[str] = "qsgd"
    use: ClassVar[str] = "to compare with the paper; unbiased, a bound from 5 bits on"

    def contractive_variant(self):
        return QSGD(max(8, self.bits), min(self.bucket, quantizer.WELL_BOUNDED_BUCKET))

    def delta(self, n):
        d = min(self.bucket, n)
        levels = self.max_code / (1.0 + 2.0 ** (self.bits - 24) + 1e-5)
        return max(0.0, 1.0 - min(d / (4.0 * levels**2), math.sqrt(d) / levels) - ROUNDING_SLACK)

    def _range(self, rows, top):
        return tf.minimum(float_bits.row_norm(rows, top), float_bits.FLT_MAX)
