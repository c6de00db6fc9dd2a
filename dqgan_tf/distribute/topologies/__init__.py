"""Ways of computing the compressed mean of all replicas' vectors, behind one interface."""

import math
from collections.abc import Sequence

from absl import logging

from dqgan_tf.compressors import blocks
from dqgan_tf.distribute.segment import Segment, cut
from dqgan_tf.distribute.topologies.all_gather import AllGather
from dqgan_tf.distribute.topologies.base import Given, Reduced, Topology
from dqgan_tf.distribute.topologies.dense import Dense
from dqgan_tf.distribute.topologies.encoding import Encoder
from dqgan_tf.distribute.topologies.low_rank import LowRank
from dqgan_tf.distribute.topologies.two_step import TwoStep

__all__ = ["NAMES", "Encoder", "Given", "Reduced", "Topology", "build"]

NAMES = ("auto", "all_gather", "two_step", "hierarchical")
_TWO_STEP_FROM = 4  # replicas: there an all-gather sends 3 payloads, the two-step form 1.5
_KINDS = {"all_gather": AllGather, "two_step": TwoStep}
_DENSE_GRANULE = 1024


def build(
    name: str, segments: Sequence[Segment], group_size: int, encoder: Encoder, bucket_bytes: float = 0
) -> list[Topology]:
    """Returns the reductions that send `segments`, in order: one per bucket.

    `auto` chooses and logs why: all-gather sends (M-1) S bytes per replica and codes once; the two-step form sends
    2 (M-1)/M S and codes twice. They tie at M = 2, where all-gather is cheaper, and two-step sends half as much from
    M = 4 on. Segments that are not compressed travel with the others; where nothing is compressed it is the exact
    all-reduce. PowerSGD's thin matrices are all-reduced whatever the name.

    Args:
      name: one of `NAMES`; `hierarchical` chooses between hosts as `auto` does.
      segments: what is sent.
      group_size: M.
      encoder: how to encode.
      bucket_bytes: float32 bytes of a bucket; 0 for one bucket.

    Raises:
      ValueError: unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"`topology` must be one of {', '.join(NAMES)}. Received: topology={name}")
    low_rank = [index for index, segment in enumerate(segments) if segment.is_low_rank]
    others = [index for index in range(len(segments)) if index not in low_rank]
    made = [LowRank(parts, group_size, encoder) for parts in _buckets(segments, low_rank, [None] * len(low_rank), 0)]
    if all(segments[index].is_exact for index in others):
        granules = [_DENSE_GRANULE] * len(others)
        return made + [Dense(parts, group_size) for parts in _buckets(segments, others, granules, bucket_bytes)]
    kinds = [name] if name in _KINDS else list(_KINDS)
    packets = {kind: _packets(kind, segments, others, group_size, encoder, bucket_bytes) for kind in kinds}
    chosen = name if name in _KINDS else "two_step" if group_size >= _TWO_STEP_FROM else "all_gather"
    if name not in _KINDS and group_size > 1:
        sent = ", ".join(f"{kind} {sum(t.sent_bytes for t in one):,}" for kind, one in packets.items())
        logging.info("Topology %s for %d replicas; bytes sent per replica and step: %s", chosen, group_size, sent)
    return made + packets[chosen]


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
