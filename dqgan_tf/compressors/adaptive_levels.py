"""Levels fitted to a distribution on [0, 1] of which a histogram is known, by companding.

The squared error of many levels is least when their density is proportional to the cube root of the values' density f
(Panter and Dite 1951, "Quantization distortion in pulse-count modulation with nonuniform spacing of levels"), hence
with G(y) = int_0^y f^(1/3) and L levels of which 0 and 1 are two:   level_j = G^-1(j / (L-1) G(1)).

The histogram has eight equal bins in each of the octaves [2^-8, 2^-7) ... [1/2, 1), and all below 2^-8 in the first:
a bin's number is the exponent and the three leading bits of the fraction.
"""

import numpy as np
import tensorflow as tf

from dqgan_tf.compressors import float_bits

_OCTAVES, _FRACTION_BITS = 8, 3
BINS = _OCTAVES << _FRACTION_BITS
_SHIFT = 23 - _FRACTION_BITS
_FIRST = (127 - _OCTAVES) << _FRACTION_BITS

DROPPED_BITS = 16
"""Levels are float32 whose so many lowest bits are zero: bfloat16 values, of 8 significant bits."""
_LOWEST, _ONE = (int(np.float32(x).view(np.int32)) >> DROPPED_BITS for x in (2.0**-16, 1.0))


def uniform(count: int) -> np.ndarray:
    """Returns float32 [count] levels j / (count - 1), rounded as all levels are."""
    exact = (np.arange(count) / (count - 1)).astype(np.float32).view(np.int32)
    return ((exact + (1 << DROPPED_BITS - 1)) >> DROPPED_BITS << DROPPED_BITS).view(np.float32)


def histogram(values: tf.Tensor) -> tf.Tensor:
    """Returns float32 [BINS], how many of float32 [n] values lie in each bin: without 0, 1 and more, and NaN."""
    bits = float_bits.magnitude(values)
    numbers = tf.clip_by_value(tf.bitwise.right_shift(bits, _SHIFT) - _FIRST, 0, BINS)
    numbers = tf.where(bits > 0, numbers, BINS)
    # Sixteen times faster in XLA on CPU than comparing every value with every bin, and exact in any order.
    counts = tf.math.unsorted_segment_sum(tf.ones_like(numbers), numbers, BINS + 1)
    return tf.cast(counts[:BINS], tf.float32)


def fit(counts: tf.Tensor, count: int) -> tf.Tensor:
    """Returns float32 [count] strictly increasing levels, the first 0 and the last 1.

    Args:
      counts: float32 [BINS] >= 0, not all zero: the histogram, in any unit.
      count: L >= 3.
    """
    edges = bin_edges()
    widths = (edges[1:] - edges[:-1]).astype(np.float32)
    mass = tf.pow(counts / widths, 1.0 / 3.0) * widths
    end = tf.cumsum(mass)
    target = (np.arange(1, count - 1) / (count - 1)).astype(np.float32)[:, None] * end[-1]
    # The part of each bin below the level; a bin without mass is below all levels whose target is beyond it.
    beyond = target - (end - mass)
    part = tf.where(mass > 0.0, tf.clip_by_value(tf.math.divide_no_nan(beyond, mass), 0.0, 1.0), tf.sign(beyond))
    return _short_and_increasing(tf.reduce_sum(tf.maximum(part, 0.0) * widths, axis=1))


def bin_edges() -> np.ndarray:
    """Returns float64 [BINS + 1], from 0 to 1."""
    edges = ((np.arange(BINS + 1) + _FIRST) << _SHIFT).astype(np.int32).view(np.float32).astype(np.float64)
    edges[0] = 0.0
    return edges


def _short_and_increasing(levels):
    """Returns 0, the rounded levels, each at least one step of the rounding above the one before, and 1."""
    between = levels.shape[0]
    rank = np.arange(between)
    short = tf.bitwise.right_shift(tf.bitcast(levels, tf.int32) + (1 << DROPPED_BITS - 1), DROPPED_BITS)
    excess = tf.maximum(short, _LOWEST) - rank
    before = tf.where(rank[:, None] >= rank, excess[None, :], 0)
    increasing = tf.minimum(tf.reduce_max(before, axis=1) + rank, _ONE - between + rank)
    return tf.bitcast(tf.bitwise.left_shift(tf.concat([[0], increasing, [_ONE]], 0), DROPPED_BITS), tf.float32)
