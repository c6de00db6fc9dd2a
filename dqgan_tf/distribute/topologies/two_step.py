"""All-to-all of shards, average and second encoding at the owner, all-gather: bytes do not grow with the replicas."""

import tensorflow as tf

from dqgan_tf import error_feedback
from dqgan_tf.compressors import blocks, float_bits
from dqgan_tf.compressors.base import from_wire, to_wire, wire_words
from dqgan_tf.compressors.packing import LANE
from dqgan_tf.distribute.topologies.packet import Outcome, Packet, Request, Volume, bind, compiled, histogram

_SHARD_STREAM = 0x51ED270B  # factor of the seed of shard k of a replica: seed + k * _SHARD_STREAM
_OWNER_STREAM = 0x2545F491  # added to the seed of the owner's second encoding


class TwoStep(Packet):
    """Replica k owns shard k of every slice:

        c^m = encode(p^m), shard by shard;   e^m <- p^m - decode(c^m)        as in `AllGather`
        all-to-all:  the owner of shard k receives c^1[k], ..., c^M[k]
        q[k] = 1/M (sum_m decode(c^m[k]) + e^k[k])                             on the owner alone, as the last line
        b[k] = encode'(q[k]);   all-gather of b;   qhat = decode'(b)
        e^k[k] <- M (q[k] - qhat[k])

    encode' is that of `EncodingKey.mean_compressor`, or encode if that is None. The owner's part of its own shard
    travels nowhere, so nothing of it is dropped before the mean is encoded: decode(c^k[k]) + e^k[k] = p^k[k]. Its
    residual is then the error of the second encoding alone. mean_m e^m contains both errors, so the identities of
    docs/algorithm.md hold for w - mean_m e^m, and no second residual is needed. The factor M takes the owner's point
    away from the others; a `mean_compressor` of more bits brings it back. Without error feedback there is no e: the
    owner's part is decode(c^k[k]) like the others.

    Every replica sends (M-1)/M of a payload, and (M-1)/M of a mean: less than two payloads if they are of one size.
    The vector is padded by at most M buckets; this matters if n / M is only a few buckets.
    """

    name = "two_step"

    @staticmethod
    def volume_of(keys, group_size):
        updates, means = (4 * _words(layout) for layout in (_layout(keys, group_size), _mean_layout(keys, group_size)))
        return Volume(group_size * updates, (group_size - 1) * (updates + means))

    def reduce(self, updates, replica, rank, seeds):
        size, block, rank = self.settings.group_size, self.settings.block, tf.constant(rank)
        bindings, residuals = self._bindings(replica, seeds), self._shifted_residuals(replica)
        encoded = [
            _encode_shards(update, residual, binding, seed, key=key, block=block, group_size=size)
            for key, update, residual, binding, seed in zip(
                self.keys, updates, residuals, bindings, self._own_seeds(seeds), strict=True
            )
        ]
        shards, residuals, energies, histograms = (list(column) for column in zip(*encoded, strict=True))
        received = yield Request("all_to_all", shards[0] if len(shards) == 1 else tf.concat(shards, 1))
        averages, own = _average_shards(received, residuals, bindings, rank, keys=self.keys)
        compressors = [key.mean_compressor or key.compressor for key in self.keys]
        owner_seeds = self._seeds(seeds.own + [_OWNER_STREAM, 0], compressors, owners=size)
        words, errors = _encode_averages(
            averages, own, bindings, owner_seeds, keys=self.keys, block=block, group_size=size
        )
        rows = yield Request("all_gather", words)
        means, bounded, residuals = _decode_averages(rows, bindings, residuals, errors, rank, keys=self.keys)
        means = list(zip(self.slices, means, strict=True))
        return Outcome(means, bounded, energies, residuals, histograms, [None] * len(energies))


