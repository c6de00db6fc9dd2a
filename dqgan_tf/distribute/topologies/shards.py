"""Which values of a vector each of M replicas owns."""

import tensorflow as tf

_LANES = 32


class Shards:
    """Where a compressor works bucket by bucket, bucket r belongs to replica r mod M, so that the owner of a value does
    not depend on how a longer vector is cut; other vectors are M consecutive shards.

    Args:
      compressor: whose buckets are kept whole.
      size: n, values of the vector.
      count: M.

    Attributes:
      size: values per shard, ceil(n / M) rounded up to whole buckets, or to 32 for small vectors; M shards cover the
        vector and up to `padding` values behind it.
      bucket: values that stay together, dealt out in turn; None: shard k is the k-th range.
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

    def pad(self, vector: tf.Tensor) -> tf.Tensor:
        """[n] -> [M size], zeros at the end."""
        return tf.pad(vector, [[0, self.padding]])

    def split(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """[M size] -> M consecutive ranges [size]; where `bucket` is None."""
        return tf.split(vector, self.count)

    def join(self, shards: list[tf.Tensor]) -> tf.Tensor:
        """M shards [size], in order of their owners -> [M size]."""
        if self.bucket is None:
            return tf.concat(shards, 0)
        return tf.reshape(tf.stack([tf.reshape(one, [-1, self.bucket]) for one in shards], 1), [-1])

    def positions(self, rank: tf.Tensor) -> tf.Tensor:
        """int32 [size]: where the values of shard `rank` stand in the vector."""
        places = tf.range(self.size)
        if self.bucket is None:
            return places + rank * self.size
        inside = places % self.bucket
        return (places - inside) * self.count + rank * self.bucket + inside

    def payload_rows(self, field: tf.Tensor) -> tf.Tensor:
        """A field of the payload of [M size] values, some words per bucket, as [M, words]: row k is shard k's."""
        words = tf.reshape(field, [self.size // self.bucket, self.count, -1])
        return tf.reshape(tf.transpose(words, [1, 0, 2]), [self.count, -1])
