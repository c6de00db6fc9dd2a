"""All-to-all of shards, average and second encoding at the owner, all-gather: bytes do not grow with the replicas."""

import tensorflow as tf

from dqgan_tf import error_feedback
from dqgan_tf.compressors import base as wire
from dqgan_tf.compressors import blocks
from dqgan_tf.distribute.topologies.all_gather import histogram
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

_LANES = 32
_SHARD_STREAM = 0x51ED270B  # shard k of a replica draws from stream k times this,
_OWNER_STREAM = 0x2545F491  # the owner's second encoding from this one


class TwoStep(Packet):
    """Replica k owns shard k of every slice:

        c^m = encode(p^m), shard by shard;   e^m <- p^m - decode(c^m)        as in `AllGather`
        all-to-all:  the owner of shard k receives c^1[k], ..., c^M[k]
        q[k] = 1/M sum_m decode(c^m[k]);   b[k] = encode(q[k]);   all-gather of b;   qhat = decode(b)
        e^k[k] <- e^k[k] + M (q[k] - qhat[k])                                  on the owner alone

    The last line folds the second compression's error into the owner's own residual: mean_m e^m then contains both
    errors, the virtual iterate w - mean_m e^m obeys exact optimistic mirror descent, and there is no second residual to
    keep. Every replica sends (M-1)/M payloads in either phase, fewer than two for any M, of a vector that is filled up
    to whole buckets for every owner: up to M buckets more, which count where n / M is a few of them.
    """

    name = "two_step"

    @staticmethod
    def volume(codings, group_size):
        shard = 4 * sum(wire.wire_words(spec) for _, _, spec in _layout(codings, group_size))
        return Volume(group_size * shard, 2 * (group_size - 1) * shard)

    def reduce(self, updates, replica, rank, seeds):
        size, block, rank = self.setting.group_size, self.setting.block, tf.constant(rank)
        states, residuals = self._states(replica, seeds), self._read(self.residuals, replica)
        encoded = [
            _encode(coding, block, size)(*arguments)
            for coding, *arguments in zip(self.codings, updates, residuals, states, self._seeds(seeds.own), strict=True)
        ]
        shards, residuals, energies, histograms = (list(column) for column in zip(*encoded, strict=True))
        received = yield Request("all_to_all", shards[0] if len(shards) == 1 else tf.concat(shards, 1))
        averages = _average(self.codings, size)([received[m] for m in range(size)], states, rank)
        owner_seeds = self._seeds(seeds.own + [_OWNER_STREAM, 0], owners=size)
        words, errors = _encode_again(self.codings, block, size)(averages, states, owner_seeds)
        rows = yield Request("all_gather", words)
        finite, residuals = _decode(self.codings, self._places, size)(
            [rows[m] for m in range(size)],
            states,
            residuals,
            errors,
            rank,
            self._starts,
            self._local(self._means, replica),
        )
        return Outcome(finite, energies, residuals, histograms, [None] * len(energies))


