"""A named compressed reduction with error feedback and the state that belongs to it."""

import os
from collections.abc import Sequence

import tensorflow as tf
from absl import logging

from dqgan_tf import private_tensorflow
from dqgan_tf.compressors import blocks
from dqgan_tf.distribute import pipeline, topologies
from dqgan_tf.distribute.layout import Vector, check_contraction
from dqgan_tf.distribute.pipeline import TIMES
from dqgan_tf.distribute.replica_local import ReplicaLocal
from dqgan_tf.distribute.topologies.packet import Seeds
from dqgan_tf.errors import UsageError

ENERGIES = ("update_energy", "residual_energy", "error_energy")


class CompressionOptions(private_tensorflow.CommunicationOptions):
    """`tf.distribute.experimental.CommunicationOptions` that may name a channel.

    A reduction whose options name a channel goes through it, compressed; every other reduction (metrics, normalisation
    statistics, counts, initial values) stays exact.

    Args:
      channel: name of an open channel; None: an exact reduction.
      bytes_per_pack, timeout_seconds, implementation: as in `tf.distribute.experimental.CommunicationOptions`.
    """

    def __init__(self, channel: str | None = None, **options):
        super().__init__(**options)
        self.channel = channel

    def merge(self, options):
        merged = super().merge(options)  # a deep copy of self: the tag of `options` would be lost
        merged.channel = getattr(options, "channel", None) or self.channel
        return merged


