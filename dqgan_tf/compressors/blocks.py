"""A function of flat vectors applied to one cache-sized block after the other, inside one XLA computation."""

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

CPU_BLOCK = 32768
"""Values per block that keep one block's inputs, codes and residual (about 0.5 MB) inside a core's L2 cache."""

_SEED_STRIDE = 0x3C6EF372


def num_blocks(n: int, block: int) -> int:
    """Returns how many whole blocks are looped over; the rest, one to two blocks, is done once after the loop."""
    return max(0, n // block - 1)


def map_blocks(encode, vectors, seed, compressor, block):
    """Returns what `encode(*vectors, seed)` returns, block by block. Only inside `tf.function(jit_compile=True)`.

    Args:
      encode: (float32 [k] vectors, int32 [2] seed) -> NamedTuple (payload, residual float32 [k], statistics), where
        statistics are sums over values.
      vectors: tuple of float32 [n].
      seed: int32 [2]; every block gets another.
      compressor: of the payload, with a `block_multiple`.
      block: values per block, a multiple of `compressor.block_multiple`.

    Raises:
      ValueError: `block` is not such a multiple.
    """
    if block <= 0 or block % compressor.block_multiple:
        raise ValueError(f"`block` must be a positive multiple of {compressor.block_multiple}. Received: block={block}")
    n = vectors[0].shape[0]
    count = num_blocks(n, block)
    if not count:
        return encode(*vectors, seed)

    def body(index, fields, residual, statistics):
        start = index * block
        inputs = [tf.ensure_shape(tf.slice(vector, [start], [block]), [block]) for vector in vectors]
        encoded = encode(*inputs, seed + tf.stack([(index + 1) * _SEED_STRIDE, 0]))
        return index + 1, *_write(fields, residual, statistics, encoded, start, compressor.block_multiple)

    spec = compressor.payload_spec(n)
    buffers = (
        tf.nest.map_structure(lambda field: tf.zeros(field.shape, field.dtype), spec),
        tf.zeros([n]),
        tf.zeros([3]),
    )
    _, *buffers = tf.while_loop(lambda index, *_: index < count, body, (0, *buffers), maximum_iterations=count)
    start = count * block
    rest = encode(*[vector[start:] for vector in vectors], seed)
    return type(rest)(*_write(*buffers, rest, start, compressor.block_multiple))


def _write(fields, residual, statistics, encoded, start, row_size):
    row = start // row_size
    written = [_update(field, part, row) for field, part in zip(fields, encoded.payload, strict=True)]
    return type(fields)(*written), _update(residual, encoded.residual, start), statistics + encoded.statistics


def _update(buffer, part, start):
    indices = tf.stack([start] + [0] * (buffer.shape.rank - 1))
    return gen_xla_ops.xla_dynamic_update_slice(buffer, part, indices)
