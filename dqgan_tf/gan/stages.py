"""Which weights are encoded together, in the order in which backpropagation finishes their gradients."""

import math
from collections.abc import Sequence

from dqgan_tf.compressors import Compressor
from dqgan_tf.compressors.rules import Group

STAGE_VALUES = 1 << 18
"""Values from which on a stage is complete, 1 MiB: smaller ones would cost more in calls than they hide."""


def stages(groups: Sequence[Group], shapes: Sequence[tuple[int, ...]]) -> list[Group]:
    """Returns the groups, cut where that changes nothing but the bounds of buckets, the last layers' weights first.

    The gradients of the last layers exist first: their updates can be encoded and sent while the others are computed.
    A compressor that looks at a whole vector, as `topk` does, keeps its group whole.

    Args:
      groups: see `rules.assign`.
      shapes: of all weights, the first layer's first.
    """
    cut = [stage for group in groups for stage in _cut(group, shapes)]
    return sorted(cut, key=lambda stage: -stage.members[0])


def _cut(group, shapes):
    if not _is_local(group.compressor):
        return [group]
    runs, size = [[]], 0
    for index in reversed(group.members):
        if size >= STAGE_VALUES:
            runs.append([])
            size = 0
        runs[-1].insert(0, index)
        size += math.prod(shapes[index])
    if len(runs) == 1:
        return [group]
    return [
        group._replace(label=f"{group.label or 0}-{number}", members=tuple(members))
        for number, members in enumerate(runs, start=1)
    ]


def _is_local(compressor):
    return isinstance(compressor, Compressor) and (compressor.is_identity or compressor.block_multiple is not None)
