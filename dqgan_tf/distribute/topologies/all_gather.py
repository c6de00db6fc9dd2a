"""One all-gather of every replica's payload."""

import tensorflow as tf

from dqgan_tf.compressors import base as wire
from dqgan_tf.distribute.pipeline import Request
from dqgan_tf.distribute.topologies.base import Given, Reduced, Topology, acceptable
from dqgan_tf.distribute.topologies.encoding import (
    Encoder,
    bound,
    compiled,
    kept,
    starts,
    states_of,
    window,
    write_mean,
)


class AllGather(Topology):
    """Everybody sends its whole payload to everybody and decodes all of them.

        p^m = x^m + e^m;   c^m = encode(p^m);   e^m <- p^m - decode(c^m);   q = 1/M sum_m decode(c^m)

    Args:
      parts, group_size: see `Topology`.
      encoder: how to encode.
    """

    name = "all_gather"

    def __init__(self, parts, group_size: int, encoder: Encoder):
        super().__init__(parts, group_size)
        self._encoder = encoder
        self._encode = _encode(self.codings, encoder)
        self._decode = _decode(self.codings, encoder, group_size)

    @property
    def wire_bytes(self) -> int:
        return sum(part.compressor.wire_bytes(part.size) for part in self.parts)

    @property
    def sent_bytes(self) -> int:
        return (self.group_size - 1) * self.wire_bytes

    @property
    def buffered(self):
        return tuple(self._encoder.writes_into_buffers(part.compressor) for part in self.parts)

    @property
    def writes_means(self):
        return True

    def reduce(self, given: Given):
        seeds = [self._encoder.seed(p.compressor, given.seed, p.segment, p.start) for p in self.parts]
        places, states = starts(self.parts), states_of(self.parts, given)
        buffers, means = (variables or [None] * len(self.parts) for variables in (given.buffers, given.means))
        words, residuals, statistics, samples = self._encode(
            given.values, given.residuals, states, seeds, places, buffers
        )
        residuals = kept(residuals, buffers)
        gathered = yield Request("all_gather", words)
        means, finite = self._decode(gathered, states, places, means)
        return Reduced(means, residuals, statistics, finite, given.states, samples)


@compiled
def _encode(codings, encoder):
    def encode(values, residuals, states, seeds, starts, buffers):
        """The words; residuals, None where they are in a buffer; statistics; samples."""
        encoded, samples = [], []
        for coding, vector, residual, state, seed, start, buffer in zip(
            codings, values, residuals, states, seeds, starts, buffers, strict=True
        ):
            compressor, value = bound(coding.compressor, state), window(vector, start, coding.size)
            encoded.append(encoder.encode(compressor, value, residual, seed, buffer))
            samples.append(encoder.samples(coding, value, residual))
        words = tf.concat([wire.to_wire(one.payload) for one in encoded], 0)
        residuals = [one.residual if b is None else None for one, b in zip(encoded, buffers, strict=True)]
        return words, residuals, tf.stack([one.statistics for one in encoded]), samples

    return encode


@compiled
def _decode(codings, encoder, group_size):
    specs = [coding.compressor.payload_spec(coding.size) for coding in codings]
    sizes = [wire.wire_words(spec) for spec in specs]

    def decode(gathered, states, starts, targets):
        """The parts of the mean, None where they are in a target; whether all were acceptable."""
        rows = [tf.split(gathered[m], sizes) for m in range(group_size)]
        means, accepted = [], []
        for index, (coding, spec, state) in enumerate(zip(codings, specs, states, strict=True)):
            compressor = bound(coding.compressor, state)
            payloads = [wire.from_wire(row[index], spec) for row in rows]
            mean = compressor.mean_of_payloads(payloads, coding.size)
            means.append(write_mean(targets[index], mean, starts[index]))
            accepted += [acceptable(compressor, one, coding.size) for one in payloads]
        return means, tf.reduce_all(tf.stack(accepted))

    return decode
