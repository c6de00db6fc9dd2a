"""A short digest of a vector's bits, cheap enough to compare across replicas during training."""

import tensorflow as tf


@tf.function(jit_compile=True, autograph=False)
def digest(vector: tf.Tensor) -> tf.Tensor:
    """Returns int32 [2]: two wrap-around sums over i of bits(vector_i) * odd_i, with odd_i hashed from the index.

    Every odd factor is invertible modulo 2^32, so a change in any single value always changes both sums; two random
    vectors agree with probability 2^-64. Not cryptographic: it finds divergence, not malice.

    Args:
      vector: float32 [n].
    """
    bits = tf.bitcast(vector, tf.uint32)
    index = tf.cast(tf.range(tf.size(vector)), tf.uint32)
    sums = [tf.reduce_sum(bits * _odd(index, salt)) for salt in (0x9E3779B9, 0x85EBCA6B)]
    return tf.bitcast(tf.stack(sums), tf.int32)


def _odd(index, salt):
    """An odd uint32 factor per index: one multiply-xorshift round."""
    x = (index + tf.constant(salt, tf.uint32)) * tf.constant(0x7FEB352D, tf.uint32)
    x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(15, tf.uint32)))
    return tf.bitwise.bitwise_or(x * tf.constant(0x846CA68B, tf.uint32), tf.constant(1, tf.uint32))
