"""Ways of computing the compressed mean of all replicas' vectors, behind one interface."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from dqgan_tf.compressors import blocks
from dqgan_tf.distribute.segment import Segment, cut
from dqgan_tf.distribute.topologies.all_gather import AllGather
from dqgan_tf.distribute.topologies.base import Given, Reduced, Topology
from dqgan_tf.distribute.topologies.dense import Dense
from dqgan_tf.distribute.topologies.encoding import Encoder
from dqgan_tf.distribute.topologies.low_rank import LowRank
from dqgan_tf.distribute.topologies.two_step import TwoStep

__all__ = ["NAMES", "Choice", "Encoder", "Given", "Reduced", "Topology", "build", "choose"]

NAMES = ("auto", "all_gather", "two_step", "hierarchical")
_WORTH_BYTES = 16 * 1024  # saved, that pay for a second trip and a second encoding: 1.3 ms at 100 Mbit/s
_WORTH_SHARE = 0.25  # of what the all-gather sends
_KINDS = {"all_gather": AllGather, "two_step": TwoStep}
_DENSE_GRANULE = 1024


def build(
    name: str, segments: Sequence[Segment], group_size: int, encoder: Encoder, bucket_bytes: float = 0
) -> list[Topology]:
    """Returns the reductions that send `segments`, in order: one per bucket.

    Segments that are not compressed travel with the others; where nothing is compressed it is the exact all-reduce.
    PowerSGD's thin matrices are all-reduced whatever the name.

    Args:
      name: one of `NAMES`; see `choose`.
      segments: what is sent.
      group_size: M.
      encoder: how to encode.
      bucket_bytes: float32 bytes of a bucket; 0 for one bucket.

    Raises:
      ValueError: unknown name.
    """
    kind = choose(name, segments, group_size, encoder).kind
    low_rank = [index for index, segment in enumerate(segments) if segment.is_low_rank]
    others = [index for index in range(len(segments)) if index not in low_rank]
    made = [LowRank(parts, group_size, encoder) for parts in _buckets(segments, low_rank, [None] * len(low_rank), 0)]
    if kind is None:
        granules = [_DENSE_GRANULE] * len(others)
        return made + [Dense(parts, group_size) for parts in _buckets(segments, others, granules, bucket_bytes)]
    return made + _packets(kind, segments, others, group_size, encoder, bucket_bytes)


class Choice(NamedTuple):
    """kind: `all_gather`, `two_step`, or None where nothing is encoded. reason: of `auto`'s choice, or empty."""

    kind: str | None
    reason: str


def choose(name: str, segments: Sequence[Segment], group_size: int, encoder: Encoder) -> Choice:
    """Returns how packets travel.

    All-gather sends (M-1) S bytes per replica and codes once; the two-step form sends 2 (M-1)/M S, with every shard
    filled up to whole buckets, and codes twice. `auto`, and `hierarchical` between hosts, take the latter where it
    saves a quarter of the bytes and at least 16 KiB.

    Args, Raises: as `build`.
    """
    if name not in NAMES:
        raise ValueError(f"`topology` must be one of {', '.join(NAMES)}. Received: topology={name}")
    encoded = [index for index, segment in enumerate(segments) if not segment.is_low_rank]
    if all(segments[index].is_exact for index in encoded):
        return Choice(None, "")
    if name in _KINDS or group_size == 1:
        return Choice(name if name in _KINDS else "all_gather", "")
    flat, two_step = (
        sum(one.sent_bytes for one in _packets(kind, segments, encoded, group_size, encoder, 0))
        for kind in ("all_gather", "two_step")
    )
    worth = flat - two_step >= max(_WORTH_BYTES, _WORTH_SHARE * flat)
    reason = f"for {group_size} replicas all_gather sends {flat:,} bytes each, two_step {two_step:,}"
    return Choice("two_step" if worth else "all_gather", reason)


def _packets(kind, segments, indices, group_size, encoder, bucket_bytes):
    owners = group_size if kind == "two_step" else 1
    granules = [_granule(segments[index], encoder.block, owners) for index in indices]
    return [_KINDS[kind](parts, group_size, encoder) for parts in _buckets(segments, indices, granules, bucket_bytes)]


def _buckets(segments, indices, granules, bucket_bytes):
    """`cut` of the segments at `indices`."""
    buckets = cut([segments[index] for index in indices], bucket_bytes, granules) if indices else []
    return [[part._replace(segment=indices[part.segment]) for part in parts] for parts in buckets]


def _granule(segment, block, owners):
    """Of how many values a cut must be a multiple, so that it changes no bit: whole blocks, as many for every owner, of
    which statistics look at the same ones."""
    compressor = segment.compressor
    if compressor.is_identity:
        return _DENSE_GRANULE * owners
    if compressor.block_multiple is None:
        return None
    block = blocks.effective_block(compressor, block) or compressor.block_multiple
    return math.lcm(block * owners, compressor.block_multiple * segment.sampling)
