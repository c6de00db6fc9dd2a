"""Where the set bits of a long bit vector are: a running count of bits, then one binary search for each answer.

Every step is elementwise or a gather, which XLA compiles to plain loops; a scatter or a sort of the vector is not.
"""

import tensorflow as tf

WORD = 32


def positions(words: tf.Tensor, count: int) -> tf.Tensor:
    """Returns the positions of the first `count` set bits, ascending; bit b of word w is position 32 w + b.

    Args:
      words: int32 [m].
      count: static. Where fewer bits are set, the last entries are no set bit's position and at least 32 m.

    Returns:
      int32 [count].
    """
    ones = _popcount(words)
    ends = tf.cumsum(ones)
    ordinal = tf.range(count)
    word = _first_above(ends, ordinal)
    inside = tf.minimum(word, words.shape[0] - 1)
    before = tf.gather(ends - ones, inside)
    return word * WORD + _select(tf.gather(words, inside), ordinal - before)


def total(words: tf.Tensor) -> tf.Tensor:
    """Returns the int32 number of set bits of int32 [m]."""
    return tf.reduce_sum(_popcount(words))


def _popcount(words):
    return tf.cast(tf.raw_ops.PopulationCount(x=words), tf.int32)


def _first_above(ends, ordinal):
    """Returns the first index whose value exceeds each ordinal, `len(ends)` where there is none; `ends` ascend."""
    size = ends.shape[0]

    def body(bit, found):
        candidate = found + tf.bitwise.left_shift(1, bit)
        not_above = tf.gather(ends, tf.minimum(candidate, size) - 1) <= ordinal
        return bit - 1, tf.where((candidate <= size) & not_above, candidate, found)

    bits = size.bit_length()
    start = (tf.constant(bits - 1), tf.zeros_like(ordinal))
    return tf.while_loop(lambda bit, _: bit >= 0, body, start, maximum_iterations=bits)[1]


def _select(words, rank):
    """Returns the position, 0 to 31, of the set bit of each word before which `rank` others are set."""
    found = tf.zeros_like(rank)
    for width in (16, 8, 4, 2, 1):
        low = tf.bitwise.bitwise_and(tf.bitwise.right_shift(words, found), (1 << width) - 1)
        ones = _popcount(low)
        beyond = rank >= ones
        rank = tf.where(beyond, rank - ones, rank)
        found = tf.where(beyond, found + width, found)
    return found
