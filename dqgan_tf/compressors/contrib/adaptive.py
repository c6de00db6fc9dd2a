"""Levels that follow the distribution of the data, 3 to 5 bits per value."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from dqgan_tf.compressors import float_bits, quantizer
from dqgan_tf.compressors.base import ROUNDING_SLACK
from dqgan_tf.errors import UsageError
from dqgan_tf.lazy_tensorflow import tf

_LEVEL_DROPPED_BITS = 16
"""Lowest bits of a level that are zero: levels are bfloat16 values, with 8 significant bits."""
_SCALE_DROPPED_BITS = 24 - _LEVEL_DROPPED_BITS
_LARGEST_SCALE = np.int32(0x7F7FFFFF >> _SCALE_DROPPED_BITS << _SCALE_DROPPED_BITS).view(np.float32)
_OCTAVES, _FRACTION_BITS = 8, 3
BINS = _OCTAVES << _FRACTION_BITS
"""Bins of the histogram; see below."""
_MEMORY = 0.9
"""Decay of the running histogram in one step: it covers about ten steps."""
_SAMPLE = 65536
"""Of a longer vector, this many values are counted, up to twice as many: whole buckets at equal distances."""


@dataclasses.dataclass(frozen=True)
class Adaptive(quantizer.BucketQuantizer):
    """Levels fitted to the data, one table per group of weights.

    Spec `adaptive:bits=3,bucket=512`, bits 3 to 5: a sign and the nearest of L = 2^(bits-1) levels. Per bucket with
    S = max |x|, and a table 0 = l_0 < l_1 < ... < l_(L-1) = 1 that all buckets and replicas share:

        decode: x_i ~ sign(x_i) l_k S,     k the nearest level to |x_i| / S.

    Every replica counts a histogram of |x| / S over a sample of its buckets. The counts are added up over the replicas,
    and all replicas fit the same levels to the running sum (`fit_levels`). Every bucket has the same weight in it.
    State: float32 [L + 64], the table and the running sum. Levels from summed statistics: Faghri et al. 2020,
    arXiv:2010.12460 (ALQ), there for unbiased rounding and a parametric distribution. Tables per group of layers:
    Nguyen et al. 2025, arXiv:2505.14371 (QODA).

    Levels have 8 significant bits and S is rounded up to 16, so l_k S is exact in float32.

    Delta is proven for every table with the levels 0 and 1: |error| <= min(|x|, S / 2), and the maximum is exact except
    for the rounding of S. So with a = d - 1:   1 - delta = a / (4 + a), as for `ternary`. The error of a fitted table
    is much smaller.
    """

    bits: int = 3
    bucket: int = 512
    state: tf.Tensor | None = dataclasses.field(default=None, compare=False, repr=False)

    name: ClassVar[str] = "adaptive"
    use: ClassVar[str] = "`bits` 3 to 5, with a smaller error than `linear`; one small all-reduce more"
    histogram_size: ClassVar[int] = BINS

    def __post_init__(self):
        if type(self.bits) is not int or self.bits not in (3, 4, 5):
            raise UsageError(f"`bits` must be 3, 4 or 5. Received: bits={self.bits}")
        super().__post_init__()

    @property
    def num_levels(self) -> int:
        """L = 2^(bits-1)."""
        return 2 ** (self.bits - 1)

    def delta(self, n):
        a = min(self.bucket, n) - 1
        square = 1.0 / (1.0 + 2.0 ** (_SCALE_DROPPED_BITS - 23)) ** 2
        return max(0.0, 1.0 - a / (4.0 * square + a) - ROUNDING_SLACK)

    def quantize_rows(self, rows, n, seed):
        bits = float_bits.magnitude_bits(rows)
        top = float_bits.row_max(bits)
        largest = tf.bitcast(top, tf.float32)
        rounded = tf.minimum(float_bits.round_up(largest, _SCALE_DROPPED_BITS), _LARGEST_SCALE)
        scales = tf.where(largest < float_bits.TINY, 0.0, rounded)
        scales = float_bits.nan_unless(float_bits.is_finite(top), scales)
        scales = float_bits.optimization_barrier(scales, top)
        levels = self.levels()
        bounds = [(0.5 * (a + b) * scales)[:, None] for a, b in zip(levels, levels[1:], strict=False)]
        level = count_below(tf.bitcast(bits, tf.float32), bounds)
        sign = tf.bitwise.right_shift(tf.bitcast(rows, tf.int32), 32 - self.bits)
        return tf.bitwise.bitwise_or(level, tf.bitwise.bitwise_and(sign, self.num_levels)), scales

    def dequantize_rows(self, codes, scales):
        values = choose(codes, self.levels()) * scales[:, None]
        sign = tf.bitwise.left_shift(tf.bitwise.right_shift(codes, self.bits - 1), 31)
        return tf.bitcast(tf.bitwise.bitwise_or(tf.bitcast(values, tf.int32), sign), tf.float32)

    def levels(self) -> list[tf.Tensor]:
        """Returns the L levels of the state, float32 scalars."""
        state = tf.constant(self.initial_state(1)) if self.state is None else self.state
        return tf.unstack(state[: self.num_levels])

    def initial_state(self, n):
        dropped = _LEVEL_DROPPED_BITS
        uniform = np.linspace(0.0, 1.0, self.num_levels, dtype=np.float32).view(np.int32)
        rounded = ((uniform + (1 << dropped - 1)) >> dropped << dropped).view(np.float32)
        return np.concatenate([rounded, np.zeros(BINS, np.float32)])

    def bind(self, state):
        return dataclasses.replace(self, state=state)

    def histogram_stride(self, n):
        return 2 ** (max(1, n // _SAMPLE).bit_length() - 1)

    def histogram(self, vector, stride=None):
        n = vector.shape[0]
        stride = self.histogram_stride(n) if stride is None else stride
        if stride > 1 and n > self.bucket:
            vector = vector[: n - n % self.bucket]  # padding the last bucket would copy all the others
        rows = quantizer.to_rows(vector, self.bucket)[::stride]
        bits = float_bits.magnitude_bits(rows)
        top = float_bits.row_max(bits)
        largest = tf.bitcast(top, tf.float32)
        inverse = tf.where(largest < float_bits.TINY, 0.0, 1.0 / largest)
        # The maximum is not counted, since it is exact with every table. Its product with its inverse may be below 1.
        shares = tf.where(bits < top[:, None], rows * inverse[:, None], 0.0)
        return count_bins(tf.reshape(shares, [-1]))

    def next_state(self, state, histogram):
        running = _MEMORY * state[self.num_levels :] + histogram
        fitted = tf.concat([fit_levels(running, self.num_levels), running], 0)
        usable = tf.reduce_all(tf.math.is_finite(histogram)) & (tf.reduce_sum(running) > 0.0)
        return tf.where(usable, fitted, state)


# Look-ups in the table are selections along a balanced tree, which compilers vectorise, unlike a gather.


def choose(indices: tf.Tensor, table: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns table[index] for every index, of the shape of `indices`.

    Args:
      indices: int32; only the k lowest bits count.
      table: 2^k tensors that broadcast against `indices`.
    """
    bit = 1
    while len(table) > 1:
        is_odd = tf.bitwise.bitwise_and(indices, bit) != 0
        table = [tf.where(is_odd, odd, even) for even, odd in zip(table[::2], table[1::2], strict=True)]
        bit *= 2
    return tf.broadcast_to(table[0], indices.shape)


