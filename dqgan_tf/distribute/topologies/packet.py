"""A packet: slices that are encoded, sent and decoded together, with their residuals; the kinds AllGather and Exact."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from dqgan_tf import error_feedback
from dqgan_tf.compressors import Compressor, blocks, float_bits
from dqgan_tf.compressors.base import from_wire, to_wire, wire_words
from dqgan_tf.distribute.layout import Slice, Vector
from dqgan_tf.distribute.replica_local import ReplicaLocal

_START_FACTOR = 0x27D4EB2F
"""A slice that is not encoded in blocks has the seed: seed of the call + start * _START_FACTOR."""


class Request(NamedTuple):
    """A collective that a packet needs.

    kind: `all_gather`, `all_to_all` or `all_reduce`; see `transport.collectives.Collectives`.
    value: its argument, a tensor or, for `all_reduce`, a list of tensors.
    """

    kind: str
    value: object


class Seeds(NamedTuple):
    """Seeds of random numbers, int32 [2] each: one of this replica, one that is equal on all replicas."""

    own: tf.Tensor
    common: tf.Tensor


class Outcome(NamedTuple):
    """Result of a packet's reduction on one replica.

    means: q as pairs (range of a vector, float32 [size]); the ranges cover the packet's slices. Equal on all replicas.
    bounded: bool scalar, equal on all replicas: every update is finite, every scale below `float_bits.LARGEST_SCALE`.
      In the two-step exchange the scales are those of the mean.
    energies: float32 [3] per slice; see `error_feedback.Encoded`.
    residuals: new residual per slice, float32 [size]; None if there is none, or if `_encode_slice` has written it into
      the spare variable, from which `Packet.commit` takes it.
    histograms: float32 [k] per slice, to be added up over the replicas, for the compressor to learn from; or None.
    learned: next state of the compressor per slice, equal on all replicas, if the packet computes it; or None.
    """

    means: list[tuple[Slice, tf.Tensor]]
    bounded: tf.Tensor
    energies: list
    residuals: list
    histograms: list
    learned: list


@dataclasses.dataclass(frozen=True)
class PacketSettings:
    """What all packets of a channel share.

    group_size: M, the number of replicas that encode.
    error_feedback: whether residuals are kept.
    shift: a, the learning rate of the shifts; 0: no shifts.
    block: values that are encoded at a time; None: all. See `error_feedback.encode`.
    devices: devices of the local replicas.
    """

    group_size: int
    error_feedback: bool
    block: int | None
    devices: tuple[str, ...]
    shift: float = 0.0


class EncodingKey(NamedTuple):
    """What decides how a slice is encoded. Equal keys share their compiled functions.

    compressor: a `Compressor`, or a `PowerSGD` in a `LowRank` packet.
    size: number of values of the slice.
    stride: see `Vector.stride`.
    shapes: shapes of the weights, for compressors of matrices; empty for others.
    mean_compressor: compressor of the mean in the two-step exchange; None: `compressor`.
    """

    compressor: Any
    size: int
    stride: int
    shapes: tuple[tuple[int, ...], ...] = ()
    mean_compressor: Compressor | None = None


def encoding_key(vector: Vector, size: int) -> EncodingKey:
    """Returns the key of a slice of `size` values of a vector."""
    shapes = vector.shapes if vector.is_low_rank else ()
    return EncodingKey(vector.compressor, size, vector.stride, shapes, vector.mean_compressor)


class Volume(NamedTuple):
    """Bytes of one replica.

    wire_bytes: its payload, encoded once.
    sent_bytes: all that it sends in one reduction.
    """

    wire_bytes: int
    sent_bytes: int


class Packet(abc.ABC):
    """Slices that are sent together. It owns their residuals e and shifts s, one variable per slice and local replica.

    For the update x, a packet encodes p = x + (e - s). Then e' is the new residual and s' = s + a (p - e') the new
    shift. In the two-step exchange, e' of the owner is M times the error of the second encoding. So p - e' has the mean
    that all replicas receive, and mean(s) moves by a times this mean with every topology.

    A slice that is not compressed has e = 0 and sends x itself; the mean of x is sbar plus the mean of x - s. Its s is
    learned in the same way, for half_step='corrected'.

    Args:
      slices: what is sent.
      vectors: vectors of the channel; slices name them by index.
      learned: per vector, the state of its compressor on every local replica; None if it has none.
      settings: settings of the channel.
    """

    name: str
    double_buffered = False
    """Whether the new residual is written into a spare variable, which `commit` swaps with the residual."""

    def __init__(
        self,
        slices: Sequence[Slice],
        vectors: Sequence[Vector],
        learned: Sequence[ReplicaLocal | None],
        settings: PacketSettings,
    ):
        self.slices, self.settings = tuple(slices), settings
        self.vectors = [vectors[slice_.vector] for slice_ in slices]
        self.keys = tuple(encoding_key(v, slice_.size) for slice_, v in zip(slices, self.vectors, strict=True))
        self.residuals: list[ReplicaLocal | None] = []
        self.shifts: list[ReplicaLocal | None] = []
        self._spare_residuals: list[ReplicaLocal | None] = []
        for vector, key in zip(self.vectors, self.keys, strict=True):
            residual = shift = spare = None
            if settings.error_feedback and not vector.is_exact:
                residual = ReplicaLocal(settings.devices, [key.size], f"residual_{vector.name}")
                if self.double_buffered and blocks.effective_block(key.compressor, settings.block):
                    spare = ReplicaLocal(settings.devices, [key.size], f"spare_residual_{vector.name}")
            if settings.shift:
                shift = ReplicaLocal(settings.devices, [key.size], f"shift_{vector.name}")
            self.residuals.append(residual)
            self.shifts.append(shift)
            self._spare_residuals.append(spare)
        self._learned = [learned[slice_.vector] for slice_ in slices]

    def volume(self) -> Volume:
        """Returns the bytes of this packet."""
        return self.volume_of(self.keys, self.settings.group_size)

    @staticmethod
    @abc.abstractmethod
    def volume_of(keys: Sequence[EncodingKey], group_size: int) -> Volume:
        """Returns the bytes of slices of these keys among M = `group_size` replicas."""

    @abc.abstractmethod
    def reduce(
        self, updates: Sequence[tf.Tensor | blocks.Window], replica: int, rank: int, seeds: Seeds
    ) -> Generator[Request, list[tf.Tensor], Outcome]:
        """Computes the compressed mean over M replicas. `pipeline.reduce_packets` runs it.

        It is a generator, which runs while a graph is built: `result = yield Request(...)` starts a collective, and
        continues with its result once the caller has it.

        Args:
          updates: float32 [size] per slice, or windows of longer vectors.
          replica: index of the local replica.
          rank: rank of this replica among the M.
          seeds: seeds of this call.
        """

    def commit(self, outcome: Outcome, replica: int, updates: Sequence[tf.Tensor | blocks.Window]) -> None:
        """Stores the new residuals and shifts. Called if the step is accepted, inside `tf.cond`.

        Args:
          outcome: result of `reduce`.
          replica, updates: its arguments.
        """
        for residual, spare, shift, value, update in zip(
            self.residuals, self._spare_residuals, self.shifts, outcome.residuals, updates, strict=True
        ):
            if residual is None:
                if shift is not None:
                    s = shift.variables[replica]
                    s.assign(_next_exact_shift(update, s.read_value(), rate=self.settings.shift))
                continue
            variable, spare = residual.variables[replica], None if spare is None else spare.variables[replica]
            old, new = variable.read_value(), value if spare is None else spare.read_value()
            if shift is not None:
                s = shift.variables[replica]
                s.assign(_next_shift(update, old, s.read_value(), new, rate=self.settings.shift))
            variable.assign(new)
            if spare is not None:
                spare.assign(old)

    def state_energies(self, replica: int) -> list[tf.Tensor]:
        """Returns (||e||^2, ||s||^2) of one replica's state, float32 [2] per slice."""
        pairs = zip(self._read(self.residuals, replica), self._read(self.shifts, replica), strict=True)
        return [
            tf.stack([tf.zeros([]) if x is None else error_feedback.energy(x, None) for x in pair]) for pair in pairs
        ]

    def _shifted_residuals(self, replica: int) -> list[tf.Tensor | None]:
        """Returns what is added to the update of each slice: e, or e - s; None for a slice without a residual."""
        pairs = zip(self._read(self.residuals, replica), self._read(self.shifts, replica), strict=True)
        return [residual if residual is None or shift is None else residual - shift for residual, shift in pairs]

    def _read(self, variables: Sequence[ReplicaLocal | None], replica: int) -> list:
        """Returns one replica's value of each, None for None."""
        return [None if local is None else local.variables[replica].read_value() for local in variables]

    def _bindings(self, replica: int, seeds: Seeds) -> list:
        """Returns the argument of `compressor.bind` per slice: the learned state, the common seed, or None."""
        learned = self._read(self._learned, replica)
        return [
            seeds.common + [0, slice_.vector] if key.compressor.uses_common_seed else state
            for slice_, key, state in zip(self.slices, self.keys, learned, strict=True)
        ]

    def _own_seeds(self, seeds: Seeds) -> list[tf.Tensor]:
        """Returns the seed of each slice of this replica's updates."""
        return self._seeds(seeds.own, [key.compressor for key in self.keys])

    def _seeds(self, seed: tf.Tensor, compressors: Sequence[Compressor], owners: int = 1) -> list[tf.Tensor]:
        """Returns one int32 [2] seed per slice. A slice draws the same random numbers as its values in an uncut vector.

        Args:
          seed: seed of this call.
          compressors: what draws, per slice.
          owners: number of replicas that share the blocks of the slice.
        """
        seeds = []
        for slice_, compressor in zip(self.slices, compressors, strict=True):
            block, start = blocks.effective_block(compressor, self.settings.block), slice_.start // owners
            if block and start % block == 0:
                seeds.append(blocks.block_seed(seed, start // block) + [0, slice_.vector])
            else:
                seeds.append(seed + [start * _START_FACTOR % 2**31, slice_.vector])
        return seeds


def compiled(function: Callable) -> Callable:
    """Decorates `function(*tensors, **static)`: jit-compiles it, once for equal static arguments (hashable)."""

    @functools.cache
    def compile_for(**static):
        def call(*tensors):
            return function(*tensors, **static)

        call.__name__ = function.__name__
        return tf.function(call, jit_compile=True, autograph=False)

    return lambda *tensors, **static: compile_for(**static)(*tensors)


def bind(compressor: Compressor, binding: tf.Tensor | None) -> Compressor:
    """Returns the compressor with its learned state or the seed of all replicas; see `Packet._bindings`."""
    return compressor if binding is None else compressor.bind(binding)


@compiled
def _next_shift(update, residual, shift, new_residual, *, rate):
    """s + a (p - e') with p = x + (e - s)."""
    return shift + rate * (blocks.whole(update) + (residual - shift) - new_residual)


@compiled
def _next_exact_shift(update, shift, *, rate):
    """s + a (x - s)."""
    return shift + rate * (blocks.whole(update) - shift)


class Exact(Packet):
    """q = 1/M sum_m x^m by an exact all-reduce, for channels that compress nothing."""

    name = "dense"

    @staticmethod
    def volume_of(keys, group_size):
        dense = 4 * sum(key.size for key in keys)
        return Volume(dense, 2 * (group_size - 1) * dense // group_size)

    def reduce(self, updates, replica, rank, seeds):
        updates = [blocks.whole(update) for update in updates]
        sums = yield Request("all_reduce", updates)
        means, bounded = _exact_means(list(sums), group_size=self.settings.group_size)
        energies = [_exact_energies(update) for update in updates]
        nothing = [None] * len(energies)
        return Outcome(list(zip(self.slices, means, strict=True)), bounded, energies, nothing, nothing, nothing)


@compiled
def _exact_means(sums, *, group_size):
    # A product and not a quotient: TensorFlow's dense mean has these bits (2.21.0, three replicas).
    means = [total * (1.0 / group_size) for total in sums]
    return means, tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(mean)) for mean in means]))


