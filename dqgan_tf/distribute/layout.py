"""How the weights of a model become packets.

    weight   a tensor that is trained, under its name
    vector   the weights that share a compressor, flattened and concatenated in their order
    slice    a range of a vector; it is encoded on its own and has a residual of its own
    packet   slices that are sent together

A packet is encoded as soon as the updates of its weights exist. Slices are cut between buckets. With a compressor that
works bucket by bucket, the size of slices and packets does not change the values sent.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dqgan_tf.compressors import Compression, Compressor, PowerSGD
from dqgan_tf.compressors.rules import Rule, assign
from dqgan_tf.errors import UsageError


class Vector(NamedTuple):
    """Weights that share a compressor, as one flat float32 vector.

    name: name in messages, checkpoints and telemetry, e.g. `generator`.
    compressor: compressor that encodes it.
    shapes: shapes of the weights, in order.
    weights: positions of these weights among the values that a channel reduces.
    order: order in which the updates of vectors come to exist, e.g. 0 for the player whose gradients are computed
      first and 1 for the other. Among vectors of one order, the last weights come first, as in backpropagation.
    mean_compressor: compressor of the mean in the two-step exchange; None: `compressor`.
    """

    name: str
    compressor: Compression
    shapes: tuple[tuple[int, ...], ...]
    weights: tuple[int, ...]
    order: int = 0
    mean_compressor: Compressor | None = None

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
        """Whether thin matrices are sent instead of a payload."""
        return isinstance(self.compressor, PowerSGD)

    @property
    def is_exact(self) -> bool:
        """Whether nothing is compressed."""
        return isinstance(self.compressor, Compressor) and self.compressor.is_identity

    @property
    def delta(self) -> float:
        """Proven bound of the compressor for this vector; see `Compression`."""
        if isinstance(self.compressor, PowerSGD):
            return self.compressor.plan(self.shapes).delta
        return self.compressor.delta(self.size)

    @property
    def stride(self) -> int:
        """Sampling stride: the histogram counts every k-th bucket."""
        return self.compressor.histogram_stride(self.size) if isinstance(self.compressor, Compressor) else 1

    def initial_state(self) -> np.ndarray | None:
        """Returns the compressor's initial state, float32 [s], equal on all replicas; None: it has no state."""
        if isinstance(self.compressor, PowerSGD):
            return self.compressor.plan(self.shapes).initial_state()
        return self.compressor.initial_state(self.size) if isinstance(self.compressor, Compressor) else None


class Slice(NamedTuple):
    """Values [start, start + size) of a vector.

    vector: index of the vector in its channel.
    """

    vector: int
    start: int
    size: int


def vectors(
    name: str,
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    compressor: Compression,
    rules: Sequence[Rule] = (),
    *,
    first: int = 0,
    order: int = 0,
    mean_compressor: Compressor | None = None,
) -> list[Vector]:
    """Returns the vectors of some weights: one for those that no rule names, and one for each rule with weights.

    Args:
      name: name of the first vector, e.g. a player's; the vector of rule number k is `name.k`.
      names, shapes: names and shapes of the weights.
      compressor: compressor of weights that no rule names.
      rules: other compressors by weight name; the first rule that matches is used.
      first: position of the first weight among the values that the channel reduces.
      order, mean_compressor: see `Vector`. Weights that are sent exactly or as matrices have no compressor of the mean.

    Raises:
      UsageError: a weight without values.

    >>> from dqgan_tf.compressors import get, rules
    >>> names, shapes = ["d/kernel", "d/bias"], [(784, 10), (10,)]
    >>> parts = vectors("d", names, shapes, get("sign"), rules.parse("bias=none"))
    >>> [(vector.name, vector.size, vector.compressor.spec) for vector in parts]
    [('d.1', 10, 'none'), ('d', 7840, 'sign:bucket=512')]
    """
    for weight, shape in zip(names, shapes, strict=True):
        if 0 in shape:
            raise UsageError(
                "Every weight that is trained must have values: remove this one or set its layer.trainable to False. "
                f"Received: {weight} of shape {tuple(shape)}"
            )
    in_order_of_rules = [
        Vector(
            f"{name}.{group.label}" if group.label else name,
            group.compressor,
            tuple(shapes[index] for index in group.members),
            tuple(first + index for index in group.members),
            order,
        )
        for group in assign(names, compressor, rules)
    ]
    return sorted(
        [
            vector if vector.is_exact or vector.is_low_rank else vector._replace(mean_compressor=mean_compressor)
            for vector in in_order_of_rules
        ],
        key=lambda vector: -vector.weights[0],
    )


def check_contraction(vectors: Sequence[Vector]) -> None:
    """Refuses compressors with which error feedback is not proven to converge.

    Raises:
      UsageError: a vector whose delta is 0; names a variant of its compressor with delta > 0 where there is one.
    """
    of_means = [vector._replace(compressor=vector.mean_compressor) for vector in vectors if vector.mean_compressor]
    for vector in [*vectors, *of_means]:
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
    vectors: Sequence[Vector], packet_values: int, cut_multiples: Sequence[int | None], slice_values: int
) -> list[list[Slice]]:
    """Cuts vectors into slices, sorts them in the order in which their updates come to exist, and fills packets.

    A packet is closed when the next slice would make it larger than `packet_values`. A slice that is larger, because it
    may not be cut, fills a packet of its own.

    Args:
      vectors: what a channel sends.
      packet_values: largest number of values of a packet.
      cut_multiples: per vector, the number that the starts of its slices must be multiples of; None: it is not cut.
      slice_values: number of values of a slice.
    """
    slices = []
    for index, (vector, multiple) in enumerate(zip(vectors, cut_multiples, strict=True)):
        size = min(packet_values, -(-slice_values // (multiple or 1)) * (multiple or 1))
        slices += [Slice(index, start, length) for start, length in _ranges(vector.size, size, multiple)]

    def order(slice_: Slice) -> tuple[int, int]:
        # Backpropagation reaches the weight that holds the first value last.
        vector = vectors[slice_.vector]
        first_weight = np.searchsorted(np.cumsum(vector.sizes), slice_.start, side="right")
        return vector.order, -vector.weights[first_weight]

    filled: list[list[Slice]] = []
    room = 0
    for slice_ in sorted(slices, key=order):
        if slice_.size > room or not filled:
            filled.append([])
            room = packet_values
        filled[-1].append(slice_)
        room -= slice_.size
    return filled


def _ranges(size: int, limit: int, multiple: int | None) -> list[tuple[int, int]]:
    """Cuts [0, size) at multiples of `multiple` into ranges of at most `limit`, as equal as that allows.

    The remainder is joined to the last whole multiple: encoded alone, it would be summed in another order and give
    other bits.
    """
    if multiple is None or size <= max(limit, 2 * multiple):
        return [(0, size)]
    count = -(-size // limit)
    balanced = -(-size // (count * multiple)) * multiple
    step = balanced if balanced <= limit else max(multiple, limit // multiple * multiple)
    starts = list(range(0, size, step))
    if size - starts[-1] < multiple:
        starts.pop()
    return [(start, stop - start) for start, stop in zip(starts, [*starts[1:], size], strict=True)]
