"""What every topology does and tells."""

import abc
from collections.abc import Generator, Sequence
from typing import NamedTuple

import tensorflow as tf

from dqgan_tf.distribute.segment import Part

LARGEST_SCALE = 1e30


class Given(NamedTuple):
    """What one replica brings into a reduction, by part where it is a list.

    values: float32 [n], each the whole vector of the part's segment.
    residuals: float32 [size], e of the part alone.
    states: what the compressors have learned, float32 [s], equal on all replicas; None for compressors without state.
    seed: int32 [2], of stochastic rounding, this replica's own.
    common_seed: int32 [2], equal on all replicas.
    rank: int32 scalar, of this replica in the group.
    buffers: variables [size] that new residuals may be written into, in place; None: there is none. What they hold does
      not matter, before or after.
    means: variables [n], one for the segment, that the part of the mean is written into, in place; None: it is
      returned.
    """

    values: list
    residuals: list
    states: list
    seed: tf.Tensor
    common_seed: tf.Tensor
    rank: tf.Tensor
    buffers: list | None = None
    means: list | None = None


class Reduced(NamedTuple):
    """What one reduction gives on one replica.

    means: q, one float32 [size] vector per part, bit-identical on all replicas; None where it is in `Given.means`.
    residuals: e, the same shapes; to be kept only if `finite`.
    statistics: float32 [parts, 3], see `error_feedback.Encoded`.
    finite: bool scalar, equal on all replicas: every replica's update was finite; see `acceptable`.
    states: new states in place of the given ones, equal on all replicas; None where there is none.
    samples: per part what its compressor learns from, float32 [k], to be summed over replicas, or None.
    """

    means: list
    residuals: list
    statistics: tf.Tensor
    finite: tf.Tensor
    states: list
    samples: list


class Topology(abc.ABC):
    """A way of computing the compressed mean over M replicas.

    Args:
      parts: what is sent in one go.
      group_size: M.
    """

    name: str

    def __init__(self, parts: Sequence[Part], group_size: int):
        self.parts = tuple(parts)
        self.group_size = group_size

    @property
    def codings(self) -> tuple:
        """The `segment.Coding` of every part."""
        return tuple(part.coding for part in self.parts)

    @property
    def dense_bytes(self) -> int:
        """Bytes of one replica's vectors in float32, 4n."""
        return 4 * sum(part.size for part in self.parts)

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

    @property
    def buffered(self) -> tuple[bool, ...]:
        """Which parts' new residuals are written into `Given.buffers`."""
        return (False,) * len(self.parts)

    @property
    def writes_means(self) -> bool:
        """Whether parts of the mean are written into `Given.means`."""
        return False

    @abc.abstractmethod
    def reduce(self, given: Given) -> Generator:
        """Yields a `pipeline.Request` for each collective and returns `Reduced`. Runs while a graph is built."""


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
