"""One all-gather of every replica's payload."""

import tensorflow as tf

from dqgan_tf import error_feedback
from dqgan_tf.compressors import base as wire
from dqgan_tf.compressors import blocks
from dqgan_tf.distribute.topologies.packet import (
    Outcome,
    Packet,
    Request,
    Volume,
    acceptable,
    bound,
    compiled,
    write_means,
)


class AllGather(Packet):
    """Every replica sends its payload to all others and decodes all payloads.

    p^m = x^m + e^m;   c^m = encode(p^m);   e^m <- p^m - decode(c^m);   q = 1/M sum_m decode(c^m)
    """

    name = "all_gather"
    writes_into_memory = True

    @staticmethod
    def volume(codings, group_size):
        payload = sum(coding.compressor.wire_bytes(coding.size) for coding in codings)
        return Volume(payload, (group_size - 1) * payload)

    def reduce(self, updates, replica, rank, seeds):
        states = self._states(replica, seeds)
        residuals, memory = self._read(self.residuals, replica), self._local(self._memory, replica)
        # One call per slice: TensorFlow runs them on as many threads as it has.
        encoded = [
            _encode(coding, self.setting.block)(*arguments)
            for coding, *arguments in zip(
                self.codings, updates, residuals, memory, states, self._seeds(seeds.own), strict=True
            )
        ]
        words, residuals, energies, histograms = (list(column) for column in zip(*encoded, strict=True))
        rows = yield Request("all_gather", words[0] if len(words) == 1 else tf.concat(words, 0))
        decode = _decode(self.codings, self._places, self.setting.group_size)
        rows = [rows[m] for m in range(self.setting.group_size)]
        finite = decode(rows, states, self._starts, self._local(self._means, replica))
        return Outcome(finite, energies, residuals, histograms, [None] * len(energies))


@compiled
def _encode(coding, block):
    def encode(update, residual, memory, state, seed):
        """Returns (words, residual, energies, histogram); the residual is None if it is in `memory`."""
        compressor = bound(coding.compressor, state)
        value = None if memory is None else memory.read_value()
        one = error_feedback.encode(compressor, update, residual, seed, block=block, memory=value)
        if memory is not None:
            memory.assign(one.residual)
        kept = one.residual if memory is None else None
        return wire.to_wire(one.payload), kept, one.energies, histogram(coding, update, residual)

    return encode


def histogram(coding, update: tf.Tensor | blocks.Window, residual: tf.Tensor | None) -> tf.Tensor | None:
    """Returns what the compressor learns from this replica's p, float32 [k]; None if it does not learn."""
    if coding.compressor.initial_state(coding.size) is None:
        return None
    update = blocks.whole(update)
    return coding.compressor.histogram(update if residual is None else update + residual, coding.stride)


@compiled
def _decode(codings, places, group_size):
    specs = [coding.compressor.payload_spec(coding.size) for coding in codings]
    sizes = [wire.wire_words(spec) for spec in specs]

    def decode(rows, states, starts, targets):
        """Writes the mean of M rows of words; returns whether all were acceptable."""
        words = [tf.split(row, sizes) for row in rows]
        means, accepted = [], []
        for index, (coding, spec, state) in enumerate(zip(codings, specs, states, strict=True)):
            compressor = bound(coding.compressor, state)
            payloads = [wire.from_wire(words[m][index], spec) for m in range(group_size)]
            means.append(compressor.mean_of_payloads(payloads, coding.size))
            accepted += [acceptable(compressor, payload, coding.size) for payload in payloads]
        write_means(targets, places, means, starts)
        return tf.reduce_all(tf.stack(accepted))

    return decode
