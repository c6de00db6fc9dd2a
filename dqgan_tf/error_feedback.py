"""Error feedback: what a compressor drops is added to the next update.

    p_t = update_t + e_{t-1};    c_t = encode(p_t);    e_t = p_t - decode(c_t)

Hence sum_t decode(c_t) + e_T = sum_t update_t: nothing is lost, only delayed.
Karimireddy et al. 2019, arXiv 1901.09847, algorithm 2.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from dqgan_tf.compressors import Compressor, blocks, float_bits


class Encoded(NamedTuple):
    """Result of one encoding.

    payload: c_t, the compressor's NamedTuple of 32-bit tensors.
    residual: e_t, float32 [n]; None without error feedback.
    energies: float32 [3], the squared norms of p_t, of the argument `residual` and of p_t - decode(c_t); inf where a
      square overflows.
    """

    payload: Any
    residual: tf.Tensor | None
    energies: tf.Tensor


def encode(
    compressor: Compressor,
    update: tf.Tensor | blocks.Window,
    residual: tf.Tensor | None,
    seed: tf.Tensor,
    *,
    block: int | None = None,
    spare: tf.Tensor | None = None,
) -> Encoded:
    """Adds the residual to the update, encodes the sum and returns the new residual.

    >>> from dqgan_tf import compressors
    >>> update, residual = tf.constant([1.0, -2.0, 3.0]), tf.constant([0.0, 1.0, 0.0])
    >>> encoded = encode(compressors.get("topk:fraction=0.3"), update, residual, seed=tf.constant([0, 0]))
    >>> encoded.residual.numpy()  # only the largest value of update + residual, 3, is sent
    array([ 1., -1.,  0.], dtype=float32)

    Pure: callable eagerly, in a graph or in a jit-compiled function. A vector may be encoded in slices. The result is
    the same, bit for bit, if every slice starts at a multiple of `blocks.effective_block(compressor, block)`, its seed
    is the `blocks.block_seed` of its first block, and the last slice has at least one whole block.

    Args:
      compressor: compressor that encodes p_t.
      update: float32 [n], in units of parameters, or a window of a longer vector.
      residual: e_{t-1}, or e_{t-1} minus a learned shift, float32 [n]; None: no error feedback, p_t = update_t.
      seed: int32 [2], seed of stochastic rounding.
      block: number of values that are encoded at a time, rounded to whole buckets, so that all passes over a block hit
        the cache. Faster on a CPU (`blocks.CPU_BLOCK`), slower on a GPU; only inside `tf.function(jit_compile=True)`.
        None: all values at once.
      spare: float32 [n], memory for e_t; its content is ignored. Pass the value of a variable and assign
        `Encoded.residual` to that variable: XLA then writes in place. None: new memory.
    """
    if blocks.effective_block(compressor, block):
        return _encode_in_blocks(compressor, update, residual, seed, block, spare)
    update = blocks.whole(update)
    payload, _, error = _equations(compressor, update, residual, seed)
    return Encoded(payload, None if residual is None else error, energies(update, residual, error, block))


def _equations(compressor, update, residual, seed):
    """Returns (c_t, p_t, e_t)."""
    p = update if residual is None else update + residual
    payload, decoded = compressor.encode_and_decode(p, seed)
    return payload, p, p - decoded


def _encode_in_blocks(compressor, update, residual, seed, block, spare):
    block = blocks.effective_block(compressor, block)
    n = update.shape[0]

    def encode_block(index, size, payload, residuals, total):
        start = index * block
        e = None if residual is None else blocks.read(residual, start, size)
        rows, p, error = _equations(compressor, blocks.read(update, start, size), e, blocks.block_seed(seed, index))
        row = start // compressor.block_multiple
        payload = type(payload)(*[blocks.write(field, x, row) for field, x in zip(payload, rows, strict=True)])
        if residual is not None:
            residuals = blocks.write(residuals, error, start)
            # Read the stored error back for the energy. If XLA knew that it reads what it has just written, it would
            # compute the error a second time instead. So the index has a term that is always 0, since a sum of squares
            # is never negative; XLA cannot prove it.
            always_zero = tf.cast(total[2] < 0.0, tf.int32)
            error = blocks.read(residuals, start + always_zero, size)
        return payload, residuals, total + _energies(p, e, error)

    empty = tf.nest.map_structure(lambda field: tf.zeros(field.shape, field.dtype), compressor.payload_spec(n))
    spare = tf.zeros([n if residual is not None else 0]) if spare is None else spare
    payload, error, total = blocks.for_each_block(encode_block, (empty, spare, tf.zeros([3])), n, block)
    return Encoded(payload, None if residual is None else error, total)


def energies(update: tf.Tensor, residual: tf.Tensor | None, error: tf.Tensor, block: int | None) -> tf.Tensor:
    """Returns `Encoded.energies`, float32 [3], computed block by block if `block` is given: XLA then stores no p_t."""
    if not block:
        return _energies(update if residual is None else update + residual, residual, error)

    def add(index, size, total):
        x, e, d = (None if v is None else blocks.read(v, index * block, size) for v in (update, residual, error))
        return (total + _energies(x if e is None else x + e, e, d),)

    return blocks.for_each_block(add, (tf.zeros([3]),), update.shape[0], block)[0]


def energy(vector: tf.Tensor, block: int | None) -> tf.Tensor:
    """Returns ||vector||^2, float32 scalar, computed block by block if `block` is given."""
    if not block:
        return float_bits.sum_of_squares(vector)

    def add(index, size, total):
        return (total + float_bits.sum_of_squares(blocks.read(vector, index * block, size)),)

    return blocks.for_each_block(add, (tf.zeros([]),), vector.shape[0], block)[0]


def _energies(p, residual, error):
    residual = tf.zeros([0]) if residual is None else residual
    return tf.stack([float_bits.sum_of_squares(vector) for vector in (p, residual, error)])
