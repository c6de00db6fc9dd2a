"""k ascending integers below u in about log2(u / k) + 2 bits each, of a size that depends on k and u alone.

The l lowest bits of each are packed as they are; the rest, high_j = value_j >> l, ascend too and are one bit vector
with bit high_j + j set for every j. Elias 1974, "Efficient storage and retrieval by content and address of static
files".
"""

import tensorflow as tf

from dqgan_tf.compressors import bitset, packing

_CHUNK = 8
_RAW = 32
"""Low bits that mean: each integer is a word of its own; shorter for the fewest integers."""


def num_words(k: int, universe: int) -> int:
    """Returns the int32 words of k integers below `universe`."""
    return _size(k, universe, _low_bits(k, universe))


def encode(values: tf.Tensor, universe: int) -> tf.Tensor:
    """Returns int32 [num_words(k, universe)] of ascending int32 [k] in [0, universe)."""
    k, low = values.shape[0], _low_bits(values.shape[0], universe)
    if low == _RAW:
        return values
    parts = [_pack(tf.bitwise.right_shift(values, start), bits) for start, bits in _chunks(low)]
    size = _high_words(k, universe, low)
    bit = tf.bitwise.right_shift(values, low) + tf.range(k)
    # Every bit is set once, so that adding is the same as setting.
    ones = tf.bitwise.left_shift(1, tf.bitwise.bitwise_and(bit, bitset.WORD - 1))
    parts.append(tf.scatter_nd(tf.bitwise.right_shift(bit, 5)[:, None], ones, [size]))
    return tf.concat(parts, axis=0)


def decode(words: tf.Tensor, k: int, universe: int) -> tf.Tensor:
    """Inverse of `encode`: returns int32 [k]."""
    low = _low_bits(k, universe)
    if low == _RAW:
        return words
    lanes = -(-k // packing.LANE)
    values = tf.bitwise.left_shift(bitset.positions(words[low * lanes :], k) - tf.range(k), low)
    for start, bits in _chunks(low):
        chunk = packing.unpack(words[None, start * lanes : (start + bits) * lanes], bits)[0, :k]
        values += tf.bitwise.left_shift(chunk, start)
    return values


def _low_bits(k, universe):
    """Returns the l of the fewest words; between two of a size the larger, whose bit vector is shorter."""
    return min([_RAW, *reversed(range(31))], key=lambda low: _size(k, universe, low))


def _size(k, universe, low):
    return k if low == _RAW else low * -(-k // packing.LANE) + _high_words(k, universe, low)


def _high_words(k, universe, low):
    return -(-(k + ((universe - 1) >> low)) // bitset.WORD)


def _chunks(low):
    """Returns (first bit, bits) of the pieces in which `low` bits are packed."""
    return [(start, min(_CHUNK, low - start)) for start in range(0, low, _CHUNK)]


def _pack(codes, bits):
    return packing.pack(tf.pad(codes, [[0, -codes.shape[0] % packing.LANE]])[None], bits)[0]
