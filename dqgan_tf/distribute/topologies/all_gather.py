"""One all-gather of every replica's payload."""

import tensorflow as tf

from dqgan_tf.compressors import wire
from dqgan_tf.distribute import clock, collectives
from dqgan_tf.distribute.topologies.base import Reduced, Topology, acceptable, mean_in_rank_order
from dqgan_tf.error_feedback import encode_with_feedback, encode_without_feedback


class AllGather(Topology):
    """Everybody sends its whole payload to everybody and decodes all of them.

        p^m = x^m + e^m;   c^m = encode(p^m);   e^m <- p^m - decode(c^m);   q = 1/M sum_m decode(c^m)

    Args:
      segments, group_size: see `Topology`.
      error_feedback: without it p^m = x^m and e^m stays zero.
      block: values that are encoded at a time, or None for all; see `error_feedback.encode_with_feedback`.
    """

    name = "all_gather"

    def __init__(self, segments, group_size: int, error_feedback: bool, block: int | None):
        super().__init__(segments, group_size)
        self._error_feedback = error_feedback
        self._block = block
        self._specs = [segment.compressor.payload_spec(segment.size) for segment in segments]
        self._encode = tf.function(self._encode_implementation, jit_compile=True, autograph=False)
        self._decode = tf.function(self._decode_implementation, jit_compile=True, autograph=False)

    @property
    def wire_bytes(self) -> int:
        return sum(segment.compressor.wire_bytes(segment.size) for segment in self.segments)

    @property
    def sent_bytes(self) -> int:
        return (self.group_size - 1) * self.wire_bytes

    def reduce(self, values, residuals, seed, rank, launcher, options) -> Reduced:
        del rank
        start = clock.now(values)
        words, new_residuals, statistics = self._encode(list(values), residuals, seed)
        encoded = clock.now([words])
        gathered = collectives.all_gather(launcher, words, self.group_size, options)
        exchanged = clock.now([gathered])
        means, finite = self._decode(gathered)
        decoded = clock.now(means)
        seconds = tf.stack([encoded - start, exchanged - encoded, decoded - exchanged])
        return Reduced(means, new_residuals, statistics, finite, seconds)

    def _encode_implementation(self, values, residuals, seed):
        encoded = [
            self._encode_segment(segment, values[index], residuals[index], seed + [0, index])
            for index, segment in enumerate(self.segments)
        ]
        words = tf.concat([wire.to_wire(one.payload) for one in encoded], 0)
        return words, [one.residual for one in encoded], tf.stack([one.statistics for one in encoded])

    def _encode_segment(self, segment, value, residual, seed):
        if self._error_feedback:
            return encode_with_feedback(segment.compressor, value, residual, seed, block=self._block)
        return encode_without_feedback(segment.compressor, value, seed, block=self._block)

    def _decode_implementation(self, gathered):
        sizes = [wire.wire_words(spec) for spec in self._specs]
        rows = [tf.split(gathered[m], sizes) for m in range(self.group_size)]
        means, accepted = [], []
        for index, (segment, spec) in enumerate(zip(self.segments, self._specs, strict=True)):
            payloads = [wire.from_wire(row[index], spec) for row in rows]
            means.append(mean_in_rank_order([segment.compressor.decode(one, segment.size) for one in payloads]))
            accepted += [acceptable(segment.compressor, one, segment.size) for one in payloads]
        return means, tf.reduce_all(tf.stack(accepted))
