"""The collectives that an exchange is made of, on one replica's launcher."""

from collections.abc import Sequence

import tensorflow as tf

from dqgan_tf import private_tensorflow


def all_gather(launcher, words: tf.Tensor, group_size: int, options) -> tf.Tensor:
    """Returns every replica's `words`, float32 [M, W], row i from rank i, as bits: NaN patterns survive.

    Args:
      launcher: the replica's `CollectiveReplicaLauncher`.
      words: float32 [W], W equal on all replicas.
      group_size: M; with 1 nothing is sent.
      options: communication options.
    """
    row = words[tf.newaxis]
    return row if group_size == 1 else private_tensorflow.all_gather(launcher, row, options)


def all_reduce(launcher, values: Sequence[tf.Tensor], group_size: int, options) -> list[tf.Tensor]:
    """Returns the exact sums of `values` over the replicas, in one collective.

    The values travel last first, as in `CollectiveAllReduce` (TensorFlow 2.21.0): with the same places in the ring the
    sums have the same bits as an untagged reduction.
    """
    if group_size == 1:
        return [tf.identity(value) for value in values]
    return launcher.batch_all_reduce([list(values)[::-1]], options)[::-1]


def all_to_all(launcher, rows: tf.Tensor, group_size: int, options) -> tf.Tensor:
    """Returns what every replica sent to this one, float32 [M, W], row i from rank i.

    Args:
      launcher: the replica's `CollectiveReplicaLauncher`.
      rows: float32 [M, W]; row k goes to rank k.
      group_size: M; with 1 nothing is sent.
      options: communication options.
    """
    return rows if group_size == 1 else private_tensorflow.all_to_all(launcher, rows, options)
