"""A named compressed reduction with error feedback and the state that belongs to it."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from dqgan_tf import compressors, error_feedback
from dqgan_tf.compressors import blocks, wire
from dqgan_tf.distribute import clock, collectives
from dqgan_tf.distribute.options import CompressionOptions
from dqgan_tf.distribute.replica_local import ReplicaLocal

PHASES = ("encode", "exchange", "decode")
STATISTICS = ("update_energy", "residual_energy", "error_energy")


class Segment(NamedTuple):
    """A part of what a channel sends: one flat float32 vector with a compressor of its own.

    name: for messages, checkpoints and telemetry, e.g. `generator`.
    size: number of values, at least 1.
    compressor: what encodes it.
    """

    name: str
    size: int
    compressor: compressors.Compressor


class Channel:
    """Compressed mean of flat vectors over all replicas, `q = 1/M sum_m decode(encode(x^m + e^m))`.

    Per replica m and segment, with error feedback (Karimireddy et al. 2019, arXiv 1901.09847):

        p^m = x^m + e^m;   c^m = encode(p^m);   e^m <- p^m - decode(c^m);   q = 1/M sum_m decode(c^m)

    The sum runs in rank order in one compiled function on every replica, so `q` has the same bits everywhere. If any
    replica's `p` is not finite, `q` is not finite on all of them and no replica's residual changes: the callers see the
    same and can skip the step together.

    Open one with `CompressedStrategy.open_channel`, eagerly and on every worker in the same order.

    Args:
      name: tag of the channel.
      segments: what one reduction consists of, in order.
      error_feedback: keep residuals. Without it `e` stays zero.
      devices: the local replicas' devices.
      group_size: M.
      first_replica_id: global rank of the first local replica.
      seed: of stochastic rounding; the stream is a function of (seed, rank, number of calls).
      allow_non_contractive: permit error feedback where a compressor proves no contraction.
      options: communication options of the strategy.

    Raises:
      ValueError: no segment, an empty segment, or error feedback with a compressor that is not contractive.
    """

    def __init__(
        self,
        name: str,
        segments: Sequence[Segment],
        *,
        error_feedback: bool,
        devices: Sequence[str],
        group_size: int,
        first_replica_id: int = 0,
        seed: int = 0,
        allow_non_contractive: bool = False,
        options: CompressionOptions | None = None,
    ):
        _check(name, segments, error_feedback, allow_non_contractive)
        self.name = name
        self.segments = tuple(segments)
        self.error_feedback = error_feedback
        self.group_size = group_size
        self.options = (options or CompressionOptions()).merge(CompressionOptions(channel=name))
        self.dense = all(segment.compressor.is_identity for segment in self.segments)
        self.residuals = [ReplicaLocal(devices, [s.size], f"residual_{s.name}") for s in self.segments]
        self.calls = ReplicaLocal(devices, [], "calls", tf.int64)
        self.statistics = ReplicaLocal(devices, [len(self.segments), len(STATISTICS)], "statistics")
        host = [tf.DeviceSpec.from_string(d).replace(device_type="CPU", device_index=0).to_string() for d in devices]
        self.seconds = ReplicaLocal(host, [len(PHASES)], "seconds", tf.float64)
        self._block = blocks.CPU_BLOCK if "CPU" in devices[0] else None
        self._seed = seed
        self._first_replica_id = first_replica_id
        self._specs = [segment.compressor.payload_spec(segment.size) for segment in self.segments]
        self._encode = tf.function(self._encode_implementation, jit_compile=True, autograph=False)
        self._decode = tf.function(self._decode_implementation, jit_compile=True, autograph=False)

    @property
    def dense_bytes(self) -> int:
        """Bytes of one replica's update in float32."""
        return 4 * sum(segment.size for segment in self.segments)

    @property
    def wire_bytes(self) -> int:
        """Bytes of one replica's payload: what it contributes to one exchange."""
        return sum(segment.compressor.wire_bytes(segment.size) for segment in self.segments)

    @property
    def sent_bytes(self) -> int:
        """Bytes that one replica sends in one reduction over a ring: (M-1) payloads, or 2(M-1)/M vectors when dense."""
        return self.dense_sent_bytes if self.dense else (self.group_size - 1) * self.wire_bytes

    @property
    def dense_sent_bytes(self) -> int:
        """Bytes that one replica would send in an exact float32 ring all-reduce, 2(M-1)/M 4n."""
        return 2 * (self.group_size - 1) * self.dense_bytes // self.group_size

    def state(self) -> dict[str, ReplicaLocal]:
        """Returns the per-replica state that determines future reductions, by name."""
        named = {f"residual/{s.name}": r for s, r in zip(self.segments, self.residuals, strict=True)}
        return named | {"calls": self.calls}

    def mean(self, values: Sequence[tf.Tensor], replica: int, launcher, options) -> list[tf.Tensor]:
        """Returns the compressed mean of `values`, one float32 vector per segment.

        Args:
          values: this replica's float32 [size] vectors, one per segment.
          replica: index of the local replica.
          launcher: that replica's collective launcher.
          options: communication options of this call.

        Raises:
          ValueError: number, shape or dtype of the values is not that of the segments.
        """
        self._check_values(values)
        if self.dense:
            return self._dense_mean(values, replica, launcher, options)
        residuals = [r.variables[replica] for r in self.residuals]
        start = clock.now(values)
        words, new_residuals, statistics = self._encode(list(values), residuals, self._next_seed(replica))
        encoded = clock.now([words])
        gathered = collectives.all_gather(launcher, words, self.group_size, options)
        exchanged = clock.now([gathered])
        means, finite = self._decode(gathered)
        decoded = clock.now(means)
        if self.error_feedback:
            _assign_if(finite, residuals, new_residuals)
        self._record(replica, statistics, start, encoded, exchanged, decoded)
        return means

    def _dense_mean(self, values, replica, launcher, options):
        start = clock.now(values)
        means = [sum_ / self.group_size for sum_ in collectives.all_reduce(launcher, values, self.group_size, options)]
        end = clock.now(means)
        energy = tf.stack([tf.stack([tf.reduce_sum(v * v), 0.0, 0.0]) for v in values])
        self._record(replica, energy, start, start, end, end)
        return means

    def _encode_implementation(self, values, residuals, seed):
        wires, new_residuals, statistics = [], [], []
        for index, segment in enumerate(self.segments):
            encoded = self._encode_segment(segment, values[index], residuals[index], seed + [0, index])
            wires.append(wire.to_wire(encoded.payload))
            new_residuals.append(encoded.residual)
            statistics.append(encoded.statistics)
        return tf.concat(wires, 0), new_residuals, tf.stack(statistics)

    def _encode_segment(self, segment, value, residual, seed):
        if self.error_feedback:
            return error_feedback.encode_with_feedback(segment.compressor, value, residual, seed, block=self._block)
        return error_feedback.encode_without_feedback(segment.compressor, value, seed, block=self._block)

    def _decode_implementation(self, gathered):
        sizes = [wire.wire_words(spec) for spec in self._specs]
        rows = [tf.split(gathered[m], sizes) for m in range(self.group_size)]
        means = []
        for index, (segment, spec) in enumerate(zip(self.segments, self._specs, strict=True)):
            decoded = [segment.compressor.decode(wire.from_wire(row[index], spec), segment.size) for row in rows]
            total = decoded[0]
            for term in decoded[1:]:
                total += term
            means.append(total * (1.0 / self.group_size))
        finite = tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(mean)) for mean in means]))
        return means, finite

    def _next_seed(self, replica):
        """int32 [2]: a stream per replica, then the number of this call; segments add their index."""
        calls = self.calls.variables[replica]
        rank = self._first_replica_id + replica
        stream = tf.constant((self._seed * 1000003 + rank * 7919) % 2**31, tf.int32)
        seed = tf.stack([stream, tf.cast(calls.read_value() * len(self.segments), tf.int32)])
        calls.assign_add(1)
        return seed

    def _record(self, replica, statistics, start, encoded, exchanged, decoded):
        self.statistics.variables[replica].assign(statistics)
        seconds = tf.stack([encoded - start, exchanged - encoded, decoded - exchanged])
        self.seconds.variables[replica].assign(seconds)

    def _check_values(self, values):
        expected = [(segment.size,) for segment in self.segments]
        received = [tuple(value.shape) for value in values]
        if received != expected or any(value.dtype != tf.float32 for value in values):
            dtypes = [value.dtype.name for value in values]
            raise ValueError(
                f"Channel {self.name!r} sends float32 vectors of shapes {expected}. Received: {received}, {dtypes}"
            )


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
        contractive = segment.compressor.delta(segment.size) > 0
        if error_feedback_on and not contractive and not allow_non_contractive:
            raise ValueError(
                f"Error feedback needs a contractive compressor: {segment.compressor.spec!r} proves no contraction on the "
                f"{segment.size} values of {segment.name!r}, so residuals may grow without bound. Turn error feedback off, "
                "use nearest rounding, or set allow_non_contractive to accept the risk."
            )
