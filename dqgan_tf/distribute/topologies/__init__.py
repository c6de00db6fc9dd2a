"""Ways of computing the compressed mean of all replicas' vectors: which packets a channel sends."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from dqgan_tf.compressors import blocks
from dqgan_tf.distribute.layout import Vector, packets
from dqgan_tf.distribute.topologies.all_gather import AllGather
from dqgan_tf.distribute.topologies.low_rank import LowRank
from dqgan_tf.distribute.topologies.packet import Exact, Packet, Setting, VectorState, coding
from dqgan_tf.distribute.topologies.two_step import TwoStep
from dqgan_tf.errors import UsageError

__all__ = ["NAMES", "Choice", "Packet", "Setting", "VectorState", "build", "choose", "sent_bytes"]

NAMES = ("auto", "all_gather", "two_step", "hierarchical")
_WORTH_BYTES = 16 * 1024  # saved bytes that pay for a second trip and a second encoding: 1.3 ms at 100 Mbit/s
_WORTH_SHARE = 0.25  # of the bytes that the all-gather sends
_KINDS = {"all_gather": AllGather, "two_step": TwoStep}
_EXACT_GRANULE = 1024
_SMALLEST_SLICE = 1 << 17
"""Values below which a second thread saves less than the call of one more compiled function costs."""


class Choice(NamedTuple):
    """kind: `all_gather`, `two_step`, or None where nothing is encoded. reason: of `auto`'s choice, or empty."""

    kind: str | None
    reason: str


def build(
    kind: str | None,
    vectors: Sequence[Vector],
    states: Sequence[VectorState],
    setting: Setting,
    packet_bytes: float = 0,
    threads: int = 1,
) -> list[Packet]:
    """Returns the packets that send `vectors`, in the order in which their updates come to exist.

    Vectors that are not compressed travel with the others; where nothing is compressed it is the exact all-reduce.
    PowerSGD's thin matrices are all-reduced whatever the kind.

    Args:
      kind: of `choose`.
      vectors: what is sent.
      states: theirs.
      setting: of the channel.
      packet_bytes: float32 bytes of a packet; 0: one packet.
      threads: that encode at a time; a large packet has as many slices.
    """
    low_rank = [index for index, vector in enumerate(vectors) if vector.is_low_rank]
    others = [index for index in range(len(vectors)) if index not in low_rank]
    cls = Exact if kind is None else _KINDS[kind]
    owners = setting.group_size if kind == "two_step" else 1
    granules = [_granule(vectors[index], setting.block, owners) for index in others]
    values, size = math.floor(packet_bytes / 4), sum(vectors[index].size for index in others)
    slice_values = max(_SMALLEST_SLICE, -(-min(values or size, size) // (1 if kind is None else threads)))
    made = _packets(LowRank, vectors, states, setting, low_rank, 0, [None] * len(low_rank), 1)
    return made + _packets(cls, vectors, states, setting, others, values, granules, slice_values)


def _packets(cls, vectors, states, setting, indices, packet_values, granules, slice_values):
    """Packets of class `cls` of the vectors at `indices`."""
    if not indices:
        return []
    filled = packets([vectors[index] for index in indices], packet_values, granules, slice_values)
    slices = [[part._replace(vector=indices[part.vector]) for part in packet] for packet in filled]
    return [cls(packet, vectors, states, setting) for packet in slices]


def choose(name: str, vectors: Sequence[Vector], group_size: int) -> Choice:
    """Returns how packets travel.

    All-gather sends (M-1) S bytes per replica and encodes once; the two-step form sends 2 (M-1)/M S, with every shard
    filled up to whole buckets, and encodes twice. `auto`, and `hierarchical` between hosts, take the latter where it
    saves a quarter of the bytes and at least 16 KiB.

    Args:
      name: one of `NAMES`.
      vectors: what is sent.
      group_size: M.

    Raises:
      UsageError: unknown name.
    """
    if name not in NAMES:
        raise UsageError(f"`topology` must be one of {', '.join(NAMES)}. Received: topology={name}")
    encoded = [vector for vector in vectors if not vector.is_low_rank]
    if all(vector.is_exact for vector in encoded):
        return Choice(None, "")
    if name in _KINDS or group_size == 1:
        return Choice(name if name in _KINDS else "all_gather", "")
    all_gather, two_step = (sent_bytes(kind, encoded, group_size) for kind in ("all_gather", "two_step"))
    worth = all_gather - two_step >= max(_WORTH_BYTES, _WORTH_SHARE * all_gather)
    reason = f"for {group_size} replicas all_gather sends {all_gather:,} bytes each, two_step {two_step:,}"
    return Choice("two_step" if worth else "all_gather", reason)


def sent_bytes(kind: str | None, vectors: Sequence[Vector], group_size: int) -> int:
    """Returns the bytes that one of M = `group_size` replicas sends in one reduction of `vectors`.

    Args:
      kind: of `choose`.
    """
    classes = [LowRank if vector.is_low_rank else Exact if kind is None else _KINDS[kind] for vector in vectors]
    pairs = zip(classes, vectors, strict=True)
    return sum(cls.volume([coding(vector, vector.size)], group_size).sent_bytes for cls, vector in pairs)


def _granule(vector, block, owners):
    """Smallest cut that leaves results bit-identical: whole blocks, as many for every owner, of which the histogram
    counts the same ones. None: the compressor encodes a vector only as a whole."""
    compressor = vector.compressor
    if compressor.is_identity:
        return _EXACT_GRANULE * owners
    if compressor.block_multiple is None:
        return None
    block = blocks.effective_block(compressor, block) or compressor.block_multiple
    return math.lcm(block * owners, compressor.block_multiple * vector.stride)
