"""A named compressed all-reduce with error feedback, and its state."""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from dqgan_tf import private_tensorflow
from dqgan_tf.compressors import Compressor, blocks
from dqgan_tf.distribute.layout import Slice, Vector, check_contraction
from dqgan_tf.distribute.pipeline import TIMES, reduce_packets
from dqgan_tf.distribute.replica_local import ReplicaLocal
from dqgan_tf.distribute.topologies import choice
from dqgan_tf.distribute.topologies.packet import Exact, PacketSettings, Seeds
from dqgan_tf.distribute.transport.collectives import Collectives
from dqgan_tf.errors import UsageError

# Primes, so that no two small pairs (seed, stream) make the same seed.
_SEED_FACTOR, _STREAM_FACTOR = 1000003, 7919
ENERGIES = ("update_energy", "residual_energy", "error_energy", "shift_energy")
"""Squared norms, in this order: of p; of e before the step; of p - decode(encode(p)); of s before the step."""


class CompressionOptions(private_tensorflow.CommunicationOptions):
    """`tf.distribute.experimental.CommunicationOptions` that may name a channel.

    A channel compresses the reductions whose options name it. All other reductions (metrics, normalisation statistics,
    counts, initial values) stay exact.

    Args:
      channel: name of an open channel; None: an exact reduction.
      bytes_per_pack, timeout_seconds, implementation: arguments of `tf.distribute.experimental.CommunicationOptions`.
    """

    def __init__(self, channel: str | None = None, **options):
        super().__init__(**options)
        self.channel = channel

    def merge(self, options):
        merged = super().merge(options)  # a deep copy of self, which lacks the channel of `options`
        merged.channel = getattr(options, "channel", None) or self.channel
        return merged


def plain_options(options: Any) -> CompressionOptions:
    """Returns `options` (or the defaults for None) as a `CompressionOptions` without a channel."""
    if options is None:
        return CompressionOptions()
    return CompressionOptions(
        bytes_per_pack=options.bytes_per_pack,
        timeout_seconds=options.timeout_seconds,
        implementation=options.implementation,
    )


