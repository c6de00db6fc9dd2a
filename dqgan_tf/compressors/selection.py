"""The k largest magnitudes of a vector, exactly, without a sort: a sampled threshold, then counting above it.

    1. From a sample of S, a threshold that about 1.2 k of all values reach (five standard deviations above k).
    2. Those are marked in a bit vector and their positions listed: the candidates.
    3. Among them, the k-th largest by bisection of its 31 bits, and ties in the order of the index.

Where the sample misleads (fewer than k candidates, or too many, as with many equal values) all values are counted
instead: the same result, ten times slower.

The result lists *slots*, not indices, in ascending order. Bits are packed in planes, see `packing`: a row of 32 W
values is W words, and bit b of word w is the value b W + w, slot 32 w + b. `to_indices` maps slots back.
"""

import math

import tensorflow as tf

from dqgan_tf.compressors import bitset, buckets, float_bits, hash_random, packing, reductions

_ROW = 4096
_SAMPLE = 65536
_DEVIATIONS = 5.0


def num_slots(n: int) -> int:
    """Returns the number of slots of n values: n rounded up to whole rows."""
    rows, width = buckets.shape(n, _ROW)
    return rows * width


def to_indices(slots: tf.Tensor, n: int) -> tf.Tensor:
    """Returns the int32 indices of int32 slots of n values."""
    width = buckets.shape(n, _ROW)[1]
    inside = slots % width
    return slots - inside + inside % bitset.WORD * (width // bitset.WORD) + inside // bitset.WORD


def largest(vector: tf.Tensor, k: int) -> tf.Tensor:
    """Returns the slots, ascending, of the k largest |x|; of equal ones the first. NaN counts as inf.

    Args:
      vector: float32 [n].
      k: static, 1 to n.

    Returns:
      int32 [k].
    """
    n = vector.shape[0]
    sampled, capacity = _plan(n, k)
    if capacity >= n:
        return _counted(vector, k)
    threshold = _kth_largest(_keys(tf.gather(vector, _sample_positions(n))), sampled)
    marks = _mark(_keys(vector) >= threshold)
    found = bitset.total(marks)
    enough = (found >= k) & (found <= capacity)
    return tf.cond(enough, lambda: _among(vector, marks, found, k, capacity), lambda: _counted(vector, k))


def _keys(values):
    """Returns int32 that order values as their magnitudes do. Computed again where needed: storing them costs more."""
    return tf.minimum(float_bits.magnitude(values), float_bits.INFINITY_BITS)


def _plan(n, k):
    """Returns (rank of the threshold in the sample, most candidates)."""
    expected = _SAMPLE * k / n
    sampled = math.ceil(expected + _DEVIATIONS * math.sqrt(expected)) + 1
    capacity = math.ceil((sampled + _DEVIATIONS * math.sqrt(sampled) + 1) * n / _SAMPLE)
    return sampled, capacity + -capacity % bitset.WORD


def _sample_positions(n):
    """Returns int32 [sample] hashed positions: a stride could follow the layout of the weights."""
    words = hash_random.mix(tf.bitcast(tf.range(_SAMPLE), tf.uint32), tf.constant(0, tf.uint32))
    return tf.cast(words % tf.constant(n, tf.uint32), tf.int32)


def _counted(vector, k):
    """`largest` by counting over all values."""
    keys = _keys(vector)
    return bitset.positions(_mark(_is_largest(keys, tf.range(keys.shape[0]), k)), k)


def _among(vector, marks, found, k, capacity):
    """`largest` among the marked values, of which there are `found`, k to `capacity`."""
    slots = bitset.positions(marks, capacity)
    indices = to_indices(slots, vector.shape[0])
    real = tf.range(capacity) < found
    candidates = tf.where(real, _keys(tf.gather(vector, tf.where(real, indices, 0))), -1)
    chosen = _is_largest(candidates, indices, k)
    words = packing.pack(tf.reshape(tf.cast(chosen, tf.int32), [-1, bitset.WORD]), 1)
    return tf.gather(slots, bitset.positions(words[:, 0], k))


def _mark(flags):
    """Returns the bits of bool [n] in slots: int32 [slots / 32]."""
    n = flags.shape[0]
    width = buckets.shape(n, _ROW)[1]
    whole = n // width * width
    # Only the last row is padded: XLA writes what is padded to memory.
    words = [_pack_bits(flags[:whole], width)] if whole else []
    if whole < n:
        words.append(_pack_bits(tf.pad(flags[whole:], [[0, whole + width - n]]), width))
    return tf.concat(words, axis=0)


def _pack_bits(flags, width):
    return tf.reshape(packing.pack(tf.reshape(tf.cast(flags, tf.int32), [-1, width]), 1), [-1])


def _is_largest(keys, indices, k):
    """Returns bool [m], k of them true: the largest of int32 keys, ties by the smallest of int32 indices."""
    threshold = _kth_largest(keys, k)
    equal = keys == threshold
    missing = k - reductions.count(keys > threshold)
    bound = _bisect(lambda bound: reductions.count(equal & (indices < bound)) <= missing)
    return (keys > threshold) | (equal & (indices < bound))


def _kth_largest(keys, k):
    return _bisect(lambda threshold: reductions.count(keys >= threshold) >= k)


def _bisect(holds):
    """Returns the largest int32 for which `holds` is true; true up to some number >= 0, false above."""

    def body(bit, found):
        candidate = found + tf.bitwise.left_shift(1, bit)
        return bit - 1, tf.where(holds(candidate), candidate, found)

    start = (tf.constant(30), tf.constant(0))
    return tf.while_loop(lambda bit, _: bit >= 0, body, start, maximum_iterations=31)[1]
