"""A named compressed reduction with error feedback and the state that belongs to it."""

from collections.abc import Sequence

import tensorflow as tf
from absl import logging

from dqgan_tf.compressors import blocks
from dqgan_tf.distribute import pipeline, topologies
from dqgan_tf.distribute.options import CompressionOptions
from dqgan_tf.distribute.pipeline import TIMES
from dqgan_tf.distribute.replica_local import Joined, ReplicaLocal
from dqgan_tf.distribute.segment import Segment, check_contraction

STATISTICS = ("update_energy", "residual_energy", "error_energy")


class Channel:
    """Compressed mean of flat vectors over all replicas, with error feedback.

    With x^m what replica m gives and e^m its residual (Karimireddy et al. 2019, arXiv 1901.09847):

        p^m = x^m + e^m;   c^m = encode(p^m);   e^m <- p^m - decode(c^m);   q = 1/M sum_m decode(c^m)

    A topology says how q comes about; see `topologies`. `q` has the same bits everywhere. If any replica's `p` is not
    finite (or its scale reaches 1e30), `accepted` is False on all replicas after the call and no residual changes: the
    callers see the same and must skip the step together.

    Between groups of several local replicas each, m counts hosts: x^m is the exact mean of a host's replicas, which
    hold equal residuals.

    Open one with `CompressedStrategy.open_channel`, eagerly and on every worker in the same order.

    Args:
      name: tag of the channel.
      segments: what one reduction consists of, in order.
      error_feedback: keep residuals. Without it `e` stays zero.
      devices: the local replicas' devices.
      groups: each local replica's `transport.contract.Collectives`.
      streams: a number per local replica that tells the random streams of those that encode apart.
      seed: of stochastic rounding; a stream is a function of (seed, its number, number of calls).
      topology: one of `topologies.NAMES`.
      bucket_mb: float32 MiB that are encoded and sent at a time, so that one bucket travels while the next is encoded;
        0: all at once. The result does not depend on it.
      allow_non_contractive: permit error feedback where a compressor proves no contraction.
      options: communication options of the strategy.

    Raises:
      ValueError: no segment, an empty segment, unknown topology, or error feedback with a compressor that is not
        contractive.
    """

    def __init__(
        self,
        name: str,
        segments: Sequence[Segment],
        *,
        error_feedback: bool,
        devices: Sequence[str],
        groups: Sequence,
        streams: Sequence[int] = (0,),
        seed: int = 0,
        topology: str = "auto",
        bucket_mb: float = 0.0,
        allow_non_contractive: bool = False,
        options: CompressionOptions | None = None,
    ):
        _check(name, segments, error_feedback, allow_non_contractive)
        self.name = name
        self.segments = tuple(segments)
        self.error_feedback = error_feedback
        self.options = (options or CompressionOptions()).merge(CompressionOptions(channel=name))
        encoder = topologies.Encoder(error_feedback, blocks.CPU_BLOCK if "CPU" in devices[0] else None)
        self._choice = topologies.choose(topology, segments, groups[0].size, encoder)
        kind = self._choice.kind or topology  # chosen once
        self.reductions = topologies.build(kind, segments, groups[0].size, encoder, bucket_mb * 2**20)
        if self._choice.reason:
            logging.info("Channel %s travels by %s: %s", name, self._choice.kind, self._choice.reason)
        self._groups, self._streams, self._seed = tuple(groups), tuple(streams), seed
        self._parts = [part for reduction in self.reductions for part in reduction.parts]
        self._residuals = [
            ReplicaLocal(devices, [part.size], f"residual_{self.segments[part.segment].name}") for part in self._parts
        ]
        self.residuals = [
            Joined([r for r, part in zip(self._residuals, self._parts, strict=True) if part.segment == index])
            for index in range(len(self.segments))
        ]
        self._buffers = [
            ReplicaLocal(devices, [part.size], "buffer") if buffered else None
            for reduction in self.reductions
            for part, buffered in zip(reduction.parts, reduction.buffered, strict=True)
        ]
        self._means = {
            index: ReplicaLocal(devices, [segment.size], f"mean_{segment.name}")
            for index, segment in enumerate(self.segments)
            if sum(part.segment == index for r in self.reductions if r.writes_means for part in r.parts) > 1
        }
        self._learned = {index: _learned(segment, devices) for index, segment in enumerate(self.segments)}
        self.calls = ReplicaLocal(devices, [], "calls", tf.int64)
        self.accepted = ReplicaLocal(devices, [], "accepted", tf.bool)
        self.statistics = ReplicaLocal(devices, [len(self.segments), len(STATISTICS)], "statistics")
        host = [tf.DeviceSpec.from_string(d).replace(device_type="CPU", device_index=0).to_string() for d in devices]
        self.seconds = ReplicaLocal(host, [len(TIMES)], "seconds", tf.float64)

    @property
    def topology(self) -> str:
        """How packets travel, e.g. `two_step` or `hierarchical two_step`."""
        return ("hierarchical " if self._groups[0].is_hierarchical else "") + self.reductions[-1].name

    @property
    def reason(self) -> str:
        """Why `auto` chose this topology; empty where there was no choice."""
        return self._choice.reason

    @property
    def dense_bytes(self) -> int:
        """Bytes of one replica's vectors in float32."""
        return sum(reduction.dense_bytes for reduction in self.reductions)

    @property
    def wire_bytes(self) -> int:
        """Bytes of one replica's payload: one encoding of all its vectors, as it travels."""
        return sum(reduction.wire_bytes for reduction in self.reductions)

    @property
    def sent_bytes(self) -> int:
        """Bytes that one replica sends in one reduction, all phases together; between hosts only, where they add up
        inside. With what compressors learn from, which is all-reduced."""
        packets, size = sum(reduction.sent_bytes for reduction in self.reductions), self._groups[0].size
        statistics = 2 * (size - 1) * sum(segment.statistics_bytes for segment in self.segments) // size
        return -(-(packets + statistics) // self._groups[0].replicas_per_rank)

    @property
    def dense_sent_bytes(self) -> int:
        """Bytes that one replica would send in an exact float32 ring all-reduce, 2(M-1)/M 4n; as `sent_bytes`."""
        return -(-sum(reduction.dense_sent_bytes for reduction in self.reductions) // self._groups[0].replicas_per_rank)

    def state(self) -> dict[str, ReplicaLocal]:
        """Returns the per-replica state that determines future reductions, by name."""
        names = [segment.name for segment in self.segments]
        named = {f"residual/{name}": residual for name, residual in zip(names, self.residuals, strict=True)}
        learned = {f"learned/{names[index]}": state for index, state in self._learned.items() if state is not None}
        return named | learned | {"calls": self.calls}

    def mean(self, values: Sequence[tf.Tensor], replica: int, options) -> list[tf.Tensor]:
        """Returns the compressed mean of `values`, one float32 vector per segment.

        Args:
          values: this replica's float32 [size] vectors, one per segment.
          replica: index of the local replica.
          options: communication options of this call.

        Raises:
          ValueError: number, shape or dtype of the values is not that of the segments.
        """
        self._check_values(values)
        group = self._groups[replica]
        values = group.rank_mean(values, options)
        given = self._given(values, replica)
        reduced, seconds = pipeline.run(
            [r.reduce(g) for r, g in zip(self.reductions, given, strict=True)],
            [one.values for one in given],
            group,
            options,
        )
        accepted = tf.reduce_all(tf.stack([one.finite for one in reduced]))
        if self.error_feedback:
            self._keep_residuals([residual for one in reduced for residual in one.residuals], accepted, replica)
        self._learn(reduced, accepted, replica, group, options)
        self.accepted.variables[replica].assign(accepted)
        self.statistics.variables[replica].assign(
            self._by_segment([row for one in reduced for row in tf.unstack(one.statistics)], tf.add_n)
        )
        self.seconds.variables[replica].assign(seconds)
        means = self._by_segment([mean for one in reduced for mean in one.means], _concatenated)
        return [
            self._means[index].variables[replica].read_value() if index in self._means else mean
            for index, mean in enumerate(means)
        ]

    def _keep_residuals(self, new, accepted, replica):
        """Residual and buffer change places: the memory of the old residual is what the next call writes into."""
        variables, values = [], []
        for residual, buffer, value in zip(self._residuals, self._buffers, new, strict=True):
            variables.append(residual.variables[replica])
            values.append(value)
            if buffer is not None:
                variables.append(buffer.variables[replica])
                values.append(residual.variables[replica].read_value())
        _assign_if(accepted, variables, values)

    def _given(self, values, replica) -> list[topologies.Given]:
        own, common = self._next_seeds(replica)
        states = {i: None if s is None else s.variables[replica].read_value() for i, s in self._learned.items()}
        residuals = iter(residual.variables[replica].read_value() for residual in self._residuals)
        buffers = iter(None if buffer is None else buffer.variables[replica] for buffer in self._buffers)
        means = {index: mean.variables[replica] for index, mean in self._means.items()}
        return [
            topologies.Given(
                values=[values[part.segment] for part in reduction.parts],
                residuals=[next(residuals) for _ in reduction.parts],
                states=[states[part.segment] for part in reduction.parts],
                seed=own,
                common_seed=common,
                rank=tf.constant(self._groups[replica].rank),
                buffers=[next(buffers) for _ in reduction.parts],
                means=[means.get(part.segment) for part in reduction.parts],
            )
            for reduction in self.reductions
        ]

    def _next_seeds(self, replica):
        """int32 [2] each, (stream, calls x segments): this replica's own and one that all share.

        Topologies add the segment's index to the second number.
        """
        calls = self.calls.variables[replica]
        number = tf.cast(calls.read_value() * len(self.segments), tf.int32)
        calls.assign_add(1)
        streams = (self._seed * 1000003 + offset for offset in (self._streams[replica] * 7919, -1))
        return [tf.stack([tf.constant(stream % 2**31, tf.int32), number]) for stream in streams]

    def _learn(self, reduced, accepted, replica, group, options):
        """Brings what compressors have learned up to date: equal on all replicas before, hence after."""
        learning = [index for index, state in self._learned.items() if state is not None]
        if not learning:
            return
        states = self._by_segment([state for one in reduced for state in one.states], lambda same: same[0])
        samples = self._by_segment([sample for one in reduced for sample in one.samples], _sum_or_none)
        fitted = [index for index in learning if samples[index] is not None]
        if fitted:
            totals = group.exchange("all_reduce", [samples[index] for index in fitted], options)
            for index, total in zip(fitted, totals, strict=True):
                states[index] = self.segments[index].compressor.next_state(states[index], total)
        _assign_if(accepted, [self._learned[i].variables[replica] for i in learning], [states[i] for i in learning])

    def _by_segment(self, items, merge):
        """One item per part -> one per segment."""
        return [
            merge([item for item, part in zip(items, self._parts, strict=True) if part.segment == index])
            for index in range(len(self.segments))
        ]

    def _check_values(self, values):
        expected = [(segment.size,) for segment in self.segments]
        received = [tuple(value.shape) for value in values]
        if received != expected or any(value.dtype != tf.float32 for value in values):
            dtypes = [value.dtype.name for value in values]
            raise ValueError(
                f"Channel {self.name!r} sends float32 vectors of shapes {expected}. Received: {received}, {dtypes}"
            )


def _learned(segment, devices):
    initial = segment.initial_state()
    if initial is None:
        return None
    state = ReplicaLocal(devices, initial.shape, f"learned_{segment.name}")
    for variable in state.variables:
        variable.assign(initial)
    return state


def _concatenated(vectors):
    if vectors[0] is None:
        return None
    return vectors[0] if len(vectors) == 1 else tf.concat(vectors, 0)


def _sum_or_none(samples):
    return None if samples[0] is None else tf.add_n(samples)


def _assign_if(condition, variables, values):
    def assign():
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return tf.constant(True)

    tf.cond(condition, assign, lambda: tf.constant(False))


def _check(name, segments, error_feedback_on, allow_non_contractive):
    if not segments:
        raise ValueError(f"Channel {name!r} needs at least one segment.")
    for segment in segments:
        if segment.size < 1:
            raise ValueError(f"Segment {segment.name!r} must hold at least one value. Received: size={segment.size}")
    if error_feedback_on and not allow_non_contractive:
        check_contraction(segments)
