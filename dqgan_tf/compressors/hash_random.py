"""Uniform random numbers: hashes of a counter, integer arithmetic that XLA fuses into the loop that uses them.

`tf.random.stateless_uniform` is about 100 times slower inside XLA on CPU. The hash is "lowbias32" (xorshift, multiply,
xorshift, multiply, xorshift; C. Wellons, "Prospecting for hash functions", 2018). A second key word, added between its
rounds, prevents that two seeds give the same sequence in another order.
"""

from __future__ import annotations

from dqgan_tf.lazy_tensorflow import tf


def uniform(positions: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 in [0, 1), multiples of 2^-24, of the shape of `positions`: a pure function of (position, seed).

    Args:
      positions: int32, any shape.
      seed: int32 [2].
    """
    return tf.cast(bits(positions, seed, 24), tf.float32) * 2.0**-24


def bits(positions: tf.Tensor, seed: tf.Tensor, count: int) -> tf.Tensor:
    """Returns int32 in [0, 2^count), count 1 to 31; arguments as of `uniform`."""
    draws = tf.bitcast(tf.bitwise.right_shift(_hash(positions, seed), _constant(32 - count)), tf.int32)
    # As in `float_bits.optimization_barrier`: without the division XLA would compute the hash again at every use. LLVM,
    # which compiles the fused loop, knows that the divisor is 1 and removes the division.
    return tf.truncatediv(draws, tf.where(draws < 0, 2, 1))


def integers(positions: tf.Tensor, seed: tf.Tensor, bounds: tf.Tensor) -> tf.Tensor:
    """Returns int64 floor(bound * hash / 2^32), in [0, bound), with probabilities equal up to bound / 2^32.

    Args:
      positions: int32, any shape.
      seed: int32 [2].
      bounds: int64 of that shape, 1 to 2^31.
    """
    return tf.bitwise.right_shift(tf.cast(_hash(positions, seed), tf.int64) * bounds, tf.constant(32, tf.int64))


def row_positions(rows: tf.Tensor) -> tf.Tensor:
    """Returns int32 [rows, width], the position in the flat vector of each value of [rows, width]."""
    count, width = rows.shape
    return (tf.range(count) * width)[:, None] + tf.range(width)


def mix(word: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Returns the hash of uint32 words: a bijection of the 32-bit words for every uint32 `key`; key 0 is lowbias32."""
    word = _xorshift(word, 16) * _constant(0x7FEB352D)
    word = _xorshift(word + key, 15) * _constant(0x846CA68B)
    return _xorshift(word, 16)


def _hash(positions, seed):
    """Returns uint32 of the shape of `positions`. Each of its two keys depends on both words of the seed."""
    words, zero = tf.bitcast(seed, tf.uint32), _constant(0)
    first = mix(mix(words[0] + _constant(0x9E3779B9), zero), words[1])
    second = mix(words[0], first)
    return mix(tf.bitwise.bitwise_xor(tf.bitcast(positions, tf.uint32), first), second)


def _xorshift(word, count):
    return tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, _constant(count)))


def _constant(value):
    return tf.constant(value, tf.uint32)
