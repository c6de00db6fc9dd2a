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
        decode = _decode(self.codings, self._places, _runs(self.slices, self.codings), self.setting.group_size)
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
def _decode(codings, places, runs, group_size):
    specs = [coding.compressor.payload_spec(coding.size) for coding in codings]
    sizes = [wire.wire_words(spec) for spec in specs]

    def decode(rows, states, starts, targets):
        """Writes the mean of M rows of words; returns whether all were acceptable."""
        words = [tf.split(row, sizes) for row in rows]
        means, accepted, first = [], [], []
        for indices in runs:
            compressor = bound(codings[indices[0]].compressor, states[indices[0]])
            payloads = [[wire.from_wire(words[m][index], specs[index]) for index in indices] for m in range(group_size)]
            payloads = [_joined(parts) for parts in payloads]
            size = sum(codings[index].size for index in indices)
            means.append(compressor.mean_of_payloads(payloads, size))
            first.append(indices[0])
            accepted += [acceptable(compressor, payload, size) for payload in payloads]
        write_means(targets, [places[index] for index in first], means, [starts[index] for index in first])
        return tf.reduce_all(tf.stack(accepted))

    return decode


def _runs(slices, codings):
    """Returns the indices of slices that are decoded together: consecutive slices of one vector, in its order.

    Where a compressor works bucket by bucket, their payloads joined field by field are the payload of the whole range,
    which XLA decodes on all its threads.
    """
    runs, end = [], None
    for index in sorted(range(len(slices)), key=lambda index: slices[index]):
        part = slices[index]
        if end == (part.vector, part.start) and codings[index].compressor.block_multiple:
            runs[-1].append(index)
        else:
            runs.append([index])
        end = part.vector, part.start + part.size
    return tuple(map(tuple, runs))


def _joined(payloads):
    """One payload of several, field by field."""
    if len(payloads) == 1:
        return payloads[0]
    return type(payloads[0])(*[tf.concat(fields, 0) for fields in zip(*payloads, strict=True)])
