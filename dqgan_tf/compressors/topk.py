"""Top-k: the values of largest magnitude are sent, all others are zero.

The file has three parts: the compressor, the selection of the k largest magnitudes without a sort, and the code of
their positions (Elias and Fano). All work on bit vectors. Every step is elementwise or a gather, which XLA compiles to
plain loops, unlike a sort or a scatter of the whole vector.

Positions are *slots*, not indices. A bit vector is packed like codes of one bit (`packing`): a row of 32 W values is W
words, and bit b of word w is the value b W + w. The slot of this value is 32 w + b, the position of the bit.
`to_indices` maps slots to indices.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from dqgan_tf.compressors import float_bits, hash_random, packing, quantizer
from dqgan_tf.compressors.base import Compressor
from dqgan_tf.compressors.casts import Identity
from dqgan_tf.compressors.sparse import Sparse, SparsePayload
from dqgan_tf.lazy_tensorflow import tf

_WORD = 32
_ROW = 4096
"""Values of a row of slots."""


@dataclasses.dataclass(frozen=True)
class TopK(Sparse):
    """The largest magnitudes of the whole vector.

    Spec `topk:fraction=0.01[+linear:bits=8,bucket=512]`: the k = max(1, ceil(fraction n)) largest |x_i|. An index takes
    about log2(n / k) + 2 bits, a value 4 bytes or what the compressor after the `+` takes. Among equal |x_i| the first
    are sent; NaN counts as inf. Stich et al. 2018, arXiv:1809.07599.

    The n - k other values are the smallest, so ||error||^2 <= (1 - k/n) ||x||^2 and delta = k/n, times delta of the
    second compressor.
    """

    fraction: float = 0.01
    values: Compressor = Identity()

    name: ClassVar[str] = "topk"
    use: ClassVar[str] = "slow links; sends nothing before all gradients are known"

    def payload_spec(self, n):
        k = self.k(n)
        words = elias_fano_words(k, num_slots(n))
        return SparsePayload(tf.TensorSpec([words], tf.int32), self._values_spec(k))

    def encode_sparse(self, vector, seed):
        n = vector.shape[0]
        slots = largest(vector, self.k(n))
        indices = to_indices(slots, n)
        words, decoded = self._encode_values(tf.gather(vector, indices), seed)
        return SparsePayload(elias_fano_encode(slots, num_slots(n)), words), decoded, indices

    def decode_sparse(self, payload, n):
        slots = elias_fano_decode(payload.indices, self.k(n), num_slots(n))
        return self._decode_values(payload.values, self.k(n)), to_indices(slots, n)


# The selection: a threshold from a sample, then counting above it.
#
# 1. A sample of _SAMPLE values gives a threshold that about 1.2 k of all values reach: _DEVIATIONS standard deviations
#    more than k.
# 2. The values that reach it, the candidates, are marked in a bit vector, and their slots are listed.
# 3. The k-th largest candidate is found by bisection of its 31 bits, ties by bisection of the index.
#
# If there are fewer than k candidates, or too many (many equal values), step 3 runs over all values: the same result,
# ten times slower. A vector that is no longer than the sample needs no threshold: step 3 runs over all its values.

_SAMPLE = 65536
_DEVIATIONS = 5.0


def num_slots(n: int) -> int:
    """Returns the number of slots of n values: n rounded up to whole rows."""
    rows, width = quantizer.rows_shape(n, _ROW)
    return rows * width


def to_indices(slots: tf.Tensor, n: int) -> tf.Tensor:
    """Returns the int32 indices of int32 slots of n values."""
    width = quantizer.rows_shape(n, _ROW)[1]
    in_row = slots % width
    return slots - in_row + in_row % _WORD * (width // _WORD) + in_row // _WORD


def largest(vector: tf.Tensor, k: int) -> tf.Tensor:
    """Returns the slots of the k largest |x|, int32 [k], ascending; of equal |x| the first. NaN counts as inf.

    Args:
      vector: float32 [n].
      k: static, 1 to n.
    """
    n = vector.shape[0]
    expected = _SAMPLE * k / n
    rank = math.ceil(expected + _DEVIATIONS * math.sqrt(expected)) + 1  # of the threshold in the sample
    capacity = math.ceil((rank + _DEVIATIONS * math.sqrt(rank) + 1) * n / _SAMPLE)  # for candidates
    capacity += -capacity % _WORD
    if n <= _SAMPLE or capacity >= n:
        return _largest_of_all(vector, k)
    threshold = _kth_largest(_keys(tf.gather(vector, sample_positions(n))), rank)
    marks = _mark(_keys(vector) >= threshold)
    count = tf.reduce_sum(_popcount(marks))
    enough = (count >= k) & (count <= capacity)
    return tf.cond(
        enough, lambda: _largest_of_marked(vector, marks, count, k, capacity), lambda: _largest_of_all(vector, k)
    )


def sample_positions(n: int) -> tf.Tensor:
    """Returns int32 [_SAMPLE] hashed positions below n; equidistant ones could follow the layout of the weights."""
    words = hash_random.mix(tf.bitcast(tf.range(_SAMPLE), tf.uint32), tf.constant(0, tf.uint32))
    return tf.cast(words % tf.constant(n, tf.uint32), tf.int32)


def _keys(values):
    """Returns int32 in the order of the magnitudes. It is cheaper to compute it again than to store it."""
    return tf.minimum(float_bits.magnitude_bits(values), float_bits.INFINITY_BITS)


def _largest_of_all(vector, k):
    keys = _keys(vector)
    return set_bits(_mark(_is_largest(keys, tf.range(keys.shape[0]), k)), k)


def _largest_of_marked(vector, marks, count, k, capacity):
    """Returns the slots of the k largest among the `count` marked values, k <= count <= capacity."""
    slots = set_bits(marks, capacity)
    indices = to_indices(slots, vector.shape[0])
    is_candidate = tf.range(capacity) < count  # the other slots are padding
    keys = tf.where(is_candidate, _keys(tf.gather(vector, tf.where(is_candidate, indices, 0))), -1)
    chosen = tf.reshape(tf.cast(_is_largest(keys, indices, k), tf.int32), [-1, _WORD])
    return tf.gather(slots, set_bits(packing.pack(chosen, 1)[:, 0], k))


def _mark(flags):
    """Returns int32 [slots / 32]: bool [n] as the bits of the slots."""
    n = flags.shape[0]
    width = quantizer.rows_shape(n, _ROW)[1]
    whole = n // width * width
    # Only the last row is padded, because XLA copies what it pads.
    parts = [flags[:whole]] if whole else []
    if whole < n:
        parts.append(tf.pad(flags[whole:], [[0, whole + width - n]]))
    rows = [tf.reshape(tf.cast(part, tf.int32), [-1, width]) for part in parts]
    return tf.concat([tf.reshape(packing.pack(part, 1), [-1]) for part in rows], axis=0)


def _is_largest(keys, indices, k):
    """Returns bool [m], true for the k largest of int32 keys, of equal ones for the smallest int32 indices."""
    threshold = _kth_largest(keys, k)
    equal = keys == threshold
    missing = k - float_bits.count_true(keys > threshold)
    bound = _bisect(lambda bound: float_bits.count_true(equal & (indices < bound)) <= missing)
    return (keys > threshold) | (equal & (indices < bound))


def _kth_largest(keys, k):
    return _bisect(lambda threshold: float_bits.count_true(keys >= threshold) >= k)


def _bisect(holds):
    """Returns the largest int32 for which `holds` is true; `holds` is true up to some number >= 0, false above."""

    def body(bit, number):
        candidate = number + tf.bitwise.left_shift(1, bit)
        return bit - 1, tf.where(holds(candidate), candidate, number)

    start = (tf.constant(30), tf.constant(0))
    return tf.while_loop(lambda bit, _: bit >= 0, body, start, maximum_iterations=31)[1]


# Bit vectors: positions are found by a cumulative sum of bits and one binary search for each position.


def set_bits(words: tf.Tensor, count: int) -> tf.Tensor:
    """Returns int32 [count], the positions of the first set bits, ascending; bit b of word w is position 32 w + b.

    Args:
      words: int32 [m].
      count: static. If fewer bits are set, the last positions are at least 32 m.
    """
    popcounts = _popcount(words)
    ends = tf.cumsum(popcounts)
    ordinal = tf.range(count)
    word = _first_above(ends, ordinal)
    in_range = tf.minimum(word, words.shape[0] - 1)
    bits_before = tf.gather(ends - popcounts, in_range)
    return word * _WORD + _select_bit(tf.gather(words, in_range), ordinal - bits_before)


def _popcount(words):
    return tf.cast(tf.raw_ops.PopulationCount(x=words), tf.int32)


def _first_above(ends, ordinal):
    """Returns the first index whose value exceeds each ordinal, `len(ends)` if there is none; `ends` ascend."""
    size = ends.shape[0]

    def body(bit, index):
        candidate = index + tf.bitwise.left_shift(1, bit)
        not_above = tf.gather(ends, tf.minimum(candidate, size) - 1) <= ordinal
        return bit - 1, tf.where((candidate <= size) & not_above, candidate, index)

    bits = size.bit_length()
    start = (tf.constant(bits - 1), tf.zeros_like(ordinal))
    return tf.while_loop(lambda bit, _: bit >= 0, body, start, maximum_iterations=bits)[1]


def _select_bit(words, rank):
    """Returns the position, 0 to 31, of the set bit of each word that has `rank` set bits below it.

    Bisection: if the lower half of the remaining bits holds too few set bits, the position lies in the upper half.
    """
    position = tf.zeros_like(rank)
    for width in (16, 8, 4, 2, 1):
        low = tf.bitwise.bitwise_and(tf.bitwise.right_shift(words, position), (1 << width) - 1)
        popcounts = _popcount(low)
        is_above = rank >= popcounts
        rank = tf.where(is_above, rank - popcounts, rank)
        position = tf.where(is_above, position + width, position)
    return position


# Elias and Fano: k ascending integers below u in about log2(u / k) + 2 bits each, a size that depends on k and u alone.
#
# The l lowest bits of each integer are packed as they are. The rest, high_j = value_j >> l, ascend too and are one bit
# vector of k + (u >> l) bits, in which bit high_j + j is set for every j: the j-th set bit gives high_j back.
# Elias 1974, "Efficient storage and retrieval by content and address of static files".

_CHUNK = 8  # low bits are packed in chunks of at most this many bits
_RAW = 32  # as a number of low bits: each integer is one word, the shortest code of very few integers


def elias_fano_words(k: int, universe: int) -> int:
    """Returns the int32 words of k integers below `universe`."""
    _, low_words, high_words = _elias_fano_layout(k, universe)
    return low_words + high_words


def elias_fano_encode(values: tf.Tensor, universe: int) -> tf.Tensor:
    """Returns int32 [elias_fano_words(k, universe)] of ascending int32 [k] in [0, universe)."""
    k = values.shape[0]
    low, _, high_words = _elias_fano_layout(k, universe)
    if low == _RAW:
        return values
    padded = tf.pad(values, [[0, -k % packing.LANE]])
    parts = [packing.pack(tf.bitwise.right_shift(padded, start)[None], bits)[0] for start, bits in _chunks(low)]
    bit = tf.bitwise.right_shift(values, low) + tf.range(k)
    # Every bit is set once, so that adding powers of two is the same as setting bits.
    powers = tf.bitwise.left_shift(1, tf.bitwise.bitwise_and(bit, _WORD - 1))
    parts.append(tf.scatter_nd(tf.bitwise.right_shift(bit, 5)[:, None], powers, [high_words]))
    return tf.concat(parts, axis=0)


def elias_fano_decode(words: tf.Tensor, k: int, universe: int) -> tf.Tensor:
    """Returns int32 [k]: undoes `elias_fano_encode`."""
    low, low_words, _ = _elias_fano_layout(k, universe)
    if low == _RAW:
        return words
    values = tf.bitwise.left_shift(set_bits(words[low_words:], k) - tf.range(k), low)
    lanes = -(-k // packing.LANE)
    for start, bits in _chunks(low):
        chunk = packing.unpack(words[None, start * lanes : (start + bits) * lanes], bits)[0, :k]
        values += tf.bitwise.left_shift(chunk, start)
    return values


def _elias_fano_layout(k, universe):
    """Returns (l, words of the low bits, words of the bit vector) with the fewest words.

    Of two l with equally many words, the larger one: its bit vector is shorter.
    """
    layouts = [(_RAW, k, 0)]
    for low in reversed(range(31)):
        layouts.append((low, low * -(-k // packing.LANE), -(-(k + ((universe - 1) >> low)) // _WORD)))
    return min(layouts, key=lambda layout: layout[1] + layout[2])


def _chunks(low):
    """Returns (first bit, number of bits) of the chunks in which `low` bits are packed."""
    return [(start, min(_CHUNK, low - start)) for start in range(0, low, _CHUNK)]
