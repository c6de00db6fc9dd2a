"""Codes round(x / step) in [-L, L], L = 2^(bits-1) - 1, with steps whose every multiple is exact in float32."""

import numpy as np
import tensorflow as tf

from dqgan_tf.compressors import float_bits, hash_random

_ROUNDER = 1.5 * 2.0**23
_ROUNDER_BITS = int(np.float32(_ROUNDER).view(np.int32))


def top_level(bits: int) -> int:
    """Returns L = 2^(bits-1) - 1: the largest code."""
    return 2 ** (bits - 1) - 1


def steps(scales: tf.Tensor, bits: int) -> tf.Tensor:
    """Returns scale / L rounded up to an exact multiplier with L * step <= FLT_MAX, scales >= 0; 0 if tiny."""
    levels, dropped = top_level(bits), bits - 1
    # XLA turns a division by a constant into this product; eager kernels do not.
    exact = float_bits.round_up(scales * np.float32(1.0 / levels), dropped)
    return tf.where(scales < float_bits.TINY, 0.0, tf.minimum(exact, _largest_step(levels, dropped)))


def codes(rows: tf.Tensor, steps: tf.Tensor, bits: int, noise: tf.Tensor | None) -> tf.Tensor:
    """Returns int32 [rows, width] round(x / step + noise) + L in [0, 2 L], |x| <= L step; ties to even without noise.

    Adding 1.5 * 2^23 leaves the rounded value in the low bits.
    """
    levels = top_level(bits)
    scaled = _ratio(rows, steps, levels)
    if noise is not None:
        scaled += noise
    if noise is not None or bits == 16:
        scaled = tf.clip_by_value(scaled, -float(levels), float(levels))
    return tf.bitcast(scaled + _ROUNDER, tf.int32) - (_ROUNDER_BITS - levels)


def noise(shape, seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 [rows, width] in [-1/2, 1/2): round(y + u - 1/2) = floor(y + u)."""
    return hash_random.uniform(positions(shape), seed) - 0.5


def positions(shape) -> tf.Tensor:
    """Returns int32 [rows, width], each value's position in the flat vector."""
    rows, width = shape
    return (tf.range(rows) * width)[:, None] + tf.range(width)


def values(codes: tf.Tensor, steps: tf.Tensor, bits: int) -> tf.Tensor:
    """Returns float32 [rows, width] of `codes`: exact products."""
    return tf.cast(codes - top_level(bits), tf.float32) * steps[:, None]


def _ratio(rows, steps, levels):
    """Returns x / step, by the inverse; 0 in rows without a step."""
    if levels < 4:
        # The inverse of a step near FLT_MAX is subnormal and would flush to zero. The factor depends on the data
        # because XLA folds a constant one back into 1 / step.
        shrink = 1.0 / tf.where(steps > 1.0, 16.0, 1.0)
        rows, steps = rows * shrink[:, None], steps * shrink
    return rows * float_bits.inverse(steps)[:, None]


def _largest_step(levels, dropped_bits):
    bits = np.float32(np.finfo(np.float32).max / levels).view(np.int32)
    return (bits & ~np.int32(2**dropped_bits - 1)).view(np.float32)
