"""The choice of a topology, and the packets of a channel."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from dqgan_tf import config
from dqgan_tf.compressors import blocks
from dqgan_tf.distribute.layout import Vector, packets
from dqgan_tf.distribute.replica_local import ReplicaLocal
from dqgan_tf.distribute.topologies.low_rank import LowRank
from dqgan_tf.distribute.topologies.packet import AllGather, Exact, Packet, PacketSettings, encoding_key
from dqgan_tf.distribute.topologies.two_step import TwoStep

_WORTH_BYTES = 16 * 1024  # saved bytes that pay for a second trip and a second encoding: 1.3 ms at 100 Mbit/s
_WORTH_SHARE = 0.25  # share of the bytes of the all-gather
_CLASSES = {"all_gather": AllGather, "two_step": TwoStep}
_EXACT_CUT_MULTIPLE = 1024  # values; uncompressed slices may be cut anywhere
_SMALLEST_SLICE = 1 << 17
"""Number of values: below it, a second thread saves less time than one more call of a compiled function costs."""


class Choice(NamedTuple):
    """topology: `all_gather`, `two_step`; None if nothing is encoded. reason: reason of `auto`'s choice, or empty."""

    topology: str | None
    reason: str


def choose(topology: str, vectors: Sequence[Vector], group_size: int) -> Choice:
    """Returns how packets are exchanged among M = `group_size` replicas.

    All-gather sends (M-1) S bytes per replica and encodes once. The two-step exchange sends (M-1)/M (S + S'), every
    shard padded to whole buckets, and encodes twice, the mean in S' bytes. `auto`, and `hierarchical` between hosts,
    take the two-step exchange if it saves a quarter of the bytes and at least 16 KiB.

    Args:
      topology: see `CompressionConfig.topology`.

    Raises:
      UsageError: unknown topology.
    """
    config.check_setting("compression.topology", topology)
    encoded = [vector for vector in vectors if not vector.is_low_rank]
    if all(vector.is_exact for vector in encoded):
        return Choice(None, "")
    if topology in _CLASSES or group_size == 1:
        return Choice(topology if topology in _CLASSES else "all_gather", "")
    all_gather, two_step = (sent_bytes(name, encoded, group_size) for name in ("all_gather", "two_step"))
    worth = all_gather - two_step >= max(_WORTH_BYTES, _WORTH_SHARE * all_gather)
    reason = f"for {group_size} replicas all_gather sends {all_gather:,} bytes each, two_step {two_step:,}"
    return Choice("two_step" if worth else "all_gather", reason)


def sent_bytes(topology: str | None, vectors: Sequence[Vector], group_size: int) -> int:
    """Returns the bytes that one of M = `group_size` replicas sends in one reduction; `topology` of `Choice`."""
    return sum(
        _class_of(vector, topology).volume_of([encoding_key(vector, vector.size)], group_size).sent_bytes
        for vector in vectors
    )


def build(
    topology: str | None,
    vectors: Sequence[Vector],
    learned: Sequence[ReplicaLocal | None],
    settings: PacketSettings,
    packet_values: int,
    threads: int,
) -> list[Packet]:
    """Returns the packets that send `vectors`, in the order in which their updates come to exist.

    Uncompressed vectors are sent in the same packets as the others. If all vectors are uncompressed, the packets are
    `Exact` (an all-reduce). PowerSGD's thin matrices are all-reduced with every topology.

    Args:
      topology: topology of a `Choice`.
      vectors: what is sent.
      learned: see `Packet`.
      settings: settings of the channel.
      packet_values: largest number of values of a packet.
      threads: number of threads that encode; a large packet is cut into that many slices.
    """
    low_rank = [index for index, vector in enumerate(vectors) if vector.is_low_rank]
    others = [index for index, vector in enumerate(vectors) if not vector.is_low_rank]
    owners = settings.group_size if topology == "two_step" else 1
    cut_multiples = [_cut_multiple(vectors[index], settings.block, owners) for index in others]
    size = sum(vectors[index].size for index in others)
    slice_values = max(_SMALLEST_SLICE, -(-min(packet_values, size) // (1 if topology is None else threads)))

    def packets_of(indices, *limits):
        packets_ = []
        for slices in packets([vectors[index] for index in indices], *limits):
            slices = [slice_._replace(vector=indices[slice_.vector]) for slice_ in slices]
            packet_class = _class_of(vectors[slices[0].vector], topology)
            packets_.append(packet_class(slices, vectors, learned, settings))
        return packets_

    in_one_packet = sum(vectors[index].size for index in low_rank), [None] * len(low_rank), 1
    return packets_of(low_rank, *in_one_packet) + packets_of(others, packet_values, cut_multiples, slice_values)


def _class_of(vector, topology):
    if vector.is_low_rank:
        return LowRank
    return Exact if topology is None else _CLASSES[topology]


def _cut_multiple(vector, block, owners):
    """Returns the number that the starts of slices must be multiples of, so that a cut does not change the result.

    It is a multiple of the block, of `owners` blocks in the two-step exchange, for its mean too, and of the histogram's
    stride. None: the compressor encodes whole vectors only.
    """
    encoders = [vector.compressor]
    if owners > 1 and vector.mean_compressor is not None:
        encoders.append(vector.mean_compressor)
    if any(one.block_multiple is None and not one.is_identity for one in encoders):
        return None
    lengths = [
        _EXACT_CUT_MULTIPLE if one.is_identity else blocks.effective_block(one, block) or one.block_multiple
        for one in encoders
    ]
    return math.lcm(*(length * owners for length in lengths), (vector.compressor.block_multiple or 1) * vector.stride)
