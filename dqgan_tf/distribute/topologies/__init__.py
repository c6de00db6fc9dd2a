"""Ways of computing the compressed mean of all replicas' vectors, behind one interface."""

from collections.abc import Sequence

from absl import logging

from dqgan_tf.distribute.segment import Segment
from dqgan_tf.distribute.topologies.all_gather import AllGather
from dqgan_tf.distribute.topologies.base import Reduced, Topology
from dqgan_tf.distribute.topologies.dense import Dense
from dqgan_tf.distribute.topologies.two_step import TwoStep

__all__ = ["NAMES", "Reduced", "Topology", "build"]

NAMES = ("auto", "all_gather", "two_step")
_TWO_STEP_FROM = 4  # replicas: there an all-gather sends 3 payloads, the two-step form 1.5


def build(
    name: str, segments: Sequence[Segment], group_size: int, *, error_feedback: bool, block: int | None
) -> Topology:
    """Returns the topology `name`; `auto` chooses and logs why. Without any compression it is always the exact
    all-reduce.

    All-gather sends (M-1) S bytes per replica and codes once; the two-step form sends 2 (M-1)/M S and codes twice. They
    tie at M = 2, where all-gather is cheaper, and two-step sends half as much from M = 4 on.

    Raises:
      ValueError: unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"`topology` must be one of {NAMES}. Received: topology={name!r}")
    if all(segment.compressor.is_identity for segment in segments):
        return Dense(segments, group_size)
    kinds = {"all_gather": AllGather, "two_step": TwoStep}
    made = {kind: kinds[kind](segments, group_size, error_feedback, block) for kind in kinds if name in (kind, "auto")}
    chosen = name if name != "auto" else "two_step" if group_size >= _TWO_STEP_FROM else "all_gather"
    if name == "auto" and group_size > 1:
        sent = ", ".join(f"{kind} {topology.sent_bytes:,}" for kind, topology in made.items())
        logging.info("Topology %s for %d replicas; bytes sent per replica and step: %s", chosen, group_size, sent)
    return made[chosen]
