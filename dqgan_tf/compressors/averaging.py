"""The mean of several payloads, without a float32 vector for each of them."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from dqgan_tf.compressors.base import Compressor
from dqgan_tf.compressors.sparse import Sparse


def mean_of_payloads(compressor: Compressor, payloads: Sequence[Any], n: int) -> tf.Tensor:
    """Returns float32 [n], 1/M sum_m decode(payload_m), added in the order given: the same order gives the same bits.

    Compiled, all payloads are decoded and added in one pass. A sparse compressor's values are added to zeros, one
    payload after the other, so that a sum of zeros alone is +0 where the dense sum may be -0; all other bits are those
    of the dense sum.

    Args:
      compressor: of the payloads.
      payloads: M payloads of vectors of n values, see `Compressor.payload_spec`.
      n: static.
    """
    if isinstance(compressor, Sparse):
        total = _scattered(compressor, payloads, n)
    else:
        total = _sum([compressor.decode(one, n) for one in payloads])
    return total * (1.0 / len(payloads))


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
