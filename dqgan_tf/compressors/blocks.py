"""Flat vectors worked on one cache-sized block after the other, inside one XLA computation."""

from typing import NamedTuple

import tensorflow as tf

CPU_BLOCK = 32768
"""Values per block that keep one block's inputs, codes and residual (about 0.5 MB) inside a core's L2 cache."""

_SEED_STRIDE = 0x3C6EF372


def effective_block(compressor, block: int | None) -> int | None:
    """Returns how many values are encoded at a time where about `block` are asked for: whole `block_multiple`s.

    None: all at once, because `block` is None or the compressor encodes a vector only as a whole.
    """
    multiple = compressor.block_multiple
    if block is None or multiple is None:
        return None
    return max(multiple, block - block % multiple)


def num_blocks(n: int, block: int) -> int:
    """Returns how many blocks are looped over: all whole ones, without the last where a rest joins it."""
    return n // block if n % block == 0 else max(0, n // block - 1)


def block_seed(seed: tf.Tensor, index) -> tf.Tensor:
    """Returns the int32 [2] seed of block `index`, an int32 scalar: another for each, `seed` itself for block 0."""
    return seed + tf.stack([tf.cast(index, tf.int32) * _SEED_STRIDE, 0])


def for_each_block(write, buffers, n: int, block: int):
    """Returns the buffers after every block of n values was written. Only inside `tf.function(jit_compile=True)`.

    Args:
      write: (index, size, *buffers) -> buffers, of the `size` values from `index * block` on. `index` is an int32
        scalar or an int, `size` an int: `block`, or up to one value less than twice as many at the end.
      buffers: tuple of tensors or NamedTuples of them.
    """
    count, last = num_blocks(n, block), n - num_blocks(n, block) * block
    if count:
        _, *buffers = tf.while_loop(
            lambda index, *_: index < count,
            lambda index, *carried: (index + 1, *write(index, block, *carried)),
            (tf.constant(0), *buffers),
            maximum_iterations=count,
        )
    return write(count, last, *buffers) if last else tuple(buffers)


class Window(NamedTuple):
    """The `size` values of a vector from `start` on, of which blocks are read without a copy of them all.

    vector: [n]. start: int32 scalar. size: static.
    """

    vector: tf.Tensor
    start: tf.Tensor
    size: int

    @property
    def shape(self) -> tf.TensorShape:
        """[size]."""
        return tf.TensorShape([self.size])


def whole(vector) -> tf.Tensor:
    """Returns a vector as it is, and the values of a `Window`."""
    return read(vector, 0, vector.size) if isinstance(vector, Window) else vector


def read(tensor, start, size: int) -> tf.Tensor:
    """Returns the rows [start, start + size) of a tensor of any rank >= 1; `size` is static, `start` need not be.

    Of a `Window`, positions count from its start.
    """
    if isinstance(tensor, Window):
        tensor, start = tensor.vector, tensor.start + start
    rest = tensor.shape[1:]
    rows = tf.slice(tensor, tf.stack([start] + [0] * rest.rank), [size, *rest])
    return tf.ensure_shape(rows, [size, *rest])


def write(tensor: tf.Tensor, rows: tf.Tensor, start) -> tf.Tensor:
    """Returns the tensor with `rows` from row `start` on, in place where it is a loop's own."""
    from dqgan_tf import private_tensorflow  # here, since it loads TensorFlow

    return private_tensorflow.update_slice(tensor, rows, start)