@compiled
def _exact_energies(update):
    return tf.stack([float_bits.sum_of_squares(update), 0.0, 0.0])


class AllGather(Packet):
    """Every replica sends its payload to all others and decodes all payloads; `Channel` has the equations."""

    name = "all_gather"
    double_buffered = True

    @staticmethod
    def volume_of(keys, group_size):
        payload = sum(key.compressor.wire_bytes(key.size) for key in keys)
        return Volume(payload, (group_size - 1) * payload)

    def reduce(self, updates, replica, rank, seeds):
        bindings, residuals = self._bindings(replica, seeds), self._shifted_residuals(replica)
        spares = [None if spare is None else spare.variables[replica] for spare in self._spare_residuals]
        # One call per slice: TensorFlow runs them on as many threads as it has.
        encoded = [
            _encode_slice(update, residual, spare, binding, seed, key=key, block=self.settings.block)
            for key, update, residual, spare, binding, seed in zip(
                self.keys, updates, residuals, spares, bindings, self._own_seeds(seeds), strict=True
            )
        ]
        words, residuals, energies, histograms = (list(column) for column in zip(*encoded, strict=True))
        rows = yield Request("all_gather", words[0] if len(words) == 1 else tf.concat(words, 0))
        ranges, groups = joined_slices(self.slices, self.keys)
        means, bounded = _decode_rows(rows, bindings, keys=self.keys, groups=groups)
        means = list(zip(ranges, means, strict=True))
        return Outcome(means, bounded, energies, residuals, histograms, [None] * len(energies))


