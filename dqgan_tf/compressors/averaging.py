"""The mean of several payloads, without a float32 vector for each of them."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from dqgan_tf.compressors import blocks
from dqgan_tf.compressors.base import Compressor
from dqgan_tf.compressors.sparse import Sparse


def mean_of_payloads(compressor: Compressor, payloads: Sequence[Any], n: int, *, block: int | None = None) -> tf.Tensor:
    """Returns float32 [n], 1/M sum_m decode(payload_m), added in the order given: the same order gives the same bits.

    A sparse compressor's values are added to zeros, one payload after the other, so that a sum of zeros alone is +0
    where the dense sum may be -0; all other bits are those of the dense sum.

    Args:
      compressor: of the payloads.
      payloads: M payloads of vectors of n values, see `Compressor.payload_spec`.
      n: static.
      block: decode about this many values at a time, see `error_feedback.encode_with_feedback`; the same bits.
    """
    share = 1.0 / len(payloads)
    if isinstance(compressor, Sparse):
        return _scattered(compressor, payloads, n) * share
    block = blocks.effective_block(compressor, block)
    if not block:
        return _sum([compressor.decode(one, n) for one in payloads]) * share

    def write(index, size, mean):
        row, count = index * block // compressor.block_multiple, -(-size // compressor.block_multiple)
        parts = [type(one)(*(blocks.read(field, row, count) for field in one)) for one in payloads]
        part = _sum([compressor.decode(one, size) for one in parts]) * share
        return (blocks.write(mean, part, index * block),)

    return blocks.for_each_block(write, (tf.zeros([n]),), n, block)[0]


def _sum(vectors):
    total = vectors[0]
    for term in vectors[1:]:
        total += term
    return total


def _scattered(compressor, payloads, n):
    total = tf.zeros([compressor.extent(n)])
    for one in payloads:
        values, indices = compressor.decode_sparse(one, n)
        total = tf.tensor_scatter_nd_add(total, indices[:, None], values)
    return total[:n]
