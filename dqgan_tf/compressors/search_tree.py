"""Tables of a few entries without a gather: selections along a balanced tree, which vectorise."""

from collections.abc import Sequence

import tensorflow as tf


def choose(indices: tf.Tensor, table: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns table[index] for every index, of the shape of `indices`.

    Args:
      indices: int32; bits above those that number the table are ignored.
      table: 2^k tensors that broadcast against `indices`.
    """
    bit = 1
    while len(table) > 1:
        table = _halve(tf.bitwise.bitwise_and(indices, bit) != 0, table)
        bit *= 2
    return tf.broadcast_to(table[0], indices.shape)


def count_below(values: tf.Tensor, bounds: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns int32, how many bounds are below each value: k comparisons; 0 where any is NaN.

    Args:
      values: float32.
      bounds: 2^k - 1 float32 tensors in ascending order that broadcast against `values`.
    """
    if len(bounds) == 1:
        return tf.cast(values > bounds[0], tf.int32)
    half = len(bounds) // 2
    above = values > bounds[half]
    upper = [tf.where(above, high, low) for low, high in zip(bounds[:half], bounds[half + 1 :], strict=True)]
    return tf.bitwise.bitwise_or(tf.where(above, half + 1, 0), count_below(values, upper))


def _halve(odd, table):
    """Returns the entries with an odd number where `odd`, else those before them."""
    return [tf.where(odd, second, first) for first, second in zip(table[::2], table[1::2], strict=True)]
