"""Error feedback: what a compressor drops is remembered and added to the next update.

    p_t = update_t + e_{t-1};    payload_t = encode(p_t);    e_t = p_t - decode(payload_t)

so that sum_t decode(payload_t) + e_T = sum_t update_t: nothing is lost, only delayed.
Karimireddy et al. 2019, arXiv 1901.09847, algorithm 2.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from dqgan_tf.compressors import Compressor, blocks, float_bits
from dqgan_tf.compressors.blocks import effective_block


class Encoded(NamedTuple):
    """What one call sends, keeps and measured.

    payload: the compressor's NamedTuple of 32-bit tensors.
    residual: float32 [n], e_t.
    statistics: float32 [3] = (||p_t||^2, ||e_{t-1}||^2, ||p_t - decode(payload_t)||^2); inf when a square overflows.
    """

    payload: Any
    residual: tf.Tensor
    statistics: tf.Tensor


def encode_with_feedback(
    compressor: Compressor,
    update: tf.Tensor,
    residual: tf.Tensor,
    seed: tf.Tensor,
    *,
    block: int | None = None,
    buffer: tf.Tensor | None = None,
) -> Encoded:
    """Compensates, encodes and remembers. Pure; may be called eagerly, in a graph or jit-compiled.

    Consecutive pieces of a longer vector, cut at multiples of `effective_block(compressor, block)` and the last at
    least one such block long, each with the `blocks.block_seed` of its first block, have the whole vector's payload
    fields and residuals, piece after piece, bit for bit.

    Args:
      compressor: how p is encoded.
      update: float32 [n], in units of parameters, or a `blocks.Window` of a longer vector.
      residual: float32 [n], what the calls before this one have not sent.
      seed: int32 [2], of stochastic rounding.
      block: encode about this many values at a time (whole buckets), so that all passes over them hit the cache. Faster
        on a CPU (`blocks.CPU_BLOCK`), slower on a GPU, and only inside `tf.function(jit_compile=True)`. None: all at
        once.
      buffer: float32 [n], where blocks of the new residual are written; what it held does not matter. The value of a
        variable that is then assigned the residual is written in place. None: new memory.
    """
    return _encode(compressor, update, residual, seed, block, buffer)


def encode_without_feedback(
    compressor: Compressor, update: tf.Tensor, seed: tf.Tensor, *, block: int | None = None
) -> Encoded:
    """Encodes the update alone: the residual is zero and what is dropped is lost, though measured.

    Args as `encode_with_feedback`.
    """
    return _encode(compressor, update, None, seed, block, None)


def _encode(compressor, update, residual, seed, asked, buffer):
    n, block = update.shape[0], effective_block(compressor, asked)
    if block:
        return _encode_in_blocks(compressor, update, residual, seed, block, buffer)
    update = blocks.whole(update)
    payload, error = compressor.encode_and_error(_compensated(update, residual), seed)
    kept = tf.zeros([n]) if residual is None else error
    return Encoded(payload, kept, _statistics_in_blocks(update, residual, error, asked))


def _encode_in_blocks(compressor, update, residual, seed, block, buffer):
    n, spec = update.shape[0], compressor.payload_spec(update.shape[0])

    def write(index, size, payload, kept, total):
        position = index * block
        before = None if residual is None else blocks.read(residual, position, size)
        compensated = _compensated(blocks.read(update, position, size), before)
        part, error = compressor.encode_and_error(compensated, blocks.block_seed(seed, index))
        row = position // compressor.block_multiple
        fields = [blocks.write(field, rows, row) for field, rows in zip(payload, part, strict=True)]
        if residual is not None:
            kept = blocks.write(kept, error, position)
            # XLA would compute the error twice rather than read it, were this known to be the same place. It does not
            # know that a sum of squares is never negative.
            error = blocks.read(kept, position + tf.cast(total[2] < 0.0, tf.int32), size)
        return type(payload)(*fields), kept, total + _statistics(compensated, before, error)

    payload = tf.nest.map_structure(lambda field: tf.zeros(field.shape, field.dtype), spec)
    buffer = tf.zeros([n]) if buffer is None else buffer
    return Encoded(*blocks.for_each_block(write, (payload, buffer, tf.zeros([3])), n, block))


def _statistics_in_blocks(update, residual, error, block):
    def add(index, size, total):
        parts = [None if v is None else blocks.read(v, index * block, size) for v in (update, residual, error)]
        return (total + _statistics(_compensated(*parts[:2]), *parts[1:]),)

    if not block:
        return _statistics(_compensated(update, residual), residual, error)
    return blocks.for_each_block(add, (tf.zeros([3]),), update.shape[0], block)[0]


def _compensated(update, residual):
    return update if residual is None else update + residual


def _statistics(compensated, residual, error):
    return statistics(compensated, tf.zeros([0]) if residual is None else residual, error)


def energy(vector: tf.Tensor, block: int | None) -> tf.Tensor:
    """Returns ||vector||^2, a float32 scalar. XLA reads the vector in blocks, without them it may compute it again."""
    if not block:
        return float_bits.sum_of_squares(vector)

    def add(index, size, total):
        return (total + float_bits.sum_of_squares(blocks.read(vector, index * block, size)),)

    return blocks.for_each_block(add, (tf.zeros([]),), vector.shape[0], block)[0]


def statistics(compensated: tf.Tensor, residual: tf.Tensor, error: tf.Tensor) -> tf.Tensor:
    """Returns float32 [3], the squared norms of p_t, e_{t-1} and p_t - decode(payload_t), float32 [n] each."""
    return tf.stack([float_bits.sum_of_squares(part) for part in (compensated, residual, error)])