class Shards:
    """Which values of a slice each of M replicas owns.

    Where a compressor works bucket by bucket, bucket r belongs to replica r mod M, so that the owner of a value does
    not depend on how a vector is cut into slices. Other vectors are M consecutive ranges.

    Args:
      compressor: whose buckets stay whole.
      size: n, values of the slice.
      count: M.

    Attributes:
      size: values of a shard, ceil(n / M) rounded up to whole buckets, or to 32 for small slices; M shards cover the
        slice and up to `padding` values behind it.
      bucket: values that stay together; None: shard k is the k-th range.
    """

    def __init__(self, compressor, size: int, count: int):
        share = -(-size // count)
        lanes = -(-share // _LANES) * _LANES
        multiple = min(compressor.block_multiple or _LANES, lanes)
        self.size = -(-share // multiple) * multiple
        self.count = count
        self.padding = self.size * count - size
        whole = compressor.block_multiple is not None and self.size % compressor.block_multiple == 0
        self.bucket = compressor.block_multiple if whole else None

    def pad(self, vector: tf.Tensor | None) -> tf.Tensor | None:
        """[n] -> [M size], zeros at the end; None for None."""
        return None if vector is None else tf.pad(vector, [[0, self.padding]])

    def join(self, shards: list[tf.Tensor]) -> tf.Tensor:
        """M shards [size], in order of their owners -> [M size]."""
        if self.bucket is None:
            return tf.concat(shards, 0)
        return tf.reshape(tf.stack([tf.reshape(shard, [-1, self.bucket]) for shard in shards], 1), [-1])

    def positions(self, rank: tf.Tensor) -> tf.Tensor:
        """int32 [size]: where the values of shard `rank` stand in the slice."""
        places = tf.range(self.size)
        if self.bucket is None:
            return places + rank * self.size
        inside = places % self.bucket
        return (places - inside) * self.count + rank * self.bucket + inside

    def payload_rows(self, field: tf.Tensor) -> tf.Tensor:
        """A field of the payload of [M size] values, some words per bucket, as [M, words]: row k is shard k's."""
        words = tf.reshape(tf.bitcast(field, tf.float32), [self.size // self.bucket, self.count, -1])
        return tf.reshape(tf.transpose(words, [1, 0, 2]), [self.count, -1])


def _layout(codings, group_size):
    """Returns (coding, its shards, payload of one shard) of every slice."""
    shards = [Shards(coding.compressor, coding.size, group_size) for coding in codings]
    return [(c, one, c.compressor.payload_spec(one.size)) for c, one in zip(codings, shards, strict=True)]


@compiled
def _encode(coding, block, group_size):
    shards = Shards(coding.compressor, coding.size, group_size)

    def encode(update, residual, state, seed):
        """Returns (float32 [M, W] words, row k for the owner of shard k; residual; energies; histogram)."""
        update, compressor = blocks.whole(update), bound(coding.compressor, state)
        encode_shards = _encode_buckets if shards.bucket else _encode_ranges
        rows, kept, energies = encode_shards(compressor, shards, shards.pad(update), shards.pad(residual), seed, block)
        kept = None if kept is None else kept[: coding.size]
        return rows, kept, energies, histogram(coding, update, residual)

    return encode


def _encode_buckets(compressor, shards, update, residual, seed, block):
    """One encoding; the payload's buckets are dealt out to their owners."""
    one = error_feedback.encode(compressor, update, residual, seed, block=block)
    return tf.concat([shards.payload_rows(field) for field in one.payload], 1), one.residual, one.energies


def _encode_ranges(compressor, shards, update, residual, seed, block):
    """One encoding per shard."""
    updates = tf.split(update, shards.count)
    residuals = [None] * shards.count if residual is None else tf.split(residual, shards.count)
    seeds = [seed + [k * _SHARD_STREAM % 2**31, 0] for k in range(shards.count)]
    encoded = [
        error_feedback.encode(compressor, *arguments, block=block)
        for arguments in zip(updates, residuals, seeds, strict=True)
    ]
    rows = tf.stack([wire.to_wire(one.payload) for one in encoded])
    kept = None if residual is None else tf.concat([one.residual for one in encoded], 0)
    return rows, kept, tf.add_n([one.energies for one in encoded])


@compiled
def _average(codings, group_size):
    layout = _layout(codings, group_size)
    sizes = [wire.wire_words(spec) for _, _, spec in layout]

    def average(received, states, rank):
        """Returns the means of the shards that this replica owns, float32 [size] each."""
        words, means = [tf.split(row, sizes) for row in received], []
        for index, ((coding, shards, spec), state) in enumerate(zip(layout, states, strict=True)):
            payloads = [wire.from_wire(words[m][index], spec) for m in range(group_size)]
            mean = bound(coding.compressor, state).mean_of_payloads(payloads, shards.size)
            # Padding need not decode to zero (a sign has none) and must not enter the scales of the second encoding.
            # Values that are not finite stay: a poisoned shard may hold no other sign of it, where a compressor sends
            # values drawn at random.
            keep = (shards.positions(rank) < coding.size) | ~tf.math.is_finite(mean)
            means.append(tf.where(keep, mean, 0.0))
        return means

    return average


@compiled
def _encode_again(codings, block, group_size):
    """Compiled apart from `_average` and `_decode`: the compiler fuses a product into a sum, with one rounding instead
    of two, or not, depending on sizes; the bits would depend on them."""

    def encode_again(averages, states, seeds):
        """Returns the words of the averages, and M times the error of their encoding."""
        words, errors = [], []
        for (coding, shards, _), mean, state, seed in zip(
            _layout(codings, group_size), averages, states, seeds, strict=True
        ):
            compressor = bound(coding.compressor, state)
            payload = error_feedback.encode(compressor, mean, None, seed, block=block).payload
            words.append(wire.to_wire(payload))
            errors.append(group_size * (mean - compressor.decode(payload, shards.size)))
        return tf.concat(words, 0), errors

    return encode_again


@compiled
def _decode(codings, places, group_size):
    layout = _layout(codings, group_size)
    sizes = [wire.wire_words(spec) for _, _, spec in layout]

    def decode(rows, states, residuals, errors, rank, starts, targets):
        """Writes the mean; returns (whether all shards were acceptable, residuals with the owner's errors)."""
        words = [tf.split(row, sizes) for row in rows]
        means, folded, accepted = [], [], []
        for index, ((coding, shards, spec), state) in enumerate(zip(layout, states, strict=True)):
            compressor = bound(coding.compressor, state)
            payloads = [wire.from_wire(words[k][index], spec) for k in range(group_size)]
            means.append(shards.join([compressor.decode(one, shards.size) for one in payloads])[: coding.size])
            folded.append(_fold(residuals[index], errors[index], shards, rank))
            accepted += [acceptable(compressor, payload, shards.size) for payload in payloads]
        write_means(targets, places, means, starts)
        return tf.reduce_all(tf.stack(accepted)), folded

    return decode


def _fold(residual, error, shards, rank):
    """Adds M times the second error to the owner's shard of its residual."""
    if residual is None:
        return None
    owned = [tf.where(rank == k, error, 0.0) for k in range(shards.count)]
    return residual + shards.join(owned)[: residual.shape[0]]
