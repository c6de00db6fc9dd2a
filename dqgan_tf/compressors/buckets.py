"""A flat vector as rows of one bucket each, zero padded at the end."""

import tensorflow as tf

from dqgan_tf.compressors.packing import LANE

_USUAL = 512
_BUCKET_MAX = 1 << 24
"""Some bound: a wider bucket has one scale for more values than a layer of a GAN has."""


def check_bucket(bucket) -> None:
    """Raises ValueError unless `bucket` is a positive multiple of 32 up to 2^24."""
    if type(bucket) is not int or not 0 < bucket <= _BUCKET_MAX or bucket % LANE:
        raise ValueError(
            f"`bucket` must be a positive multiple of {LANE} up to {_BUCKET_MAX}. Received: bucket={bucket}"
        )


def narrow(bucket: int) -> int:
    """Returns a bucket, the usual one at most, in which compressors prove more than in a wider one."""
    return min(bucket, _USUAL)


def shape(n: int, bucket: int) -> tuple[int, int]:
    """Returns (rows, width) of a vector of n values: width = min(bucket, n rounded up to a multiple of 32)."""
    width = min(bucket, -(-n // LANE) * LANE)
    return -(-n // width), width


def split(vector: tf.Tensor, bucket: int) -> tf.Tensor:
    """Returns float32 [rows, width] of a float32 [n] vector."""
    n = vector.shape[0]
    rows, width = shape(n, bucket)
    if rows * width > n:
        vector = tf.pad(vector, [[0, rows * width - n]])
    return tf.reshape(vector, [rows, width])


def join(rows: tf.Tensor, n: int) -> tf.Tensor:
    """Inverse of `split`: returns the first n values, flat."""
    flat = tf.reshape(rows, [-1])
    return flat if flat.shape[0] == n else flat[:n]


def counts(n: int, bucket: int) -> list[int]:
    """Returns how many real values each row holds."""
    rows, width = shape(n, bucket)
    return [width] * (rows - 1) + [n - width * (rows - 1)]
