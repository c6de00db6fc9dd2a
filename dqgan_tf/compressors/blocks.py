"""Loops over cache-sized blocks of flat vectors, inside one XLA computation."""

from __future__ import annotations

from typing import NamedTuple

from dqgan_tf.lazy_tensorflow import tf

CPU_BLOCK = 32768
"""Values of a block whose input, codes and residual (about 0.5 MB) fit into a core's L2 cache."""

_SEED_STRIDE = 0x3C6EF372  # 2^33 / golden ratio: seeds of nearby blocks differ in high and low bits


def effective_block(compressor, block: int | None) -> int | None:
    """Returns the size of the blocks to encode: `block` rounded down to a multiple of `block_multiple`, at least one.

    None: the vector is encoded as a whole, because `block` or the compressor's `block_multiple` is None.
    """
    multiple = compressor.block_multiple
    if block is None or multiple is None:
        return None
    return max(multiple, block - block % multiple)


def block_seed(seed: tf.Tensor, index) -> tf.Tensor:
    """Returns the int32 [2] seed of block `index`, an int32 scalar: `seed` itself for block 0."""
    return seed + tf.stack([tf.cast(index, tf.int32) * _SEED_STRIDE, 0])


def for_each_block(write, buffers, n: int, block: int):
    """Calls `write` for every block of n values and returns the buffers. Only in `tf.function(jit_compile=True)`.

    If n is not a multiple of `block`, the last whole block and the remainder are one block, which follows the loop.

    Args:
      write: (index, size, *buffers) -> buffers, for the `size` values from `index * block` on. `index` is an int32
        scalar or an int; `size` is an int: `block`, or up to 2 * block - 1 for the last call.
      buffers: tuple of tensors or NamedTuples of them.
    """
    count = n // block if n % block == 0 else max(0, n // block - 1)  # iterations of the loop
    last_size = n - count * block
    if count:
        _, *buffers = tf.while_loop(
            lambda index, *_: index < count,
            lambda index, *buffers: (index + 1, *write(index, block, *buffers)),
            (tf.constant(0), *buffers),
            maximum_iterations=count,
        )
    return write(count, last_size, *buffers) if last_size else tuple(buffers)


class Window(NamedTuple):
    """A range of a vector whose blocks are read without copying the range first.

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
    """Returns the values of a `Window`; a tensor as it is."""
    if not isinstance(vector, Window):
        return vector
    return vector.vector if vector.vector.shape[0] == vector.size else read(vector, 0, vector.size)


def read(tensor, start, size: int) -> tf.Tensor:
    """Returns the rows [start, start + size) of a tensor of rank >= 1, or of a `Window`, counted from its start.

    `size` is static; `start` may be a tensor.
    """
    if isinstance(tensor, Window):
        whole = tensor.vector.shape[0] == tensor.size
        tensor, start = tensor.vector, start if whole else tensor.start + start
    rest = tensor.shape[1:]
    rows = tf.slice(tensor, tf.stack([start] + [0] * rest.rank), [size, *rest])
    return tf.ensure_shape(rows, [size, *rest])


def write(tensor: tf.Tensor, rows: tf.Tensor, start) -> tf.Tensor:
    """Returns the tensor with `rows` from row `start` on; XLA updates the buffer of a loop in place."""
    from dqgan_tf import private_tensorflow  # not at the top: it loads TensorFlow

    return private_tensorflow.update_slice(tensor, rows, start)
