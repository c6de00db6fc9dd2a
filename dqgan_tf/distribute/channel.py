"""A named compressed reduction with error feedback and the state that belongs to it."""

from collections.abc import Sequence

import tensorflow as tf

from dqgan_tf.compressors import blocks
from dqgan_tf.distribute import topologies
from dqgan_tf.distribute.options import CompressionOptions
from dqgan_tf.distribute.replica_local import ReplicaLocal
from dqgan_tf.distribute.segment import Segment

PHASES = ("encode", "exchange", "decode")
STATISTICS = ("update_energy", "residual_energy", "error_energy")


class Channel:
    """Compressed mean of flat vectors over all replicas, with error feedback.

    With x^m what replica m gives and e^m its residual (Karimireddy et al. 2019, arXiv 1901.09847):

        p^m = x^m + e^m;   c^m = encode(p^m);   e^m <- p^m - decode(c^m);   q = 1/M sum_m decode(c^m)

    A topology says how q comes about; see `topologies`. `q` has the same bits everywhere. If any replica's `p` is not
    finite (or its scale reaches 1e30), `accepted` is False on all replicas after the call and no residual changes: the
    callers see the same and must skip the step together.

    Open one with `CompressedStrategy.open_channel`, eagerly and on every worker in the same order.

    Args:
      name: tag of the channel.
      segments: what one reduction consists of, in order.
      error_feedback: keep residuals. Without it `e` stays zero.
      devices: the local replicas' devices.
      group_size: M.
      ranks: of the local replicas in the collective group.
      first_replica_id: global id of the first local replica.
      seed: of stochastic rounding; the stream is a function of (seed, replica id, number of calls).
      topology: `auto`, `all_gather` or `two_step`.
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
        group_size: int,
        ranks: Sequence[int] = (0,),
        first_replica_id: int = 0,
        seed: int = 0,
        topology: str = "auto",
        allow_non_contractive: bool = False,
        options: CompressionOptions | None = None,
    ):
        _check(name, segments, error_feedback, allow_non_contractive)
        self.name = name
        self.segments = tuple(segments)
        self.error_feedback = error_feedback
        self.group_size = group_size
        self.options = (options or CompressionOptions()).merge(CompressionOptions(channel=name))
        block = blocks.CPU_BLOCK if "CPU" in devices[0] else None
        self.topology = topologies.build(topology, segments, group_size, error_feedback=error_feedback, block=block)
        self.residuals = [ReplicaLocal(devices, [s.size], f"residual_{s.name}") for s in self.segments]
        self.calls = ReplicaLocal(devices, [], "calls", tf.int64)
        self.accepted = ReplicaLocal(devices, [], "accepted", tf.bool)
        self.statistics = ReplicaLocal(devices, [len(self.segments), len(STATISTICS)], "statistics")
        host = [tf.DeviceSpec.from_string(d).replace(device_type="CPU", device_index=0).to_string() for d in devices]
        self.seconds = ReplicaLocal(host, [len(PHASES)], "seconds", tf.float64)
        self._ranks = tuple(ranks)
        self._seed = seed
        self._first_replica_id = first_replica_id

    @property
    def dense_bytes(self) -> int:
        """Bytes of one replica's vectors in float32."""
        return self.topology.dense_bytes

    @property
    def wire_bytes(self) -> int:
        """Bytes of one replica's payload: one encoding of all its vectors, as it travels."""
        return self.topology.wire_bytes

    @property
    def sent_bytes(self) -> int:
        """Bytes that one replica sends in one reduction, all phases together."""
        return self.topology.sent_bytes

    @property
    def dense_sent_bytes(self) -> int:
        """Bytes that one replica would send in an exact float32 ring all-reduce, 2(M-1)/M 4n."""
        return self.topology.dense_sent_bytes

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
        residuals = [residual.variables[replica] for residual in self.residuals]
        reduced = self.topology.reduce(
            values,
            [residual.read_value() for residual in residuals],
            self._next_seed(replica),
            self._ranks[replica],
            launcher,
            options,
        )
        if self.error_feedback:
            _assign_if(reduced.finite, residuals, reduced.residuals)
        self.accepted.variables[replica].assign(reduced.finite)
        self.statistics.variables[replica].assign(reduced.statistics)
        self.seconds.variables[replica].assign(reduced.seconds)
        return reduced.means

    def _next_seed(self, replica):
        """int32 [2]: a stream per replica, then the number of this call; topologies add the segment's index."""
        calls = self.calls.variables[replica]
        stream = (self._seed * 1000003 + (self._first_replica_id + replica) * 7919) % 2**31
        seed = tf.stack([tf.constant(stream, tf.int32), tf.cast(calls.read_value() * len(self.segments), tf.int32)])
        calls.assign_add(1)
        return seed

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
                f"Error feedback needs a contractive compressor: {segment.compressor.spec!r} proves no contraction on "
                f"the {segment.size} values of {segment.name!r}, so residuals may grow without bound. Turn error "
                "feedback off, use nearest rounding, or set allow_non_contractive to accept the risk."
            )
