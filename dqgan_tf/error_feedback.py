"""Error feedback: what a compressor drops is remembered and added to the next update.

    p_t = update_t + e_{t-1};    payload_t = encode(p_t);    e_t = p_t - decode(payload_t)

so that sum_t decode(payload_t) + e_T = sum_t update_t: nothing is lost, only delayed.
Karimireddy et al. 2019, arXiv 1901.09847, algorithm 2.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from dqgan_tf.compressors import Compressor, blocks, reductions
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
    start: int = 0,
) -> Encoded:
    """Compensates, encodes and remembers. Pure; may be called eagerly, in a graph or jit-compiled.

    Consecutive pieces of a longer vector, cut at multiples of `effective_block(compressor, block)` and the last at
    least one such block long, have the whole vector's payload fields and residuals, piece after piece, bit for bit.

    Args:
      compressor: how p is encoded.
      update: float32 [n], in units of parameters.
      residual: float32 [n], what the calls before this one have not sent.
      seed: int32 [2], of stochastic rounding.
      block: encode about this many values at a time (whole buckets), so that all passes over them hit the cache. Faster
        on a CPU (`blocks.CPU_BLOCK`), slower on a GPU, and only inside `tf.function(jit_compile=True)`. None: all at
        once.
      start: the position of `update[0]` in the longer vector, of which this is a piece; 0 where there are no blocks.

    Raises:
      ValueError: `start` is no multiple of the effective block, or is not 0 where there is none.
    """

    def encode(update, residual, seed):
        compensated = update + residual
        payload, error = _encode(compressor, compensated, seed)
        return Encoded(payload, error, _statistics(compensated, residual, error))

    return _in_blocks(encode, (update, residual), seed, compressor, block, start)


def encode_without_feedback(
    compressor: Compressor, update: tf.Tensor, seed: tf.Tensor, *, block: int | None = None, start: int = 0
) -> Encoded:
    """Encodes the update alone: the residual is zero and what is dropped is lost, though measured.

    Args as `encode_with_feedback`.
    """

    def encode(update, seed):
        payload, error = _encode(compressor, update, seed)
        zeros = tf.zeros_like(update)
        return Encoded(payload, zeros, _statistics(update, zeros, error))

    return _in_blocks(encode, (update,), seed, compressor, block, start)


def _in_blocks(encode, vectors, seed, compressor, block, start):
    n, block = vectors[0].shape[0], effective_block(compressor, block)
    if start % block if block else start:
        raise ValueError(f"`start` must be a multiple of the block, {block or n}. Received: start={start}")
    if not block:
        return encode(*vectors, seed)
    first = start // block

    def write(index, size, payload, residual, statistics):
        position = index * block
        parts = [blocks.read(vector, position, size) for vector in vectors]
        encoded = encode(*parts, blocks.block_seed(seed, first + index))
        row = position // compressor.block_multiple
        fields = [blocks.write(field, part, row) for field, part in zip(payload, encoded.payload, strict=True)]
        if compressor.unbiased:
            # A sum of squares is never negative, which XLA does not know: it computes a random error once, for both.
            position += tf.cast(encoded.statistics[2] < 0.0, tf.int32)
        residual = blocks.write(residual, encoded.residual, position)
        return type(payload)(*fields), residual, statistics + encoded.statistics

    spec = compressor.payload_spec(n)
    payload = tf.nest.map_structure(lambda field: tf.zeros(field.shape, field.dtype), spec)
    return Encoded(*blocks.for_each_block(write, (payload, tf.zeros([n]), tf.zeros([3])), n, block))


def _encode(compressor, vector, seed):
    if compressor.is_identity:
        return compressor.encode(vector, seed), tf.zeros_like(vector)
    payload, decoded = compressor.encode_and_decode(vector, seed)
    return payload, vector - decoded


def _statistics(compensated, residual, error):
    return tf.stack([reductions.sum_of_squares(part) for part in (compensated, residual, error)])
