"""One all-gather of every replica's payload."""

import tensorflow as tf

from dqgan_tf import error_feedback
from dqgan_tf.compressors import blocks, float_bits
from dqgan_tf.compressors.base import from_wire, to_wire, wire_words
from dqgan_tf.distribute.layout import Slice
from dqgan_tf.distribute.topologies.packet import Outcome, Packet, Request, Volume, bind, compiled


class AllGather(Packet):
    """Every replica sends its payload to all others and decodes all payloads.

    p^m = x^m + e^m;   c^m = encode(p^m);   e^m <- p^m - decode(c^m);   q = 1/M sum_m decode(c^m)
    """

    name = "all_gather"
    double_buffered = True

    @staticmethod
    def volume_of(codings, group_size):
        payload = sum(coding.compressor.wire_bytes(coding.size) for coding in codings)
        return Volume(payload, (group_size - 1) * payload)

    def reduce(self, updates, replica, rank, seeds):
        bindings, residuals = self._bindings(replica, seeds), self._shifted_residuals(replica)
        spares = [None if spare is None else spare.variables[replica] for spare in self._spare_residuals]
        # One call per slice: TensorFlow runs them on as many threads as it has.
        encoded = [
            _encode_slice(update, residual, spare, binding, seed, coding=coding, block=self.context.block)
            for coding, update, residual, spare, binding, seed in zip(
                self.codings, updates, residuals, spares, bindings, self._seeds(seeds.own), strict=True
            )
        ]
        words, residuals, energies, histograms = (list(column) for column in zip(*encoded, strict=True))
        rows = yield Request("all_gather", words[0] if len(words) == 1 else tf.concat(words, 0))
        ranges, groups = joined_slices(self.slices, self.codings)
        means, acceptable = _decode_rows(rows, bindings, codings=self.codings, groups=groups)
        means = list(zip(ranges, means, strict=True))
        return Outcome(means, acceptable, energies, residuals, histograms, [None] * len(energies))


@compiled
def _encode_slice(update, residual, spare, binding, seed, *, coding, block):
    """Returns (words, residual, energies, histogram); the residual is None if it is written to the variable `spare`."""
    compressor = bind(coding.compressor, binding)
    memory = None if spare is None else spare.read_value()
    encoded = error_feedback.encode(compressor, update, residual, seed, block=block, spare=memory)
    new_residual = encoded.residual
    if spare is not None:
        spare.assign(new_residual)
        new_residual = None
    return to_wire(encoded.payload), new_residual, encoded.energies, histogram(coding, update, residual)


def histogram(coding, update: tf.Tensor | blocks.Window, residual: tf.Tensor | None) -> tf.Tensor | None:
    """Returns what the compressor learns from this replica's p, float32 [k]; None if it does not learn."""
    if coding.compressor.initial_state(coding.size) is None:
        return None
    update = blocks.whole(update)
    return coding.compressor.histogram(update if residual is None else update + residual, coding.stride)


@compiled
def _decode_rows(rows, bindings, *, codings, groups):
    """Returns the means of M rows of words, float32 [size] per group of slices, and whether all were acceptable."""
    specs = [coding.compressor.payload_spec(coding.size) for coding in codings]
    words = [tf.split(row, [wire_words(spec) for spec in specs]) for row in rows]
    means, scales = [], []
    for group in groups:
        compressor, size = bind(codings[group[0]].compressor, bindings[group[0]]), sum(codings[i].size for i in group)
        payloads = [_join([from_wire(of_rank[i], specs[i]) for i in group]) for of_rank in words]
        means.append(compressor.mean_of_payloads(payloads, size))
        scales += [scale for payload in payloads for scale in compressor.scales(payload, size)]
    return means, float_bits.are_bounded(scales)


def joined_slices(slices, codings) -> tuple[list[Slice], tuple[tuple[int, ...], ...]]:
    """Returns ranges that are decoded together, and the indices of the slices of each.

    If a compressor works bucket by bucket, the payloads of adjacent slices, concatenated field by field, are the
    payload of the whole range. XLA decodes a longer range with more threads.
    """
    ranges: list[Slice] = []
    groups: list[list[int]] = []
    end = None
    for index in sorted(range(len(slices)), key=lambda index: slices[index]):
        vector, start, size = slices[index]
        if codings[index].compressor.block_multiple and end == (vector, start):
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
