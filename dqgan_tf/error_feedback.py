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
) -> Encoded:
    """Compensates, encodes and remembers. Pure; may be called eagerly, in a graph or jit-compiled.

    Consecutive pieces of a longer vector, cut at multiples of `effective_block(compressor, block)` and the last at
    least one such block long, each with the `blocks.block_seed` of its first block, have the whole vector's payload
    fields and residuals, piece after piece, bit for bit.

    Args:
      compressor: how p is encoded.
      update: float32 [n], in units of parameters.
      residual: float32 [n], what the calls before this one have not sent.
      seed: int32 [2], of stochastic rounding.
      block: encode about this many values at a time (whole buckets), so that all passes over them hit the cache. Faster
        on a CPU (`blocks.CPU_BLOCK`), slower on a GPU, and only inside `tf.function(jit_compile=True)`. None: all at
        once.
    """

    def encode(update, residual, seed):
        payload, error = compressor.encode_and_error(update + residual, seed)
        return payload, error, (update, residual, error)

    def energies(update, residual, error):
        return statistics(update + residual, residual, error)

    return _in_blocks(encode, energies, (update, residual), seed, compressor, block)


def encode_without_feedback(
    compressor: Compressor, update: tf.Tensor, seed: tf.Tensor, *, block: int | None = None
) -> Encoded:
    """Encodes the update alone: the residual is zero and what is dropped is lost, though measured.

    Args as `encode_with_feedback`.
    """

    def encode(update, seed):
        payload, error = compressor.encode_and_error(update, seed)
        return payload, tf.zeros_like(update), (update, error)

    def energies(update, error):
        return statistics(update, tf.zeros_like(update), error)

    return _in_blocks(encode, energies, (update,), seed, compressor, block)


def _in_blocks(encode, energies, vectors, seed, compressor, asked):
    """`encode` returns (payload, residual, vectors of which `energies` returns the statistics)."""
    n, block = vectors[0].shape[0], effective_block(compressor, asked)
    if not block:
        payload, residual, measured = encode(*vectors, seed)
        return Encoded(payload, residual, _sum_in_blocks(energies, measured, n, asked))

    def write(index, size, payload, residual, statistics):
        position = index * block
        parts = [blocks.read(vector, position, size) for vector in vectors]
        part, kept, measured = encode(*parts, blocks.block_seed(seed, index))
        sums = energies(*measured)
        row = position // compressor.block_multiple
        fields = [blocks.write(field, rows, row) for field, rows in zip(payload, part, strict=True)]
        if compressor.unbiased:
            # A sum of squares is never negative, which XLA does not know: it computes a random error once, for both.
            position += tf.cast(sums[2] < 0.0, tf.int32)
        residual = blocks.write(residual, kept, position)
        return type(payload)(*fields), residual, statistics + sums

    spec = compressor.payload_spec(n)
    payload = tf.nest.map_structure(lambda field: tf.zeros(field.shape, field.dtype), spec)
    return Encoded(*blocks.for_each_block(write, (payload, tf.zeros([n]), tf.zeros([3])), n, block))


def _sum_in_blocks(energies, vectors, n, block):
    if not block:
        return energies(*vectors)

    def write(index, size, total):
        return (total + energies(*(blocks.read(vector, index * block, size) for vector in vectors)),)

    return blocks.for_each_block(write, (tf.zeros([3]),), n, block)[0]


def statistics(compensated: tf.Tensor, residual: tf.Tensor, error: tf.Tensor) -> tf.Tensor:
    """Returns float32 [3], the squared norms of p_t, e_{t-1} and p_t - decode(payload_t), float32 [n] each."""
    return tf.stack([reductions.sum_of_squares(part) for part in (compensated, residual, error)])
