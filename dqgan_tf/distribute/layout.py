"""How weights become packets: vectors of weights that share a compressor, slices of vectors, packets of slices.

    weight   a tensor that is trained, under its name
    vector   the weights that share a compressor, flattened and concatenated in their order
    slice    a range of a vector; it is encoded on its own and has a residual of its own
    packet   slices that travel together

A packet is encoded as soon as the updates of its weights exist. Slices are cut between buckets: neither their size nor
that of packets changes a bit of what a compressor sends that works bucket by bucket.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dqgan_tf.compressors import Compression, PowerSGD
from dqgan_tf.compressors.rules import Rule, assign
from dqgan_tf.errors import UsageError


class Vector(NamedTuple):
    """Weights that share a compressor, as one flat float32 vector.

    name: for messages, checkpoints and telemetry, e.g. `generator`.
    compressor: what encodes it.
    shapes: of the weights, in order.
    weights: positions of these weights among the values that a channel reduces.
    turn: vectors of a smaller turn have their updates first; within a turn the last weights come first, as in
      backpropagation.
    """

    name: str
    compressor: Compression
    shapes: tuple[tuple[int, ...], ...]
    weights: tuple[int, ...]
    turn: int = 0

    @property
    def sizes(self) -> list[int]:
        """Number of values of each weight."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def size(self) -> int:
        """Number of values, n."""
        return sum(self.sizes)

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
        """Proven bound of the compressor for this vector; see `Compression`."""
        return self.compressor.plan(self.shapes).delta if self.is_low_rank else self.compressor.delta(self.size)

    @property
    def stride(self) -> int:
        """Sampling stride: the histogram counts every k-th bucket."""
        return 1 if self.is_low_rank else self.compressor.histogram_stride(self.size)

    @property
    def histogram_bytes(self) -> int:
        """Bytes of the histogram that replicas add up for the compressor to learn from; 0 if it does not learn."""
        return 0 if self.is_low_rank else 4 * self.compressor.histogram_size

    def initial_state(self) -> np.ndarray | None:
        """Returns the compressor's first state, float32 [s], equal on all replicas; None: it has no state."""
        if self.is_low_rank:
            return self.compressor.plan(self.shapes).initial_state()
        return self.compressor.initial_state(self.size)


class Slice(NamedTuple):
    """Values [start, start + size) of a vector.

    vector: index of the vector in its channel.
    """

    vector: int
    start: int
    size: int


def vectors(
    player: str,
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    compressor: Compression,
    rules: Sequence[Rule] = (),
    *,
    first: int = 0,
    turn: int = 0,
) -> list[Vector]:
    """Returns the vectors of one player: one for the weights that no rule names, one for each rule that names some.

    Args:
      player: name of the vectors; that of rule number k is `player.k`.
      names, shapes: of the weights.
      compressor: of weights that no rule names.
      rules: other compressors by weight name; the first that matches holds.
      first: position of the first weight among the values that the channel reduces.
      turn: see `Vector`.

    >>> from dqgan_tf.compressors import get, rules
    >>> names, shapes = ["d/kernel", "d/bias"], [(784, 10), (10,)]
    >>> found = vectors("d", names, shapes, get("sign"), rules.parse("bias=none"))
    >>> [(vector.name, vector.size, vector.compressor.spec) for vector in found]
    [('d.1', 10, 'none'), ('d', 7840, 'sign:bucket=512')]
    """
    made = [
        Vector(
            f"{player}.{group.label}" if group.label else player,
            group.compressor,
            tuple(shapes[index] for index in group.members),
            tuple(first + index for index in group.members),
            turn,
        )
        for group in assign(names, compressor, rules)
    ]
    return sorted(made, key=lambda vector: -vector.weights[0])


def check_contraction(vectors: Sequence[Vector]) -> None:
    """Refuses compressors with which error feedback is not proven to converge.

    Raises:
      UsageError: a vector whose delta is 0; names a variant of its compressor with delta > 0 where there is one.
    """
    for vector in vectors:
        if vector.delta > 0:
            continue
        variant = vector._replace(compressor=vector.compressor.contractive_variant())
        advice = f"take {variant.compressor.spec!r}, " if variant.delta > 0 else ""
        raise UsageError(
            f"Error feedback needs a contractive compressor: {vector.compressor.spec!r} proves no contraction on the "
            f"{vector.size} values of {vector.name!r}, so residuals may grow without bound. Turn error feedback off, "
            f"{advice}or set allow_non_contractive to accept the risk."
        )


def packets(
    vectors: Sequence[Vector], packet_values: int, granules: Sequence[int | None], slice_values: int
) -> list[list[Slice]]:
    """Cuts vectors into slices, orders them as their updates come to exist, and fills packets.

    A packet is closed when the next slice would make it larger than `packet_values`. A slice that is larger, because it
    may not be cut, fills a packet of its own.

    Args:
      vectors: what a channel sends.
      packet_values: values of a packet; 0: one packet of everything.
      granules: per vector, the smallest cut that leaves results bit-identical; None: it stays whole.
      slice_values: values of a slice.
    """
    slices = []
    limit = packet_values or sum(vector.size for vector in vectors)
    for index, (vector, granule) in enumerate(zip(vectors, granules, strict=True)):
        size = min(limit, -(-slice_values // (granule or 1)) * (granule or 1))
        slices += [Slice(index, start, length) for start, length in _ranges(vector.size, size, granule)]
    slices.sort(key=lambda part: (vectors[part.vector].turn, -_first_weight(vectors[part.vector], part.start)))
    filled, room = [[]], limit
    for part in slices:
        if part.size > room and filled[-1]:
            filled.append([])
            room = limit
        filled[-1].append(part)
        room -= part.size
    return filled


def _ranges(size, limit, granule):
    """Cuts [0, size) at multiples of `granule` into ranges of at most `limit`, as equal as that allows.

    The last range holds a whole granule besides the tail: a tail alone would be encoded as one short block, which has
    another order of sums than behind a granule.
    """
    if granule is None or size <= max(limit, 2 * granule):
        return [(0, size)]
    count = -(-size // limit)
    balanced = -(-size // (count * granule)) * granule
    step = balanced if balanced <= limit else max(granule, limit // granule * granule)
    starts = list(range(0, size, step))
    if size - starts[-1] < granule:
        starts.pop()
    return [(start, stop - start) for start, stop in zip(starts, [*starts[1:], size], strict=True)]


def _first_weight(vector, start):
    """Position of the weight that holds value `start`: backpropagation reaches it last of the slice's weights."""
    ends = np.cumsum(vector.sizes)
    return vector.weights[int(np.searchsorted(ends, start, side="right"))]