def count_below(values: tf.Tensor, bounds: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns int32, the number of bounds below each value, with k comparisons; 0 if a bound or the value is NaN.

    Args:
      values: float32.
      bounds: 2^k - 1 float32 tensors in ascending order that broadcast against `values`.
    """
    if len(bounds) == 1:
        return tf.cast(values > bounds[0], tf.int32)
    half = len(bounds) // 2
    is_above = values > bounds[half]
    rest = [tf.where(is_above, high, low) for low, high in zip(bounds[:half], bounds[half + 1 :], strict=True)]
    return tf.bitwise.bitwise_or(tf.where(is_above, half + 1, 0), count_below(values, rest))


# Levels are fitted to a histogram of values in [0, 1] by companding. The squared error of many levels is least if their
# density is proportional to the cube root of the values' density f (Panter and Dite 1951, "Quantization distortion in
# pulse-count modulation with nonuniform spacing of levels"). So with G(y) = int_0^y f^(1/3) and L levels, the first 0
# and the last 1:   level_j = G^-1(j / (L-1) G(1)).
#
# The histogram has eight equal bins in each of the octaves [2^-8, 2^-7) ... [1/2, 1); the first bin also has all values
# below 2^-8. The number of a bin is the exponent and the three leading bits of the fraction, so it is a shifted bit
# pattern.

_BIN_SHIFT = 23 - _FRACTION_BITS
_FIRST_BIN = (127 - _OCTAVES) << _FRACTION_BITS
_LOWEST, _ONE = (int(np.float32(x).view(np.int32)) >> _LEVEL_DROPPED_BITS for x in (2.0**-16, 1.0))
"""The smallest level beside 0, and 1: their bit patterns without the dropped bits."""


def count_bins(values: tf.Tensor) -> tf.Tensor:
    """Returns float32 [BINS], the histogram of float32 [n] values; 0, values from 1 on and NaN are not counted."""
    bits = float_bits.magnitude_bits(values)
    numbers = tf.clip_by_value(tf.bitwise.right_shift(bits, _BIN_SHIFT) - _FIRST_BIN, 0, BINS)
    numbers = tf.where(bits > 0, numbers, BINS)
    # Sixteen times faster in XLA on CPU than comparing every value with every bin, and exact in any order.
    counts = tf.math.unsorted_segment_sum(tf.ones_like(numbers), numbers, BINS + 1)
    return tf.cast(counts[:BINS], tf.float32)


def fit_levels(counts: tf.Tensor, count: int) -> tf.Tensor:
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
    # A level is the sum over the bins of (share of the bin below the level) * (width of the bin). An empty bin is below
    # all levels whose target is beyond it.
    beyond = target - (end - mass)
    share = tf.where(mass > 0.0, tf.clip_by_value(tf.math.divide_no_nan(beyond, mass), 0.0, 1.0), tf.sign(beyond))
    return _round_and_separate(tf.reduce_sum(tf.maximum(share, 0.0) * widths, axis=1))


def bin_edges() -> np.ndarray:
    """Returns float64 [BINS + 1], from 0 to 1."""
    patterns = ((np.arange(BINS + 1) + _FIRST_BIN) << _BIN_SHIFT).astype(np.int32)
    edges = patterns.view(np.float32).astype(np.float64)
    edges[0] = 0.0
    return edges


def _round_and_separate(levels):
    """Returns 0, the levels rounded to 8 significant bits and moved apart, and 1.

    In units of the rounding, level j must be at least level j-1 plus 1: level_j - j must not decrease. Its running
    maximum, plus j, is the smallest such sequence above the rounded levels. The upper bound leaves room below 1.
    """
    between = levels.shape[0]
    rank = np.arange(between)
    rounded = tf.bitcast(levels, tf.int32) + (1 << _LEVEL_DROPPED_BITS - 1)
    rounded = tf.maximum(tf.bitwise.right_shift(rounded, _LEVEL_DROPPED_BITS), _LOWEST)
    running_maximum = tf.reduce_max(tf.where(rank[:, None] >= rank, (rounded - rank)[None, :], 0), axis=1)
    increasing = tf.minimum(running_maximum + rank, _ONE - between + rank)
    return tf.bitcast(tf.bitwise.left_shift(tf.concat([[0], increasing, [_ONE]], 0), _LEVEL_DROPPED_BITS), tf.float32)
