"""What a channel sends: segments, and the parts of segments that travel together."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dqgan_tf.compressors import Compression, PowerSGD


class Segment(NamedTuple):
    """One flat float32 vector with a compressor of its own.

    name: for messages, checkpoints and telemetry, e.g. `generator`.
    size: number of values, at least 1.
    compressor: what encodes it.
    shapes: of the tensors that the vector is made of, in order; empty for one vector. Read by compressors of matrices.
    """

    name: str
    size: int
    compressor: Compression
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def is_low_rank(self) -> bool:
        """Whether it travels as thin matrices rather than as a payload."""
        return isinstance(self.compressor, PowerSGD)

    @property
    def is_exact(self) -> bool:
        """Whether nothing is compressed."""
        return not self.is_low_rank and self.compressor.is_identity

    @property
    def delta(self) -> float:
        """The compressor's proven bound for this vector; see `Compression`."""
        return self._plan().delta if self.is_low_rank else self.compressor.delta(self.size)

    @property
    def sampling(self) -> int:
        """Of how many buckets the compressor's statistics look at one."""
        return 1 if self.is_low_rank else self.compressor.histogram_stride(self.size)

    @property
    def statistics_bytes(self) -> int:
        """Of what replicas add up for the compressor to learn from."""
        return 0 if self.is_low_rank else 4 * self.compressor.histogram_size

    def initial_state(self) -> np.ndarray | None:
        """Returns what the compressor starts from, float32 [s], equal on all replicas; None: it has no state."""
        return self._plan().initial_state() if self.is_low_rank else self.compressor.initial_state(self.size)

    def _plan(self):
        return self.compressor.plan(self.shapes or ((self.size,),))


def check_contraction(segments: Sequence[Segment]) -> None:
    """Refuses what error feedback is not proven to converge with.

    Raises:
      ValueError: a segment whose delta is 0, with a compressor that contracts it where the segment's own knows one.
    """
    for segment in segments:
        if segment.delta > 0:
            continue
        other = segment._replace(compressor=segment.compressor.contractive_variant())
        advice = f"take {other.compressor.spec!r}, " if other.delta > 0 else ""
        raise ValueError(
            f"Error feedback needs a contractive compressor: {segment.compressor.spec!r} proves no contraction on the "
            f"{segment.size} values of {segment.name!r}, so residuals may grow without bound. Turn error feedback off, "
            f"{advice}or set allow_non_contractive to accept the risk."
        )


class Coding(NamedTuple):
    """What decides how a part is encoded: parts with equal ones share their compiled functions.

    size: number of values.
    compressor, shapes: the segment's; shapes only where the part is the whole segment.
    sampling: the segment's.
    """

    size: int
    compressor: Compression
    shapes: tuple[tuple[int, ...], ...] = ()
    sampling: int = 1


class Part(NamedTuple):
    """A range of one segment that is encoded and sent as a whole.

    segment: index of the segment in its channel.
    start: of the range.
    coding: of its values.
    """

    segment: int
    start: int
    coding: Coding

    @property
    def size(self) -> int:
        """Number of values."""
        return self.coding.size

    @property
    def compressor(self) -> Compression:
        """What encodes them."""
        return self.coding.compressor


def cut(segments: Sequence[Segment], bucket_bytes: float, granules: Sequence[int | None]) -> list[list[Part]]:
    """Returns the parts of all segments in order, in buckets that are sent one after the other.

    A bucket is closed when another part would make it larger than `bucket_bytes`; a part that may not be cut, or whose
    smallest piece is larger, fills a bucket of its own.

    Args:
      segments: what is sent.
      bucket_bytes: float32 bytes of a bucket, 4 per value; 0 for one bucket of everything.
      granules: per segment, of how many values a cut must be a multiple; None: it stays whole.
    """
    limit = math.floor(bucket_bytes / 4) or sum(segment.size for segment in segments)
    buckets, room = [[]], limit
    for index, (segment, granule) in enumerate(zip(segments, granules, strict=True)):
        for start, size in _ranges(segment.size, limit, granule):
            if size > room and buckets[-1]:
                buckets.append([])
                room = limit
            shapes = segment.shapes if size == segment.size else ()
            buckets[-1].append(Part(index, start, Coding(size, segment.compressor, shapes, segment.sampling)))
            room -= size
    return buckets


def _ranges(size, limit, granule):
    """Cuts [0, size) at multiples of `granule` into ranges of at most `limit`, the last with a granule and the tail."""
    if granule is None or size <= max(limit, 2 * granule):
        return [(0, size)]
    step = max(granule, limit // granule * granule)
    starts = list(range(0, size, step))
    if size - starts[-1] < granule:  # a tail alone would be encoded otherwise than behind a whole granule
        starts.pop()
    return [(start, stop - start) for start, stop in zip(starts, [*starts[1:], size], strict=True)]
