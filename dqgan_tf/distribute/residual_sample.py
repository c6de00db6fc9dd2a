"""Estimates how far the replicas' residuals lie apart, from a sample of their values that one collective averages."""

from collections.abc import Sequence

import tensorflow as tf

_SIZE = 512


def sample(residuals: Sequence[tf.Tensor | None]) -> tf.Tensor:
    """Returns about `_SIZE` values, float32 [k], scaled so that their sum of squares estimates that of all.

    Args:
      residuals: e of one replica, one tensor or None per weight. The sample is all of them if they have few values.
    """
    flats = [tf.reshape(tensor, [-1]) for tensor in residuals if tensor is not None]
    stride = sum(flat.shape[0] for flat in flats) // _SIZE | 1  # odd: no channel of an image is missed
    samples = [flat[::stride] * (flat.shape[0] / -(-flat.shape[0] // stride)) ** 0.5 for flat in flats]
    return tf.concat([tf.zeros([0]), *samples], 0)


def energies(mean: tf.Tensor, mean_square: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the squared spread mean_m ||e^m - ebar||^2 and the squared lag ||ebar||^2, float32 scalars.

    Args:
      mean: of the samples x of all replicas, float32 [k].
      mean_square: of x * x.
    """
    square = mean * mean
    return tf.reduce_sum(tf.nn.relu(mean_square - square)), tf.reduce_sum(square)
