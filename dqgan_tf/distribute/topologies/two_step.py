"""All-to-all of shards, average and encode again at the owner, all-gather: flat in the number of replicas."""

import tensorflow as tf

from dqgan_tf.compressors import wire
from dqgan_tf.distribute import clock, collectives
from dqgan_tf.distribute.topologies.base import Reduced, Topology, acceptable, mean_in_rank_order
from dqgan_tf.error_feedback import encode_with_feedback, encode_without_feedback

_LANES = 32
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
    residual to keep. Every replica sends (M-1)/M payloads in either phase: below two payloads for any M.

    Args:
      segments, group_size: see `Topology`.
      error_feedback: without it nothing is remembered or folded.
      block: see `error_feedback.encode_with_feedback`.
    """

    name = "two_step"

    def __init__(self, segments, group_size: int, error_feedback: bool, block: int | None):
        super().__init__(segments, group_size)
        self._error_feedback = error_feedback
        self._block = block
        self._shards = [shard_size(segment, group_size) for segment in segments]
        self._specs = [s.compressor.payload_spec(n) for s, n in zip(segments, self._shards, strict=True)]
        self._words = [wire.wire_words(spec) for spec in self._specs]
        self._encode = tf.function(self._encode_implementation, jit_compile=True, autograph=False)
        self._average = tf.function(self._average_implementation, jit_compile=True, autograph=False)
        self._decode = tf.function(self._decode_implementation, jit_compile=True, autograph=False)

    @property
    def wire_bytes(self) -> int:
        return 4 * self.group_size * sum(self._words)

    @property
    def sent_bytes(self) -> int:
        return 2 * (self.group_size - 1) * 4 * sum(self._words)

    def reduce(self, values, residuals, seed, rank, launcher, options) -> Reduced:
        times = [clock.now(values)]
        rows, new_residuals, statistics = self._encode(list(values), residuals, seed)
        times.append(clock.now([rows]))
        received = collectives.all_to_all(launcher, rows, self.group_size, options)
        times.append(clock.now([received]))
        words, errors = self._average(received, seed, tf.constant(rank))
        times.append(clock.now([words]))
        gathered = collectives.all_gather(launcher, words, self.group_size, options)
        times.append(clock.now([gathered]))
        means, folded, finite = self._decode(gathered, new_residuals, errors, tf.constant(rank))
        times.append(clock.now(means))
        spent = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
        seconds = tf.stack([spent[0] + spent[2], spent[1] + spent[3], spent[4]])
        return Reduced(means, folded, statistics, finite, seconds)

    def _encode_implementation(self, values, residuals, seed):
        """Rows of words, float32 [M, W]: row k goes to the owner of shard k."""
        encoded = [
            self._encode_segment(index, values[index], residuals[index], seed + [0, index])
            for index in range(len(self.segments))
        ]
        rows = tf.concat([one[0] for one in encoded], 1)
        return rows, [one[1] for one in encoded], tf.stack([one[2] for one in encoded])

    def _encode_segment(self, index, value, residual, seed):
        segment, shard = self.segments[index], self._shards[index]
        compressor, padding = segment.compressor, shard * self.group_size - segment.size
        value, residual = tf.pad(value, [[0, padding]]), tf.pad(residual, [[0, padding]])
        if _divides(compressor.block_multiple, shard):
            one = self._feedback(compressor, value, residual, seed)
            rows = _payload_rows(one.payload, self.group_size)
            return rows, one.residual[: segment.size], one.statistics
        shards = [
            self._feedback(compressor, v, e, seed + [k * _SHARD_STREAM % 2**31, 0])
            for k, (v, e) in enumerate(zip(self._split(value), self._split(residual), strict=True))
        ]
        rows = tf.stack([wire.to_wire(one.payload) for one in shards])
        kept = tf.concat([one.residual for one in shards], 0)[: segment.size]
        return rows, kept, tf.add_n([one.statistics for one in shards])

    def _feedback(self, compressor, value, residual, seed):
        if self._error_feedback:
            return encode_with_feedback(compressor, value, residual, seed, block=self._block)
        return encode_without_feedback(compressor, value, seed, block=self._block)

    def _average_implementation(self, received, seed, rank):
        """The owner's part: its shards' averages encoded once more, and what that loses."""
        words, errors = [], []
        rows = [tf.split(received[m], self._words) for m in range(self.group_size)]
        for index, (segment, spec, shard) in enumerate(zip(self.segments, self._specs, self._shards, strict=True)):
            decoded = [segment.compressor.decode(wire.from_wire(row[index], spec), shard) for row in rows]
            # Padding need not decode to zero (a sign has none) and must not enter the scales of the second encoding.
            owned = tf.range(shard) < segment.size - rank * shard
            mean = tf.where(owned, mean_in_rank_order(decoded), 0.0)
            one = encode_without_feedback(segment.compressor, mean, seed + [_OWNER_STREAM, index], block=self._block)
            words.append(wire.to_wire(one.payload))
            errors.append(mean - segment.compressor.decode(one.payload, shard))
        return tf.concat(words, 0), errors

    def _decode_implementation(self, gathered, residuals, errors, rank):
        means, folded, accepted = [], [], []
        rows = [tf.split(gathered[k], self._words) for k in range(self.group_size)]
        for index, (segment, spec, shard) in enumerate(zip(self.segments, self._specs, self._shards, strict=True)):
            payloads = [wire.from_wire(row[index], spec) for row in rows]
            shards = [segment.compressor.decode(one, shard) for one in payloads]
            means.append(tf.concat(shards, 0)[: segment.size])
            folded.append(self._fold(residuals[index], errors[index], rank))
            accepted += [acceptable(segment.compressor, one, shard) for one in payloads]
        return means, folded, tf.reduce_all(tf.stack(accepted))

    def _fold(self, residual, error, rank):
        """Adds M times the second error to the owner's shard of its residual."""
        if not self._error_feedback:
            return residual
        shard, size = error.shape[0], residual.shape[0]
        owned = tf.range(self.group_size) == rank
        spread = tf.where(owned[:, tf.newaxis], self.group_size * error, tf.zeros([1, shard]))
        return residual + tf.reshape(spread, [-1])[:size]

    def _split(self, vector):
        return tf.split(vector, self.group_size)


def shard_size(segment, group_size: int) -> int:
    """Returns how many values one replica owns: ceil(n / M) rounded up to whole buckets, or to 32 for small vectors."""
    share = -(-segment.size // group_size)
    lanes = -(-share // _LANES) * _LANES
    multiple = min(segment.compressor.block_multiple or _LANES, lanes)
    return -(-share // multiple) * multiple


def _divides(multiple, size):
    return multiple is not None and size % multiple == 0


def _payload_rows(payload, group_size):
    """The fields of a payload of M shards, bucket after bucket, as M rows of words: float32 [M, W]."""
    fields = [tf.reshape(tf.bitcast(field, tf.float32), [group_size, -1]) for field in payload]
    return tf.concat(fields, 1)
