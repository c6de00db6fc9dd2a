"""A packet: slices that are encoded, sent and decoded together, with the state that belongs to them."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import tensorflow as tf

from dqgan_tf.compressors import Compression, blocks, float_bits
from dqgan_tf.distribute.layout import Slice, Vector
from dqgan_tf.distribute.replica_local import ReplicaLocal

LARGEST_SCALE = 1e30
"""Scales from here on are refused like infinity: a sum over replicas must not overflow."""
_STREAM = 0x27D4EB2F
"""A slice that is no run of blocks and starts at value s draws its random numbers from stream s times this."""


class Request(NamedTuple):
    """A collective that a packet needs.

    kind: `all_gather`, `all_to_all` or `all_reduce`; see `transport.contract.Collectives`.
    value: its argument, a tensor or, for `all_reduce`, a list of tensors.
    """

    kind: str
    value: object


class Seeds(NamedTuple):
    """Seeds of random numbers, int32 [2] each: one of this replica, one that is equal on all replicas."""

    own: tf.Tensor
    common: tf.Tensor


class Outcome(NamedTuple):
    """What a packet's reduction leaves on one replica, beside the mean, which is in the vectors' `mean` variables.

    finite: bool scalar, equal on all replicas: every replica's update was finite; see `acceptable`.
    energies: float32 [3] per slice; see `error_feedback.Encoded`.
    residuals: new residual per slice, float32 [size]; None where it is in the packet's memory or there is none.
    histograms: per slice, what its compressor learns from, float32 [k], to be added up over the replicas; or None.
    states: per slice, the compressor's next state where the packet computes it, equal on all replicas; or None.
    """

    finite: tf.Tensor
    energies: list
    residuals: list
    histograms: list
    states: list


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all packets of a channel share.

    group_size: M, the number of replicas that encode.
    error_feedback: whether residuals are kept.
    block: values that are encoded at a time; None: all. See `error_feedback.encode`.
    devices: of the local replicas.
    """

    group_size: int
    error_feedback: bool
    block: int | None
    devices: tuple[str, ...] = ("/cpu:0",)


class VectorState:
    """What the packets of a vector share on every local replica.

    mean: q, float32 [n], written slice by slice; equal on all replicas after a reduction.
    learned: the compressor's state, float32 [s], equal on all replicas; None if it has none.
    """

    def __init__(self, vector: Vector, devices: Sequence[str]):
        self.mean = ReplicaLocal(devices, [vector.size], f"mean_{vector.name}")
        initial, self.learned = vector.initial_state(), None
        if initial is not None:
            self.learned = ReplicaLocal(devices, initial.shape, f"learned_{vector.name}")
            for variable in self.learned.variables:
                variable.assign(initial)


class Coding(NamedTuple):
    """What decides how a slice is encoded. Equal codings share their compiled functions.

    stride: see `Vector.stride`. shapes: of the weights, for compressors of matrices; empty otherwise.
    """

    compressor: Compression
    size: int
    stride: int
    shapes: tuple[tuple[int, ...], ...] = ()


def coding(vector: Vector, size: int) -> Coding:
    """Returns the coding of a slice of `size` values of a vector."""
    return Coding(vector.compressor, size, vector.stride, vector.shapes if vector.is_low_rank else ())


class Volume(NamedTuple):
    """Of one replica. wire_bytes: its payload, encoded once. sent_bytes: what it sends in all phases together."""

    wire_bytes: int
    sent_bytes: int


