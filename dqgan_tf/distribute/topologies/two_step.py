"""All-to-all of shards, average and encode again at the owner, all-gather: flat in the number of replicas."""

import tensorflow as tf

from dqgan_tf.compressors import base as wire
from dqgan_tf.compressors import blocks
from dqgan_tf.distribute.pipeline import Request
from dqgan_tf.distribute.topologies.base import Given, Reduced, Topology, acceptable
from dqgan_tf.distribute.topologies.encoding import Encoder, bound, compiled, starts, states_of, window, write_mean
from dqgan_tf.distribute.topologies.shards import Shards

_SHARD_STREAM = 0x51ED270B  # shard k of a worker draws from stream k times this,
_OWNER_STREAM = 0x2545F491  # the owner, when it encodes again, from this one


class TwoStep(Topology):
    """Replica k owns shard k of every vector:

        c^m = encode(p^m), shard by shard;   e^m <- p^m - decode(c^m)        as in `AllGather`
        all-to-all:  the owner of shard k receives c^1[k], ..., c^M[k]
        q[k] = 1/M sum_m decode(c^m[k]);   b[k] = encode(q[k]);   all-gather of b;   qhat = decode(b)
        e^k[k] <- e^k[k] + M (q[k] - qhat[k])                                  on the owner alone

    The last line folds the second compression's error into the owner's own residual: mean_m e^m then contains both
    errors, the virtual iterate w - mean_m e^m still obeys exact optimistic mirror descent, and there is no second
    residual to keep. Every replica sends (M-1)/M payloads in either phase, below two for any M, of a vector that is
    filled up to whole buckets for every owner: less than M buckets, which count where n / M is a few of them.

    Args:
      parts, group_size: see `Topology`.
      encoder: how to encode.
    """

    name = "two_step"

    def __init__(self, parts, group_size: int, encoder: Encoder):
        super().__init__(parts, group_size)
        self._encoder = encoder
        self._words = sum(wire.wire_words(spec) for _, _, spec in _layout(self.codings, group_size))
        kernels = self.codings, encoder, group_size
        self._encode, self._average, self._encode_again = _encode(*kernels), _average(*kernels), _encode_again(*kernels)
        self._decode = _decode(*kernels)

    @property
    def wire_bytes(self) -> int:
        return 4 * self.group_size * self._words

    @property
    def sent_bytes(self) -> int:
        return 2 * (self.group_size - 1) * 4 * self._words

    @property
    def writes_means(self):
        return True

    def reduce(self, given: Given):
        places, targets = starts(self.parts), given.means or [None] * len(self.parts)
        states = states_of(self.parts, given)
        rows, kept, statistics, samples = self._encode(
            given.values, given.residuals, states, self._seeds(given.seed, 1), places
        )
        received = yield Request("all_to_all", rows)
        seeds = self._seeds(given.seed + [_OWNER_STREAM, 0], self.group_size)
        averages = self._average(received, states, given.rank)
        words, errors = self._encode_again(averages, states, seeds)
        gathered = yield Request("all_gather", words)
        means, residuals, finite = self._decode(gathered, states, kept, errors, given.rank, places, targets)
        return Reduced(means, residuals, statistics, finite, given.states, samples)

    def _seeds(self, seed, owners):
        return [self._encoder.seed(part.compressor, seed, part.segment, part.start // owners) for part in self.parts]


def _layout(codings, group_size):
    """(coding, its shards, the payload of one shard) of every part."""
    made = [(coding, Shards(coding.compressor, coding.size, group_size)) for coding in codings]
    return [(coding, shards, coding.compressor.payload_spec(shards.size)) for coding, shards in made]


@compiled
def _encode(codings, encoder, group_size):
    def encode(values, residuals, states, seeds, starts):
        """Rows of words, float32 [M, W]: row k goes to the owner of shard k."""
        rows, kept, statistics, samples = [], [], [], []
        for (coding, shards, _), vector, residual, state, seed, start in zip(
            _layout(codings, group_size), values, residuals, states, seeds, starts, strict=True
        ):
            compressor, value = bound(coding.compressor, state), window(vector, start, coding.size)
            samples.append(encoder.samples(coding, value, residual))
            encode_all = _encode_buckets if shards.bucket else _encode_ranges
            one = encode_all(encoder, compressor, shards, shards.pad(blocks.whole(value)), shards.pad(residual), seed)
            rows.append(one[0])
            kept.append(one[1][: coding.size])
            statistics.append(one[2])
        return tf.concat(rows, 1), kept, tf.stack(statistics), samples

    return encode


def _encode_buckets(encoder, compressor, shards, value, residual, seed):
    one = encoder.encode(compressor, value, residual, seed)
    fields = [shards.payload_rows(tf.bitcast(field, tf.float32)) for field in one.payload]
    return tf.concat(fields, 1), one.residual, one.statistics


def _encode_ranges(encoder, compressor, shards, value, residual, seed):
    encoded = [
        encoder.encode(compressor, v, e, seed + [k * _SHARD_STREAM % 2**31, 0])
        for k, (v, e) in enumerate(zip(shards.split(value), shards.split(residual), strict=True))
    ]
    rows = tf.stack([wire.to_wire(one.payload) for one in encoded])
    return rows, tf.concat([one.residual for one in encoded], 0), tf.add_n([one.statistics for one in encoded])


@compiled
def _average(codings, encoder, group_size):
    layout = _layout(codings, group_size)
    sizes = [wire.wire_words(spec) for _, _, spec in layout]

    def average(received, states, rank):
        """Means of the shards that this replica owns, float32 [size] each."""
        means = []
        rows = [tf.split(received[m], sizes) for m in range(group_size)]
        for index, ((coding, shards, spec), state) in enumerate(zip(layout, states, strict=True)):
            compressor = bound(coding.compressor, state)
            payloads = [wire.from_wire(row[index], spec) for row in rows]
            mean = compressor.mean_of_payloads(payloads, shards.size)
            # Padding need not decode to zero (a sign has none) and must not enter the scales of the second encoding.
            # What is not finite stays: a poisoned shard may have sent nothing else, where values are drawn at random.
            keep = (shards.positions(rank) < coding.size) | ~tf.math.is_finite(mean)
            means.append(tf.where(keep, mean, 0.0))
        return means

    return average


@compiled
def _encode_again(codings, encoder, group_size):
    second = Encoder(error_feedback=False, block=encoder.block)

    def encode_again(averages, states, seeds):
        """The words of the averages, and M times what they lose.

        Apart from `_average` and `_decode`: a product that is fused into a sum rounds once instead of twice, or not,
        as the compiler likes for a size, and the bits would depend on it.
        """
        words, errors = [], []
        for (coding, shards, _), mean, state, seed in zip(
            _layout(codings, group_size), averages, states, seeds, strict=True
        ):
            compressor = bound(coding.compressor, state)
            one = second.encode(compressor, mean, None, seed)
            words.append(wire.to_wire(one.payload))
            errors.append(group_size * (mean - compressor.decode(one.payload, shards.size)))
        return tf.concat(words, 0), errors

    return encode_again


@compiled
def _decode(codings, encoder, group_size):
    layout = _layout(codings, group_size)
    sizes = [wire.wire_words(spec) for _, _, spec in layout]

    def decode(gathered, states, residuals, errors, rank, starts, targets):
        means, folded, accepted = [], [], []
        rows = [tf.split(gathered[k], sizes) for k in range(group_size)]
        for index, ((coding, shards, spec), state) in enumerate(zip(layout, states, strict=True)):
            compressor = bound(coding.compressor, state)
            payloads = [wire.from_wire(row[index], spec) for row in rows]
            mean = shards.join([compressor.decode(one, shards.size) for one in payloads])[: coding.size]
            means.append(write_mean(targets[index], mean, starts[index]))
            residual = residuals[index]
            folded.append(_fold(residual, errors[index], shards, rank) if encoder.error_feedback else residual)
            accepted += [acceptable(compressor, one, shards.size) for one in payloads]
        return means, folded, tf.reduce_all(tf.stack(accepted))

    return decode


def _fold(residual, error, shards, rank):
    """Adds M times the second error to the owner's shard of its residual."""
    owned = [tf.where(rank == k, error, 0.0) for k in range(shards.count)]
    return residual + shards.join(owned)[: residual.shape[0]]