class Channel:
    """Compressed mean of all replicas' values, with error feedback.

    With x^m the values of replica m and e^m its residual (Karimireddy et al. 2019, arXiv 1901.09847):

        p^m = x^m + e^m;   c^m = encode(p^m);   e^m <- p^m - decode(c^m);   q = 1/M sum_m decode(c^m)

    With a shift, for replicas whose values have different means (in the manner of EC-SGD-DIANA, Gorbunov et al. 2020,
    arXiv 2010.12292; docs/algorithm.md), each replica has learned s^m, and all know its mean sbar without sending it:

        p^m = x^m + e^m - s^m;   c^m = encode(p^m);   r^m = p^m - decode(c^m);   q = sbar + 1/M sum_m decode(c^m)
        s^m <- s^m + a (p^m - r^m);   sbar <- mean of s^m;   e^m <- r^m

    `topologies` computes q, with the same bits on all replicas. If `p` of any replica is not finite or a scale reaches
    `float_bits.LARGEST_SCALE` (in the two-step exchange a scale of the mean), `accepted` is False on all replicas after
    the call and no residual changes: the callers must skip the step together.

    If `Collectives.is_hierarchical`, m is the index of a host, and x^m is the exact mean over the replicas of host m.
    These replicas have equal residuals.

    Open one with `CompressedStrategy.open_channel`, eagerly and on every worker in the same order.

    Args:
      name: name of the channel.
      vectors: what one reduction consists of; see `layout`.
      error_feedback: whether residuals are kept.
      shift: a, the learning rate of the shifts; 0: no shift.
      devices: devices of the local replicas.
      collectives: collectives of each local replica.
      streams: per local replica, the number of its stream of random numbers.
      seed: seed of stochastic rounding; random numbers are a function of (seed, stream, number of calls).
      topology, packet_mb, allow_non_contractive: see `CompressionConfig`.
      threads: into how many slices a large packet is cut; the same on all workers, which decode slice by slice.
      options: communication options of the strategy.

    Attributes:
      packets: what is sent, in this order.
      reason: reason of `auto`'s choice of the topology; empty if there was no choice.
      calls: number of reductions, int64, on each local replica.
      accepted: whether the last reduction was accepted, bool.
      energies: squared norms of the last reduction, float32 [vectors, len(ENERGIES)].
      seconds: times of the last reduction, float64 [len(TIMES)].
      spans: spans of the last reduction, float64 [spans, 3]; see `reduce_packets`.

    Raises:
      UsageError: no vector, an empty vector, or error feedback with a compressor that is not contractive.
    """

    def __init__(
        self,
        name: str,
        vectors: Sequence[Vector],
        *,
        error_feedback: bool,
        shift: float = 0.0,
        devices: Sequence[str],
        collectives: Sequence[Collectives],
        streams: Sequence[int],
        seed: int,
        topology: str,
        packet_mb: float,
        allow_non_contractive: bool,
        threads: int,
        options: CompressionOptions,
    ):
        _check_vectors(name, vectors)
        if error_feedback and not allow_non_contractive:
            check_contraction(vectors)
        self.name, self.vectors, self.error_feedback, self.shift = name, tuple(vectors), error_feedback, shift
        self.options = options.merge(CompressionOptions(channel=name))
        self._collectives, self._streams, self._seed = tuple(collectives), tuple(streams), seed
        size = collectives[0].size
        topology_of_vectors, self.reason = choice.choose(topology, vectors, size)
        if self.reason:
            logging.info("Channel %s uses %s: %s", name, topology_of_vectors, self.reason)
        if size > 1 and topology_of_vectors != "two_step" and any(vector.mean_compressor for vector in vectors):
            logging.warning("Channel %s uses %s, so mean_compressor has no effect.", name, topology_of_vectors)
        weights = [pair for vector in vectors for pair in zip(vector.weights, vector.shapes, strict=True)]
        self._shapes = [shape for _, shape in sorted(weights)]
        self._weights = [_places_of_weights(vector) for vector in vectors]
        self._exact = {weight for vector in vectors if vector.is_exact for weight in vector.weights}
        self._learned = [_initial_state(vector, devices) for vector in vectors]
        on_cpu = "CPU" in devices[0]
        settings = PacketSettings(size, error_feedback, blocks.CPU_BLOCK if on_cpu else None, tuple(devices), shift)
        packet_values = max(1, int(packet_mb * 2**18)) if packet_mb else self.dense_bytes // 4  # 2**18 values are 1 MiB
        self.packets = choice.build(topology_of_vectors, vectors, self._learned, settings, packet_values, threads)
        self._mean_shifts = [ReplicaLocal(devices, shape, "mean_shift") if shift else None for shape in self._shapes]
        self.calls = ReplicaLocal(devices, [], "calls", tf.int64)
        self._create_results(devices)

    def _create_results(self, devices):
        """Creates the variables that hold the results of the last reduction, besides its means."""
        self.accepted = ReplicaLocal(devices, [], "accepted", tf.bool)
        self.energies = ReplicaLocal(devices, [len(self.vectors), len(ENERGIES)], "energies")
        host = [tf.DeviceSpec.from_string(d).replace(device_type="CPU", device_index=0).to_string() for d in devices]
        self.seconds = ReplicaLocal(host, [len(TIMES)], "seconds", tf.float64)
        self.spans = ReplicaLocal(host, [None, 3], "spans", tf.float64)

    @property
    def topology(self) -> str:
        """How packets are exchanged, e.g. `two_step` or `hierarchical two_step`."""
        return ("hierarchical " if self._collectives[0].is_hierarchical else "") + self.packets[-1].name

    @property
    def dense_bytes(self) -> int:
        """Bytes of one replica's values in float32, 4n."""
        return 4 * sum(vector.size for vector in self.vectors)

    @property
    def wire_bytes(self) -> int:
        """Bytes of one replica's payload: one encoding of all its values."""
        return sum(packet.volume().wire_bytes for packet in self.packets)

    @property
    def sent_bytes(self) -> int:
        """Bytes that one replica sends in one reduction: all phases, and the histograms that compressors learn from.

        For a hierarchical topology: only bytes between hosts. An all-reduce counts as a ring, 2(M-1)/M S for S bytes;
        sockets send up to 4 KiB in one trip instead, (M-1) S, if M > 2.
        """
        size = self._collectives[0].size
        learning = [v.compressor for v in self.vectors if isinstance(v.compressor, Compressor)]
        histograms = 2 * (size - 1) * 4 * sum(compressor.histogram_size for compressor in learning) // size
        total = sum(packet.volume().sent_bytes for packet in self.packets) + histograms
        return -(-total // self._collectives[0].replicas_per_rank)

    @property
    def dense_sent_bytes(self) -> int:
        """Bytes that one replica would send in an exact float32 ring all-reduce, 2(M-1)/M 4n; as `sent_bytes`."""
        size = self._collectives[0].size
        total = sum(Exact.volume_of(packet.keys, size).sent_bytes for packet in self.packets)
        return -(-total // self._collectives[0].replicas_per_rank)

    @property
    def learned(self) -> dict[str, ReplicaLocal]:
        """What compressors have learned, by the name of the vector; equal on all replicas."""
        pairs = zip(self.vectors, self._learned, strict=True)
        return {vector.name: state for vector, state in pairs if state is not None}

    def mean(self, values: Sequence[tf.Tensor], replica: int, options: Any) -> list[tf.Tensor]:
        """Returns the compressed mean of `values` over all replicas, with the same shapes.

        Args:
          values: this replica's float32 tensors, one per weight of the vectors, in the order of `Vector.weights`.
          replica: index of the local replica.
          options: communication options of this call.

        Raises:
          ValueError: number, shape or dtype of the values differs from that of the weights.
        """
        self._check_values(values)
        collectives, state_energies = self._collectives[replica], self._state_energies(replica)
        values = collectives.rank_mean(values, options)
        seeds = self._next_seeds(replica)
        updates = [[self._window(slice_, values) for slice_ in packet.slices] for packet in self.packets]
        outcomes, seconds, spans = reduce_packets(self.packets, updates, replica, seeds, collectives, options)
        accepted = tf.reduce_all(tf.stack([outcome.bounded for outcome in outcomes]))
        learned = self._next_learned(outcomes, replica, collectives, options)
        means = self._by_weight([pair for outcome in outcomes for pair in outcome.means])
        mean_shifts = self.mean_shifts(replica)

        def commit():
            if self.error_feedback:
                for packet, outcome, of_packet in zip(self.packets, outcomes, updates, strict=True):
                    packet.commit(outcome, replica, of_packet)
            self._commit_mean_shifts(replica, mean_shifts, means)
            for index, state in learned.items():
                self._learned[index].variables[replica].assign(state)
            return accepted

        tf.cond(accepted, commit, lambda: accepted)
        self.accepted.variables[replica].assign(accepted)
        self.seconds.variables[replica].assign(seconds)
        self.spans.variables[replica].assign(spans)
        self._record_energies(outcomes, state_energies, replica)
        return self._with_mean_shifts(mean_shifts, means)

    def _with_mean_shifts(self, mean_shifts, means):
        """Returns sbar + mean per weight. Uncompressed weights send x and not x - s: their mean contains sbar."""
        return [
            mean if old is None or weight in self._exact else old + mean
            for weight, (old, mean) in enumerate(zip(mean_shifts, means, strict=True))
        ]

    def _commit_mean_shifts(self, replica, mean_shifts, means):
        """Assigns sbar + a times the mean of x - s."""
        for weight, (local, old, mean) in enumerate(zip(self._mean_shifts, mean_shifts, means, strict=True)):
            if local is not None:
                change = mean - old if weight in self._exact else mean
                local.variables[replica].assign(old + self.shift * change)

    def _record_energies(self, outcomes, state_energies, replica):
        """Assigns `energies`; `state_energies` are those of `_state_energies` before the step."""
        measured = tf.stack(self._by_vector(outcomes, "energies", tf.add_n))
        # Column 1 of `measured` is ||e||^2, or ||e - s||^2 with shifts; then `state_energies` has both norms apart.
        if state_energies is None:
            state_energies = tf.pad(measured[:, 1:2], [[0, 0], [0, 1]])
        (update, _, error), (residual, shift) = tf.unstack(measured, axis=1), tf.unstack(state_energies, axis=1)
        self.energies.variables[replica].assign(tf.stack([update, residual, error, shift], 1))

    def residuals(self, replica: int) -> list[tf.Tensor | None]:
        """Returns e of one local replica, one tensor per weight; None for weights without error feedback."""
        return self._by_weight(self._state_of("residuals", replica))

    def clear_residuals(self, replica: int) -> None:
        """Sets e of one local replica to zero."""
        for packet in self.packets:
            for residual in packet.residuals:
                if residual is not None:
                    residual.variables[replica].assign(tf.zeros(residual.variables[replica].shape))

    def shifts(self, replica: int) -> list[tf.Tensor | None]:
        """Returns s of one local replica, one tensor per weight; None for weights without a shift."""
        return self._by_weight(self._state_of("shifts", replica))

    def mean_shifts(self, replica: int) -> list[tf.Tensor | None]:
        """Returns sbar, equal on all replicas, one tensor per weight; None for weights without a shift."""
        return [None if shift is None else shift.variables[replica].read_value() for shift in self._mean_shifts]

    def drifts(self, replica: int) -> list[tf.Tensor | None]:
        """Returns s - sbar of one local replica, one tensor per weight; None for weights without a shift."""
        pairs = zip(self.shifts(replica), self.mean_shifts(replica), strict=True)
        return [None if shift is None else shift - mean for shift, mean in pairs]

    def state(self, replica: int) -> dict[str, list[tf.Tensor | None]]:
        """Returns what one local replica remembers of each weight, by kind: `residual`, `shift` and `mean_shift`.

        To restore it for another number of replicas, give each the mean of the old values, kind by kind. This keeps
        mean(e) and mean(s) = sbar, hence the virtual iterate; each replica learns its own shift again.
        """
        state = {"residual": self.residuals(replica)}
        return state | {"shift": self.shifts(replica), "mean_shift": self.mean_shifts(replica)} if self.shift else state

    def set_state(self, replica: int, state: Mapping[str, Sequence]) -> None:
        """Inverse of `state`. None stands for zeros. Eager only."""
        state = {
            kind: [
                tf.zeros(shape) if value is None else value for shape, value in zip(self._shapes, values, strict=True)
            ]
            for kind, values in state.items()
        }
        for kind, attribute in (("residual", "residuals"), ("shift", "shifts")):
            for slice_, variable in self._variables_of(attribute, replica) if kind in state else ():
                variable.assign(blocks.whole(self._window(slice_, state[kind])))
        for mean_shift, value in zip(self._mean_shifts, state["mean_shift"], strict=True) if self.shift else ():
            if mean_shift is not None:
                mean_shift.variables[replica].assign(value)

    def _state_of(self, attribute, replica):
        return [(slice_, variable.read_value()) for slice_, variable in self._variables_of(attribute, replica)]

    def _variables_of(self, attribute, replica):
        """Returns (slice, its variable) for all slices that have one; attribute: `residuals` or `shifts`."""
        return [
            (slice_, local.variables[replica])
            for packet in self.packets
            for slice_, local in zip(packet.slices, getattr(packet, attribute), strict=True)
            if local is not None
        ]

    def _state_energies(self, replica):
        """Returns (||e||^2, ||s||^2) per vector before a step, float32 [vectors, 2]; None without shifts."""
        if not self.shift:
            return None
        items = [[] for _ in self.vectors]
        for packet in self.packets:
            for slice_, energies in zip(packet.slices, packet.state_energies(replica), strict=True):
                items[slice_.vector].append(energies)
        return tf.stack([tf.add_n(energies) for energies in items])

    def _overlaps(self, slice_: Slice):
        """Returns (weight, first, last) for all weights in a slice: it holds the values [first, last) of the weight."""
        overlaps = []
        for weight, start, size in self._weights[slice_.vector]:
            first, last = max(slice_.start - start, 0), min(slice_.start + slice_.size - start, size)
            if first < last:
                overlaps.append((weight, first, last))
        return overlaps

    def _window(self, slice_, values):
        """Returns the values of a slice.

        If the slice lies in one weight, the window refers to that weight without a copy; else its weights are
        concatenated.
        """
        overlaps = [(tf.reshape(values[weight], [-1]), first, last) for weight, first, last in self._overlaps(slice_)]
        if len(overlaps) == 1:
            flat, first, _ = overlaps[0]
            return blocks.Window(flat, tf.constant(first), slice_.size)
        whole = tf.concat([flat[first:last] for flat, first, last in overlaps], 0)
        return blocks.Window(whole, tf.constant(0), slice_.size)

    def _by_weight(self, pairs):
        """(slice, its values) for some slices -> one tensor per weight; None for weights in none of the slices."""
        parts = [[] for _ in self._shapes]
        for slice_, flat in sorted(pairs, key=lambda pair: pair[0]):
            overlaps = self._overlaps(slice_)
            sizes = [last - first for _, first, last in overlaps]
            for (weight, _, _), part in zip(overlaps, tf.split(flat, sizes), strict=True):
                parts[weight].append(part)
        return [
            tf.reshape(of_weight[0] if len(of_weight) == 1 else tf.concat(of_weight, 0), shape) if of_weight else None
            for of_weight, shape in zip(parts, self._shapes, strict=True)
        ]

    def _next_seeds(self, replica):
        """Returns the seeds of this call. Packets add the vector's index to the second number."""
        calls = self.calls.variables[replica]
        number = tf.cast(calls.read_value() * len(self.vectors), tf.int32)
        calls.assign_add(1)
        streams = (self._seed * _SEED_FACTOR + offset for offset in (self._streams[replica] * _STREAM_FACTOR, -1))
        return Seeds(*(tf.stack([tf.constant(stream % 2**31, tf.int32), number]) for stream in streams))

    def _next_learned(self, outcomes, replica, collectives, options):
        """Returns {index of a vector: what its compressor has learned after this call}, equal on all replicas."""
        states = self._by_vector(outcomes, "learned", lambda same: same[0])
        histograms = self._by_vector(
            outcomes, "histograms", lambda parts: None if parts[0] is None else tf.add_n(parts)
        )
        learning = [index for index, histogram in enumerate(histograms) if histogram is not None]
        if learning:
            totals = collectives.exchange("all_reduce", [histograms[index] for index in learning], options)
            for index, total in zip(learning, totals, strict=True):
                state = self._learned[index].variables[replica].read_value()
                states[index] = self.vectors[index].compressor.next_state(state, total)
        return {index: state for index, state in enumerate(states) if state is not None}

    def _by_vector(self, outcomes, field, merge):
        """One item per slice -> one per vector."""
        items = [[] for _ in self.vectors]
        for packet, outcome in zip(self.packets, outcomes, strict=True):
            for slice_, item in zip(packet.slices, getattr(outcome, field), strict=True):
                items[slice_.vector].append(item)
        return [merge(parts) for parts in items]

    def _check_values(self, values):
        received = [tuple(value.shape) for value in values]
        if received != self._shapes or any(value.dtype != tf.float32 for value in values):
            dtypes = [value.dtype.name for value in values]
            raise ValueError(
                f"Channel {self.name!r} sends float32 values of shapes {self._shapes}. Received: {received}, {dtypes}"
            )


def _places_of_weights(vector):
    """Returns (weight, start, size) of each weight of a vector."""
    starts = itertools.accumulate(vector.sizes[:-1], initial=0)
    return list(zip(vector.weights, starts, vector.sizes, strict=True))


def _initial_state(vector, devices):
    """Returns the compressor's state on every local replica, float32 [s]; None if it has none."""
    initial = vector.initial_state()
    if initial is None:
        return None
    state = ReplicaLocal(devices, initial.shape, f"learned_{vector.name}")
    for variable in state.variables:
        variable.assign(initial)
    return state


def encoding_threads(devices: Sequence[str]) -> int:
    """Returns how many threads of this process encode for one of the local replicas on these devices.

    On CPUs they are those of TensorFlow's kernels: as set in Python or in the environment, else all CPUs.
    """
    if "CPU" not in devices[0]:
        return 1
    configured = tf.config.threading.get_intra_op_parallelism_threads()
    configured = configured or int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0) or len(os.sched_getaffinity(0))
    return max(1, configured // len(devices))


def _check_vectors(name, vectors):
    if not vectors:
        raise UsageError(f"Channel {name!r} needs at least one vector.")
    for vector in vectors:
        if vector.size < 1:
            raise UsageError(f"Vector {vector.name!r} must hold at least one value. Received: shapes={vector.shapes}")
    positions = sorted(weight for vector in vectors for weight in vector.weights)
    if positions != list(range(len(positions))):
        raise UsageError(f"The vectors of channel {name!r} must hold each weight once. Received: {positions}")