@compiled
def _encode_slice(update, residual, spare, binding, seed, *, key, block):
    """Returns (words, residual, energies, histogram); the residual is None if it is written to the variable `spare`."""
    compressor = bind(key.compressor, binding)
    memory = None if spare is None else spare.read_value()
    encoded = error_feedback.encode(compressor, update, residual, seed, block=block, spare=memory)
    new_residual = encoded.residual
    if spare is not None:
        spare.assign(new_residual)
        new_residual = None
    return to_wire(encoded.payload), new_residual, encoded.energies, histogram(key, update, residual)


def histogram(key, update: tf.Tensor | blocks.Window, residual: tf.Tensor | None) -> tf.Tensor | None:
    """Returns what the compressor learns from this replica's p, float32 [k]; None if it does not learn."""
    if key.compressor.initial_state(key.size) is None:
        return None
    update = blocks.whole(update)
    return key.compressor.histogram(update if residual is None else update + residual, key.stride)


@compiled
def _decode_rows(rows, bindings, *, keys, groups):
    """Returns the means of M rows of words, float32 [size] per group of slices, and whether all are bounded."""
    specs = [key.compressor.payload_spec(key.size) for key in keys]
    words = [tf.split(row, [wire_words(spec) for spec in specs]) for row in rows]
    means, scales = [], []
    for group in groups:
        compressor, size = bind(keys[group[0]].compressor, bindings[group[0]]), sum(keys[i].size for i in group)
        payloads = [_join([from_wire(of_rank[i], specs[i]) for i in group]) for of_rank in words]
        means.append(compressor.mean_of_payloads(payloads, size))
        scales += [scale for payload in payloads for scale in compressor.scales(payload, size)]
    return means, float_bits.are_bounded(scales)


def joined_slices(slices, keys) -> tuple[list[Slice], tuple[tuple[int, ...], ...]]:
    """Returns ranges that are decoded together, and the indices of the slices of each.

    If a compressor works bucket by bucket, the payloads of adjacent slices, concatenated field by field, are the
    payload of the whole range. XLA decodes a longer range with more threads.
    """
    ranges: list[Slice] = []
    groups: list[list[int]] = []
    end = None
    for index in sorted(range(len(slices)), key=lambda index: slices[index]):
        vector, start, size = slices[index]
        if keys[index].compressor.block_multiple and end == (vector, start):
            ranges[-1] = ranges[-1]._replace(size=ranges[-1].size + size)
            groups[-1].append(index)
        else:
            ranges.append(slices[index])
            groups.append([index])
        end = vector, start + size
    return ranges, tuple(map(tuple, groups))


def _join(payloads):
    """One payload of several, field by field."""
    if len(payloads) == 1:
        return payloads[0]
    return type(payloads[0])(*[tf.concat(fields, 0) for fields in zip(*payloads, strict=True)])