class Shards:
    """Which values of a slice each of M replicas owns.

    If a compressor works bucket by bucket, bucket r belongs to replica r mod M, so that the owner of a value does not
    depend on how a vector is cut into slices. Other vectors are M consecutive ranges.

    Args:
      compressor: compressor whose buckets are not divided.
      size: n, values of the slice.
      count: M.

    Attributes:
      size: values of a shard, ceil(n / M) rounded up to whole buckets, or to 32 for small slices; M shards cover the
        slice and `padding` values behind it.
      bucket: values that are not divided; None: shard k is the k-th range.
      run: values of one owner that stand side by side, a bucket or a shard.
    """

    def __init__(self, compressor, size: int, count: int):
        share = -(-size // count)
        lanes = -(-share // LANE) * LANE
        multiple = min(compressor.block_multiple or LANE, lanes)
        self.size = -(-share // multiple) * multiple
        self.count = count
        self.padding = self.size * count - size
        whole = compressor.block_multiple is not None and self.size % compressor.block_multiple == 0
        self.bucket = compressor.block_multiple if whole else None
        self.run = self.bucket or self.size

    def pad(self, vector: tf.Tensor | None) -> tf.Tensor | None:
        """[n] -> [M size], zeros at the end; None for None."""
        return None if vector is None else tf.pad(vector, [[0, self.padding]])

    def join(self, shards: list[tf.Tensor]) -> tf.Tensor:
        """M shards [size], in order of their owners -> [M size]."""
        return tf.reshape(tf.stack([tf.reshape(shard, [-1, self.run]) for shard in shards], 1), [-1])

    def of_owner(self, vector: tf.Tensor, rank: tf.Tensor) -> tf.Tensor:
        """[M size] -> [size]: the shard of replica `rank`."""
        return tf.reshape(self._runs(vector)[:, rank], [-1])

    def with_shard(self, vector: tf.Tensor, shard: tf.Tensor, rank: tf.Tensor) -> tf.Tensor:
        """[M size] with these values [size] as the shard of replica `rank`."""
        is_owned = (tf.range(self.count) == rank)[:, None]
        return tf.reshape(tf.where(is_owned, tf.reshape(shard, [-1, 1, self.run]), self._runs(vector)), [-1])

    def positions(self, rank: tf.Tensor) -> tf.Tensor:
        """int32 [size]: positions in the slice of the values of shard `rank`."""
        return self.of_owner(tf.range(self.size * self.count), rank)

    def payload_rows(self, field: tf.Tensor) -> tf.Tensor:
        """A field of the payload of [M size] values, some words per bucket, as [M, words]: row k is shard k's."""
        buckets = self.size // self.bucket  # type: ignore[operator]  # called only if shards are whole buckets
        words = tf.reshape(tf.bitcast(field, tf.float32), [buckets, self.count, -1])
        return tf.reshape(tf.transpose(words, [1, 0, 2]), [self.count, -1])

    def _runs(self, vector):
        """[M size] -> [runs of a shard, M, run]."""
        return tf.reshape(vector, [-1, self.count, self.run])


def _layout(keys, group_size):
    """Returns (key, its shards, payload of one shard) of every slice."""
    shards = [Shards(key.compressor, key.size, group_size) for key in keys]
    return [(key, s, key.compressor.payload_spec(s.size)) for key, s in zip(keys, shards, strict=True)]


def _mean_layout(keys, group_size):
    """As `_layout`, for the encoding of the mean."""
    return [
        (key, s, (key.mean_compressor or key.compressor).payload_spec(s.size))
        for key, s, _ in _layout(keys, group_size)
    ]


def _words(layout):
    """Returns the number of words of one shard of every slice."""
    return sum(wire_words(spec) for _, _, spec in layout)


def _of_mean(key, binding):
    """Returns the compressor of the mean."""
    return key.mean_compressor or bind(key.compressor, binding)


def _payloads(rows, layout):
    """Returns per slice the payloads of its shard in M rows of words."""
    words = [tf.split(row, [wire_words(spec) for _, _, spec in layout]) for row in rows]
    return [[from_wire(of_rank[index], spec) for of_rank in words] for index, (_, _, spec) in enumerate(layout)]


@compiled
def _encode_shards(update, residual, binding, seed, *, key, block, group_size):
    """Returns (float32 [M, W] words, row k for the owner of shard k; residual; energies; histogram)."""
    shards, compressor = Shards(key.compressor, key.size, group_size), bind(key.compressor, binding)
    x, e = shards.pad(blocks.whole(update)), shards.pad(residual)
    if shards.bucket:  # one encoding, whose buckets are dealt out to their owners
        encoded = error_feedback.encode(compressor, x, e, seed, block=block)
        rows = tf.concat([shards.payload_rows(field) for field in encoded.payload], 1)
        error, energies = encoded.residual, encoded.energies
    else:
        rows, error, energies = _encode_each(compressor, x, e, seed, shards, block)
    return rows, None if error is None else error[: key.size], energies, histogram(key, update, residual)


def _encode_each(compressor, x, e, seed, shards, block):
    """Returns (words, residual, energies) of one encoding per shard.

    A loop of XLA: the time to trace and to compile it does not grow with M.
    """
    x, e = (None if vector is None else tf.reshape(vector, [shards.count, shards.size]) for vector in (x, e))

    def encode_shard(k):
        stream = tf.bitwise.bitwise_and(k * _SHARD_STREAM, 2**31 - 1)
        residual = None if e is None else e[k]
        encoded = error_feedback.encode(compressor, x[k], residual, seed + tf.stack([stream, 0]), block=block)
        return to_wire(encoded.payload), tf.zeros([0]) if e is None else encoded.residual, encoded.energies

    rows, errors, energies = tf.map_fn(encode_shard, tf.range(shards.count), fn_output_signature=(tf.float32,) * 3)
    return rows, None if e is None else tf.reshape(errors, [-1]), tf.add_n(tf.unstack(energies))


@compiled
def _average_shards(received, residuals, bindings, rank, *, keys):
    """Returns the means of the shards that this replica owns, and 1/M of what its own packet dropped of them.

    float32 [size] each. Without error feedback the latter are 0.
    """
    layout, means, own = _layout(keys, len(received)), [], []
    for (key, shards, _), residual, binding, payloads in zip(
        layout, residuals, bindings, _payloads(received, layout), strict=True
    ):
        mean = bind(key.compressor, binding).mean_of_payloads(payloads, shards.size)
        # Padding need not decode to zero (`sign` has no zero) and must not enter the scales of the second encoding.
        # Keep inf and NaN in the padding: with a random sparse compressor they may be the only trace of a non-finite
        # input.
        stays = (shards.positions(rank) < key.size) | ~tf.math.is_finite(mean)
        means.append(tf.where(stays, mean, 0.0))
        dropped = tf.zeros_like(mean) if residual is None else shards.of_owner(shards.pad(residual), rank)
        own.append(dropped * (1.0 / len(received)))
    return means, own


# A function of its own: compiled with `_average_shards` or `_decode_averages`, XLA would fuse a product into a sum,
# with one rounding instead of two, or not, depending on the sizes. The bits would depend on how a vector is cut.
@compiled
def _encode_averages(averages, own, bindings, seeds, *, keys, block, group_size):
    """Returns the words of the sums of `_average_shards`, and M times the error of their encoding."""
    words, errors = [], []
    for (key, shards, _), average, dropped, binding, seed in zip(
        _layout(keys, group_size), averages, own, bindings, seeds, strict=True
    ):
        compressor, mean = _of_mean(key, binding), average + dropped
        payload = error_feedback.encode(compressor, mean, None, seed, block=block).payload
        words.append(to_wire(payload))
        errors.append(group_size * (mean - compressor.decode(payload, shards.size)))
    return tf.concat(words, 0), errors


def _decode_each(compressor, payloads, size):
    """Returns float32 [size] of each payload, by a loop as in `_encode_each` unless XLA fuses decoding with its use."""
    if compressor.block_multiple:
        return [compressor.decode(payload, size) for payload in payloads]
    stacked = tf.nest.map_structure(lambda *fields: tf.stack(fields), *payloads)
    return tf.unstack(
        tf.map_fn(lambda payload: compressor.decode(payload, size), stacked, fn_output_signature=tf.float32)
    )


@compiled
def _decode_averages(rows, bindings, residuals, errors, rank, *, keys):
    """Returns (means, whether all shards are bounded, residuals with the errors of this replica's shards)."""
    layout = _mean_layout(keys, len(rows))
    means, new_residuals, scales = [], [], []
    for (key, shards, _), binding, payloads, residual, error in zip(
        layout, bindings, _payloads(rows, layout), residuals, errors, strict=True
    ):
        compressor = _of_mean(key, binding)
        means.append(shards.join(_decode_each(compressor, payloads, shards.size))[: key.size])
        scales += [scale for payload in payloads for scale in compressor.scales(payload, shards.size)]
        if residual is not None:
            residual = shards.with_shard(shards.pad(residual), error, rank)[: key.size]
        new_residuals.append(residual)
    return means, float_bits.are_bounded(scales), new_residuals