def plain_options(options) -> CompressionOptions:
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

    A topology says how q is computed; see `topologies`. `q` has the same bits everywhere. If any replica's `p` is not
    finite (or a scale reaches 1e30), `accepted` is False on all replicas after the call and no residual changes: the
    callers must skip the step together.

    Between groups of several local replicas each, m counts hosts: x^m is the exact mean of a host's replicas, which
    hold equal residuals.

    Open one with `CompressedStrategy.open_channel`, eagerly and on every worker in the same order.

    Args:
      name: tag of the channel.
      vectors: what one reduction consists of; see `layout`.
      error_feedback: whether residuals are kept.
      devices: the local replicas' devices.
      groups: each local replica's `transport.contract.Collectives`.
      streams: per local replica, the number of its stream of random numbers.
      seed: of stochastic rounding; random numbers are a function of (seed, stream, number of calls).
      topology: one of `topologies.NAMES`.
      packet_mb: float32 MiB that are encoded and sent at a time, so that one packet travels while the next is encoded;
        0: all at once. The result does not depend on it.
      allow_non_contractive: permit error feedback where a compressor proves no contraction.
      options: communication options of the strategy.

    Raises:
      UsageError: no vector, an empty vector, unknown topology, or error feedback with a compressor that is not
        contractive.
    """

    def __init__(
        self,
        name: str,
        vectors: Sequence[Vector],
        *,
        error_feedback: bool,
        devices: Sequence[str],
        groups: Sequence,
        streams: Sequence[int] = (0,),
        seed: int = 0,
        topology: str = "auto",
        packet_mb: float = 0.0,
        allow_non_contractive: bool = False,
        options: CompressionOptions | None = None,
    ):
        _check(name, vectors)
        if error_feedback and not allow_non_contractive:
            check_contraction(vectors)
        self.name, self.vectors, self.error_feedback = name, tuple(vectors), error_feedback
        self.options = (options or CompressionOptions()).merge(CompressionOptions(channel=name))
        self._groups, self._streams, self._seed = tuple(groups), tuple(streams), seed
        self._choice = topologies.choose(topology, vectors, groups[0].size)
        if self._choice.reason:
            logging.info("Channel %s travels by %s: %s", name, self._choice.kind, self._choice.reason)
        on_cpu = "CPU" in devices[0]
        setting = topologies.Setting(
            groups[0].size, error_feedback, blocks.CPU_BLOCK if on_cpu else None, tuple(devices)
        )
        # Per vector, the (position, size, shape, start) of its weights.
        self._weights = [list(_weights(vector)) for vector in vectors]
        self._states = [topologies.VectorState(vector, devices) for vector in vectors]
        threads = max(1, _intra_op_threads() // len(devices)) if on_cpu else 1
        self.packets = topologies.build(self._choice.kind, vectors, self._states, setting, packet_mb * 2**20, threads)
        self.calls = ReplicaLocal(devices, [], "calls", tf.int64)
        self.accepted = ReplicaLocal(devices, [], "accepted", tf.bool)
        self.energies = ReplicaLocal(devices, [len(self.vectors), len(ENERGIES)], "energies")
        host = [tf.DeviceSpec.from_string(d).replace(device_type="CPU", device_index=0).to_string() for d in devices]
        self.seconds = ReplicaLocal(host, [len(TIMES)], "seconds", tf.float64)

    @property
    def topology(self) -> str:
        """How packets travel, e.g. `two_step` or `hierarchical two_step`."""
        return ("hierarchical " if self._groups[0].is_hierarchical else "") + self.packets[-1].name

    @property
    def reason(self) -> str:
        """Why `auto` chose this topology; empty where there was no choice."""
        return self._choice.reason

    @property
    def dense_bytes(self) -> int:
        """Bytes of one replica's values in float32."""
        return sum(packet.dense_bytes for packet in self.packets)

    @property
    def wire_bytes(self) -> int:
        """Bytes of one replica's payload: one encoding of all its values."""
        return sum(packet.wire_bytes for packet in self.packets)

    @property
    def sent_bytes(self) -> int:
        """Bytes that one replica sends in one reduction: all phases, and the histograms that compressors learn from.

        Between hosts only, where replicas add up inside.
        """
        size = self._groups[0].size
        histograms = 2 * (size - 1) * sum(vector.histogram_bytes for vector in self.vectors) // size
        return -(-(sum(packet.sent_bytes for packet in self.packets) + histograms) // self._groups[0].replicas_per_rank)

    @property
    def dense_sent_bytes(self) -> int:
        """Bytes that one replica would send in an exact float32 ring all-reduce, 2(M-1)/M 4n; as `sent_bytes`."""
        return -(-sum(packet.dense_sent_bytes for packet in self.packets) // self._groups[0].replicas_per_rank)

    @property
    def learned(self) -> dict[str, ReplicaLocal]:
        """What compressors have learned, by the name of the vector; equal on all replicas."""
        pairs = zip(self.vectors, self._states, strict=True)
        return {vector.name: state.learned for vector, state in pairs if state.learned is not None}

    def mean(self, values: Sequence[tf.Tensor], replica: int, options) -> list[tf.Tensor]:
        """Returns the compressed mean of `values` over all replicas, with the same shapes.

        Args:
          values: this replica's float32 tensors, one per weight of the vectors, in the order of `Vector.weights`.
          replica: index of the local replica.
          options: communication options of this call.

        Raises:
          ValueError: number, shape or dtype of the values differs from that of the weights.
        """
        self._check_values(values)
        group = self._groups[replica]
        values = group.rank_mean(values, options)
        seeds = self._next_seeds(replica)
        updates = [[self._update(part, values) for part in packet.slices] for packet in self.packets]
        outcomes, seconds = pipeline.run(
            [
                packet.reduce(inputs, replica, group.rank, seeds)
                for packet, inputs in zip(self.packets, updates, strict=True)
            ],
            [[update.vector for update in inputs] for inputs in updates],
            group,
            options,
        )
        accepted = tf.reduce_all(tf.stack([outcome.finite for outcome in outcomes]))
        next_states = self._next_states(outcomes, replica, group, options)

        def keep():
            if self.error_feedback:
                for packet, outcome in zip(self.packets, outcomes, strict=True):
                    packet.keep(outcome, replica)
            for index, state in next_states.items():
                self._states[index].learned.variables[replica].assign(state)
            return accepted

        tf.cond(accepted, keep, lambda: accepted)
        self.accepted.variables[replica].assign(accepted)
        self.energies.variables[replica].assign(self._by_vector(outcomes, "energies", tf.add_n))
        self.seconds.variables[replica].assign(seconds)
        return self._split_means(replica)

    def residuals(self, replica: int) -> list[tf.Tensor | None]:
        """Returns e of one local replica, one tensor per weight; None where nothing is kept back."""
        whole = []
        for index in range(len(self.vectors)):
            parts = [variable.variables[replica].read_value() for variable in self._residual_slices(index)]
            whole.append(_concatenated(parts) if parts else None)
        return self._split(whole)

    def set_residuals(self, replica: int, values: Sequence) -> None:
        """Sets e of one local replica; inverse of `residuals`. Eager only."""
        for index, vector in enumerate(self.vectors):
            slices = self._residual_slices(index)
            if not slices:
                continue
            whole = tf.concat([tf.reshape(values[weight], [-1]) for weight in vector.weights], 0)
            sizes = [variable.variables[replica].shape[0] for variable in slices]
            for variable, part in zip(slices, tf.split(whole, sizes), strict=True):
                variable.variables[replica].assign(part)

    def _residual_slices(self, index):
        """The residuals of a vector's slices, in the order of its values."""
        kept = [
            (part.start, residual)
            for packet in self.packets
            for part, residual in zip(packet.slices, packet.residuals, strict=True)
            if part.vector == index and residual is not None
        ]
        return [residual for _, residual in sorted(kept, key=lambda pair: pair[0])]

    def _update(self, part, values):
        """Returns the values of a slice as a window: of its weight, which is not copied, or of its weights in a row."""
        pieces, stop = [], part.start + part.size
        for weight, size, _, start in self._weights[part.vector]:
            first, last = max(part.start - start, 0), min(stop - start, size)
            if first < last:
                pieces.append((tf.reshape(values[weight], [-1]), first, last))
        if len(pieces) == 1:
            flat, first, _ = pieces[0]
            return blocks.Window(flat, tf.constant(first), part.size)
        whole = tf.concat([flat[first:last] for flat, first, last in pieces], 0)
        return blocks.Window(whole, tf.constant(0), part.size)

    def _split_means(self, replica):
        return self._split([state.mean.variables[replica].read_value() for state in self._states])

    def _split(self, whole):
        """One flat value per vector, or None -> one tensor per weight, or None."""
        by_weight = {}
        for weights, flat in zip(self._weights, whole, strict=True):
            sizes = [size for _, size, _, _ in weights]
            parts = [None] * len(weights) if flat is None else tf.split(flat, sizes)
            for (weight, _, shape, _), part in zip(weights, parts, strict=True):
                by_weight[weight] = None if part is None else tf.reshape(part, shape)
        return [by_weight[weight] for weight in sorted(by_weight)]

    def _next_seeds(self, replica):
        """Returns the seeds of this call. Packets add the vector's index to the second number."""
        calls = self.calls.variables[replica]
        number = tf.cast(calls.read_value() * len(self.vectors), tf.int32)
        calls.assign_add(1)
        streams = (self._seed * 1000003 + offset for offset in (self._streams[replica] * 7919, -1))
        return Seeds(*(tf.stack([tf.constant(stream % 2**31, tf.int32), number]) for stream in streams))

    def _next_states(self, outcomes, replica, group, options):
        """Returns {index of a vector: what its compressor has learned after this call}, equal on all replicas."""
        states = self._by_vector(outcomes, "states", lambda same: same[0])
        histograms = self._by_vector(
            outcomes, "histograms", lambda parts: None if parts[0] is None else tf.add_n(parts)
        )
        counted = [index for index, histogram in enumerate(histograms) if histogram is not None]
        if counted:
            totals = group.exchange("all_reduce", [histograms[index] for index in counted], options)
            for index, total in zip(counted, totals, strict=True):
                state = self._states[index].learned.variables[replica].read_value()
                states[index] = self.vectors[index].compressor.next_state(state, total)
        return {index: state for index, state in enumerate(states) if state is not None}

    def _by_vector(self, outcomes, field, merge):
        """One item per slice -> one per vector."""
        items = [[] for _ in self.vectors]
        for packet, outcome in zip(self.packets, outcomes, strict=True):
            for part, item in zip(packet.slices, getattr(outcome, field), strict=True):
                items[part.vector].append(item)
        return [merge(parts) for parts in items]

    def _check_values(self, values):
        shapes = {weight: shape for weights in self._weights for weight, _, shape, _ in weights}
        expected = [shapes[weight] for weight in sorted(shapes)]
        received = [tuple(value.shape) for value in values]
        if received != expected or any(value.dtype != tf.float32 for value in values):
            dtypes = [value.dtype.name for value in values]
            raise ValueError(
                f"Channel {self.name!r} sends float32 values of shapes {expected}. Received: {received}, {dtypes}"
            )


def _weights(vector):
    """Yields (position, size, shape, start) of a vector's weights."""
    start = 0
    for weight, size, shape in zip(vector.weights, vector.sizes, vector.shapes, strict=True):
        yield weight, size, shape, start
        start += size


def _concatenated(parts):
    return parts[0] if len(parts) == 1 else tf.concat(parts, 0)


def _intra_op_threads():
    """Threads that TensorFlow's kernels use, as set in Python or in the environment, else one per processor."""
    configured = tf.config.threading.get_intra_op_parallelism_threads()
    return configured or int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0) or len(os.sched_getaffinity(0))


def _check(name, vectors):
    if not vectors:
        raise UsageError(f"Channel {name!r} needs at least one vector.")
    for vector in vectors:
        if vector.size < 1:
            raise UsageError(f"Vector {vector.name!r} must hold at least one value. Received: shapes={vector.shapes}")
    positions = sorted(weight for vector in vectors for weight in vector.weights)
    if positions != list(range(len(positions))):
        raise UsageError(f"The vectors of channel {name!r} must hold each weight once. Received: {positions}")
