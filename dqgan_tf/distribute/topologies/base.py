"""What every topology does and tells."""

import abc
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from dqgan_tf.distribute.segment import Segment

LARGEST_SCALE = 1e30


class Reduced(NamedTuple):
    """What one reduction gives on one replica.

    means: q, one float32 [size] vector per segment, bit-identical on all replicas.
    residuals: e, the same shapes; to be kept only if `finite`.
    statistics: float32 [segments, 3], see `error_feedback.Encoded`.
    finite: bool scalar, equal on all replicas: every replica's update was finite; see `acceptable`.
    seconds: float64 [3], spent in encode, exchange and decode.
    """

    means: list[tf.Tensor]
    residuals: list[tf.Tensor]
    statistics: tf.Tensor
    finite: tf.Tensor
    seconds: tf.Tensor


class Topology(abc.ABC):
    """A way of computing the compressed mean over M replicas.

    Args:
      segments: what is sent.
      group_size: M.
    """

    name: str

    def __init__(self, segments: Sequence[Segment], group_size: int):
        self.segments = tuple(segments)
        self.group_size = group_size

    @property
    def dense_bytes(self) -> int:
        """Bytes of one replica's vectors in float32, 4n."""
        return 4 * sum(segment.size for segment in self.segments)

    @property
    def dense_sent_bytes(self) -> int:
        """Bytes that one replica would send in an exact float32 ring all-reduce, 2(M-1)/M 4n."""
        return 2 * (self.group_size - 1) * self.dense_bytes // self.group_size

    @property
    @abc.abstractmethod
    def wire_bytes(self) -> int:
        """Bytes of one replica's payload S: one encoding of all its vectors, as it travels."""

    @property
    @abc.abstractmethod
    def sent_bytes(self) -> int:
        """Bytes that one replica sends in one reduction, all phases together."""

    @abc.abstractmethod
    def reduce(self, values, residuals, seed: tf.Tensor, rank: int, launcher, options) -> Reduced:
        """Returns the compressed mean. Called in a graph, on the replica's device.

        Args:
          values, residuals: lists of float32 [size], one per segment.
          seed: int32 [2], of stochastic rounding.
          rank: of this replica in the collective group.
          launcher: its `CollectiveReplicaLauncher`.
          options: communication options of this call.
        """


def mean_in_rank_order(decoded: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns 1/M sum_m decoded_m, added in the order given: the same order everywhere gives the same bits."""
    total = decoded[0]
    for term in decoded[1:]:
        total += term
    return total * (1.0 / len(decoded))


def all_finite(vectors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns whether every value is finite, bool scalar."""
    return tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(vector)) for vector in vectors]))


def acceptable(compressor, payload, n: int) -> tf.Tensor:
    """Returns whether a payload stands for finite values, bool scalar, without decoding it where that is possible.

    A non-finite value makes the scale of its bucket non-finite; see `Compressor.scales`. Scales from 1e30 on are
    refused too: a sum over replicas must not overflow.
    """
    scales = compressor.scales(payload, n)
    return tf.reduce_all(tf.stack([tf.reduce_all(tf.abs(scale) < LARGEST_SCALE) for scale in scales]))
