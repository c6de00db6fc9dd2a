"""What is learned: a configuration -> an endless dataset whose every batch is a function of (seed, step, replica)."""

from collections.abc import Sequence

import tensorflow as tf

from dqgan_tf.config import DataConfig
from dqgan_tf.data import images, mixtures, stream
from dqgan_tf.data.errors import DatasetError
from dqgan_tf.data.spec import DataSpec

__all__ = ["DataSpec", "DatasetError", "build", "describe"]


def describe(config: DataConfig) -> DataSpec:
    """Returns what `build` yields, without reading any sample.

    Raises:
      DatasetError: unknown or unprepared data set, unknown split, no usable `image` feature, or no image size.
    """
    if config.dataset in mixtures.MIXTURES:
        return mixtures.describe(config.dataset)
    return images.describe(config)


def build(
    config: DataConfig,
    *,
    per_replica_batch_size: int,
    num_replicas: int,
    replica_ids: Sequence[int],
    seed: int,
    start_step: int = 0,
) -> tf.data.Dataset:
    """Returns an endless dataset of float32 batches [per_replica_batch_size, *shape], one per local replica and step.

    The order is (step 0, replica_ids[0]), (step 0, replica_ids[1]), ..., (step 1, replica_ids[0]), ...: what
    `strategy.distribute_datasets_from_function` hands to the local replicas. Element (step, replica id) depends on
    (seed, step, replica id) alone: a dataset built with `start_step=k` continues bit for bit, at no cost of skipping,
    and the samples of a step do not depend on how replicas are spread over workers.

    Images are in [-1, 1]. The replicas' batches of a step are consecutive slices of one permutation of the split per
    epoch. Points are drawn anew from the mixture.

    Args:
      config: the data set.
      per_replica_batch_size: samples per batch.
      num_replicas: replicas of all workers together.
      replica_ids: this worker's global replica ids, in the order of its devices.
      seed: of the order or of the draws.
      start_step: the first step.

    Raises:
      DatasetError: as `describe`, or the images need more memory than `images.MEMORY_LIMIT_BYTES`.
      ValueError: a batch size, replica id or step is out of range.
    """
    schedule = stream.Schedule(per_replica_batch_size, num_replicas, tuple(replica_ids), start_step)
    if config.dataset in mixtures.MIXTURES:
        batch_at = mixtures.batches(config.dataset, per_replica_batch_size, seed)
    else:
        batch_at = images.batches(config, per_replica_batch_size, num_replicas, seed)
    return stream.build(schedule, batch_at)