class Packet(abc.ABC):
    """Slices that travel together. It owns their residuals; one variable per slice and local replica.

    Args:
      slices: what is sent.
      vectors: of the channel; slices name them by index.
      states: of the vectors, in the same order.
      setting: of the channel.
    """

    name: str
    writes_into_memory = False

    def __init__(
        self, slices: Sequence[Slice], vectors: Sequence[Vector], states: Sequence[VectorState], setting: Setting
    ):
        self.slices, self.setting = tuple(slices), setting
        self.vectors = [vectors[part.vector] for part in slices]
        self.codings = tuple(coding(vector, part.size) for part, vector in zip(slices, self.vectors, strict=True))
        self.residuals = [self._residual(vector, part.size) for part, vector in zip(slices, self.vectors, strict=True)]
        self._memory = [
            ReplicaLocal(setting.devices, [one.size], "memory")
            if residual and self.writes_into_memory and blocks.effective_block(one.compressor, setting.block)
            else None
            for residual, one in zip(self.residuals, self.codings, strict=True)
        ]
        indices = list(dict.fromkeys(part.vector for part in slices))
        self._means = [states[index].mean for index in indices]
        self._places = tuple(indices.index(part.vector) for part in slices)
        self._learned = [states[part.vector].learned for part in slices]
        self._starts = [tf.constant(part.start) for part in slices]  # arguments: slices of one size share functions

    def _residual(self, vector, size):
        keeps = self.setting.error_feedback and not vector.is_exact
        return ReplicaLocal(self.setting.devices, [size], f"residual_{vector.name}") if keeps else None

    @property
    def dense_bytes(self) -> int:
        """Bytes of one replica's slices in float32, 4n."""
        return 4 * sum(part.size for part in self.slices)

    @property
    def dense_sent_bytes(self) -> int:
        """Bytes that one replica would send in an exact float32 ring all-reduce, 2(M-1)/M 4n."""
        return Exact.volume(self.codings, self.setting.group_size).sent_bytes

    @property
    def wire_bytes(self) -> int:
        """Bytes of one replica's payload: one encoding of all its slices."""
        return self.volume(self.codings, self.setting.group_size).wire_bytes

    @property
    def sent_bytes(self) -> int:
        """Bytes that one replica sends in one reduction, all phases together."""
        return self.volume(self.codings, self.setting.group_size).sent_bytes

    @staticmethod
    @abc.abstractmethod
    def volume(codings: Sequence[Coding], group_size: int) -> Volume:
        """Returns the bytes of slices of these codings among M = `group_size` replicas."""

    @abc.abstractmethod
    def reduce(
        self, updates: Sequence[tf.Tensor | blocks.Window], replica: int, rank: int, seeds: Seeds
    ) -> Generator[Request, object, Outcome]:
        """Computes the compressed mean over M replicas and writes it into the vectors' `mean`.

        Runs while a graph is built. Yields a `Request` for each collective and is sent its result.

        Args:
          updates: float32 [size] per slice, or windows of longer vectors.
          replica: index of the local replica.
          rank: of this replica among the M.
          seeds: of this call.
        """

    def keep(self, outcome: Outcome, replica: int) -> None:
        """Takes the new residuals. Called if the step is accepted, inside `tf.cond`.

        Residual and memory change places: the next call writes into what the residual was.
        """
        for residual, memory, value in zip(self.residuals, self._memory, outcome.residuals, strict=True):
            if memory is not None:
                variable, spare = residual.variables[replica], memory.variables[replica]
                old, new = variable.read_value(), spare.read_value()
                variable.assign(new)
                spare.assign(old)
            elif value is not None:
                residual.variables[replica].assign(value)

    def _local(self, variables: Sequence[ReplicaLocal | None], replica: int) -> list:
        """Returns one replica's variable of each, None for None."""
        return [None if one is None else one.variables[replica] for one in variables]

    def _read(self, variables: Sequence[ReplicaLocal | None], replica: int) -> list:
        """Returns one replica's value of each, None for None."""
        return [None if one is None else one.variables[replica].read_value() for one in variables]

    def _states(self, replica: int, seeds: Seeds) -> list:
        """Returns what each compressor is bound to: what it has learned, or the seed of draws in common; or None."""
        learned = self._read(self._learned, replica)
        return [
            seeds.common + [0, part.vector] if uses_common_seed(coding.compressor) else state
            for part, coding, state in zip(self.slices, self.codings, learned, strict=True)
        ]

    def _seeds(self, seed: tf.Tensor, owners: int = 1) -> list[tf.Tensor]:
        """Returns the int32 [2] seed of each slice: block by block that of the whole vector.

        Args:
          seed: of this call.
          owners: among how many replicas the slice's blocks are dealt out.
        """
        made = []
        for part, coding in zip(self.slices, self.codings, strict=True):
            block, start = blocks.effective_block(coding.compressor, self.setting.block), part.start // owners
            if block and start % block == 0:
                made.append(blocks.block_seed(seed, start // block) + [0, part.vector])
            else:
                made.append(seed + [start * _STREAM % 2**31, part.vector])
        return made


class Exact(Packet):
    """q = 1/M sum_m x^m by an exact all-reduce, for channels that compress nothing."""

    name = "dense"

    @staticmethod
    def volume(codings, group_size):
        dense = 4 * sum(coding.size for coding in codings)
        return Volume(dense, 2 * (group_size - 1) * dense // group_size)

    def reduce(self, updates, replica, rank, seeds):
        updates = [blocks.whole(update) for update in updates]
        sums = yield Request("all_reduce", updates)
        means = self._local(self._means, replica)
        finite = _divide(self.codings, self._places, self.setting.group_size)(list(sums), self._starts, means)
        energies = [_energies(update) for update in updates]
        nothing = [None] * len(energies)
        return Outcome(finite, energies, nothing, nothing, nothing)


def compiled(make: Callable) -> Callable:
    """Decorates `make(*hashable) -> function`: jit-compiles the function, once for equal arguments of `make`."""

    @functools.cache
    def compile_once(*arguments):
        return tf.function(make(*arguments), jit_compile=True, autograph=False)

    return compile_once


@compiled
def _divide(codings, places, group_size):
    def divide(sums, starts, targets):
        # A product and not a quotient: TensorFlow's dense mean has these bits (2.21.0, three replicas).
        means = [total * (1.0 / group_size) for total in sums]
        write_means(targets, places, means, starts)
        return tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(mean)) for mean in means]))

    return divide


@functools.partial(tf.function, jit_compile=True, autograph=False)
def _energies(update):
    return tf.stack([float_bits.sum_of_squares(update), 0.0, 0.0])


def write_means(targets: Sequence[tf.Variable], places: Sequence[int], means, starts) -> None:
    """Writes slices of the mean into their vectors, in place. In a compiled function.

    Args:
      targets: float32 [n] variables, one per vector.
      places: per slice, the index of its vector among the targets.
      means: float32 [size] per slice.
      starts: int32 scalar per slice.
    """
    for index, target in enumerate(targets):
        value = target.read_value()
        for place, mean, start in zip(places, means, starts, strict=True):
            if place == index:  # a whole vector is computed by all threads, a part is written by one
                value = mean if mean.shape == value.shape else blocks.write(value, mean, start)
        target.assign(value)


def uses_common_seed(compressor: Compression) -> bool:
    """Returns whether replicas draw the same random numbers."""
    return getattr(compressor, "uses_common_seed", False)


def bound(compressor: Compression, state: tf.Tensor | None) -> Compression:
    """Returns the compressor that encodes and decodes by `state`."""
    return compressor if state is None else compressor.bind(state)


def acceptable(compressor: Compression, payload, n: int) -> tf.Tensor:
    """Returns whether a payload stands for finite values, bool scalar, without decoding it where that is possible.

    A value that is not finite makes the scale of its bucket not finite; see `Compressor.scales`.
    """
    scales = compressor.scales(payload, n)
    return tf.reduce_all(tf.stack([tf.reduce_all(tf.abs(scale) < LARGEST_SCALE) for scale in scales]))
