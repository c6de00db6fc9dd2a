"""Levels that follow the distribution of what is sent: 3 to 5 bits a value."""

import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from dqgan_tf.compressors import adaptive_levels, buckets, float_bits, reductions, search_tree
from dqgan_tf.compressors.base import ROUNDING_SLACK
from dqgan_tf.compressors.quantizer import BucketQuantizer

BITS = (3, 4, 5)
_SCALE_DROPPED_BITS = 24 - adaptive_levels.DROPPED_BITS
_LARGEST_SCALE = np.int32(0x7F7FFFFF >> _SCALE_DROPPED_BITS << _SCALE_DROPPED_BITS).view(np.float32)
_MEMORY = 0.9
"""Share of the running histogram that one step keeps: ten steps count."""
_SAMPLED = 65536
"""Values counted of a longer vector, in whole buckets spread over it: at least so many, less than twice as many."""


@dataclasses.dataclass(frozen=True)
class Adaptive(BucketQuantizer):
    """Spec `adaptive:bits=3,bucket=512`: a sign and the nearest of L = 2^(bits-1) fitted levels.

    Per bucket with S = max |x|, and a table 0 = l_0 < l_1 < ... < l_(L-1) = 1 that all buckets and replicas share:

        decode: x_i ~ sign(x_i) l_k S,     k the nearest level to |x_i| / S.

    The table follows the data: every replica counts a histogram of |x| / S over a sample of its buckets, the counts are
    added up over the replicas, and everyone fits the same levels to their running sum (`adaptive_levels`), in which
    every bucket weighs the same. State: float32 [L + 64], the table and the running sum; a channel keeps one for each
    segment, for what differs between groups of layers. Levels from summed statistics: Faghri et al. 2020, arXiv
    2010.12460 (ALQ), there for unbiased rounding and a parametric distribution; tables per group of layers: Nguyen et
    al. 2025, arXiv 2505.14371 (QODA).

    Levels have 8 significant bits and S is rounded up to 16, so l_k S is exact in float32.

    Delta holds for every table, because 0 and 1 are in it: |error| <= min(|x|, S / 2), and the maximum is exact but for
    the rounding of S, so with a = d - 1:   1 - delta = a / (4 + a), as `ternary`. A fitted table loses far less.
    """

    bits: int = 3
    bucket: int = 512
    state: tf.Tensor | None = dataclasses.field(default=None, compare=False, repr=False)

    name: ClassVar[str] = "adaptive"

    def __post_init__(self):
        if type(self.bits) is not int or self.bits not in BITS:
            raise ValueError(f"`bits` must be 3, 4 or 5. Received: bits={self.bits}")
        super().__post_init__()

    @property
    def num_levels(self) -> int:
        """L = 2^(bits-1)."""
        return 2 ** (self.bits - 1)

    @property
    def unbiased(self) -> bool:
        return False

    def delta(self, n):
        others = min(self.bucket, n) - 1
        square = 1.0 / (1.0 + 2.0 ** (_SCALE_DROPPED_BITS - 23)) ** 2
        return max(0.0, 1.0 - others / (4.0 * square + others) - ROUNDING_SLACK)

    def initial_state(self, n):
        return np.concatenate([adaptive_levels.uniform(self.num_levels), np.zeros(adaptive_levels.BINS, np.float32)])

    def bind(self, state):
        return dataclasses.replace(self, state=state)

    @property
    def num_statistics(self) -> int:
        return adaptive_levels.BINS

    def sampling(self, n):
        return 2 ** (max(1, n // _SAMPLED).bit_length() - 1)

    def statistics(self, vector, every=None):
        n = vector.shape[0]
        every = self.sampling(n) if every is None else every
        if every > 1 and n > self.bucket:
            vector = vector[: n - n % self.bucket]  # padding the last bucket would copy all the others
        rows = buckets.split(vector, self.bucket)[::every]
        bits = float_bits.magnitude(rows)
        top = reductions.row_max(bits)
        largest = tf.bitcast(top, tf.float32)
        inverse = tf.where(largest < float_bits.TINY, 0.0, 1.0 / largest)
        # The maximum is exact with any table; by its rounded inverse it may come out just below 1.
        shares = tf.where(bits < top[:, None], rows * inverse[:, None], 0.0)
        return adaptive_levels.histogram(tf.reshape(shares, [-1]))

    def next_state(self, state, total):
        running = _MEMORY * state[self.num_levels :] + total
        fitted = tf.concat([adaptive_levels.fit(running, self.num_levels), running], 0)
        usable = tf.reduce_all(tf.math.is_finite(total)) & (tf.reduce_sum(running) > 0.0)
        return tf.where(usable, fitted, state)

    def levels(self) -> list[tf.Tensor]:
        """Returns the L levels of the state, float32 scalars."""
        state = tf.constant(self.initial_state(1)) if self.state is None else self.state
        return tf.unstack(state[: self.num_levels])

    def _quantize_rows(self, rows, n, seed):
        bits = float_bits.magnitude(rows)
        top = reductions.row_max(bits)
        largest = tf.bitcast(top, tf.float32)
        rounded = tf.minimum(float_bits.round_up(largest, _SCALE_DROPPED_BITS), _LARGEST_SCALE)
        scales = float_bits.poison(float_bits.is_finite(top), tf.where(largest < float_bits.TINY, 0.0, rounded))
        scales = float_bits.once(scales, top)
        levels = self.levels()
        between = [(0.5 * (a + b) * scales)[:, None] for a, b in zip(levels, levels[1:], strict=False)]
        level = search_tree.count_below(tf.bitcast(bits, tf.float32), between)
        sign = tf.bitwise.right_shift(tf.bitcast(rows, tf.int32), 32 - self.bits)
        return tf.bitwise.bitwise_or(level, tf.bitwise.bitwise_and(sign, self.num_levels)), scales

    def _dequantize_rows(self, codes, scales):
        values = search_tree.choose(codes, self.levels()) * scales[:, None]
        sign = tf.bitwise.left_shift(tf.bitwise.right_shift(codes, self.bits - 1), 31)
        return tf.bitcast(tf.bitwise.bitwise_or(tf.bitcast(values, tf.int32), sign), tf.float32)
