"""Training data: an endless dataset in which each batch is a function of (seed, step, replica)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from dqgan_tf.config import DataConfig
from dqgan_tf.data import images, mixtures
from dqgan_tf.data.spec import DatasetError, DataSpec
from dqgan_tf.fields import warn_once

__all__ = ["DataSpec", "DatasetError", "build", "describe"]


def describe(config: DataConfig) -> DataSpec:
    """Returns the description of what `build` yields, without reading an image.

    Logs a warning if a slice lacks classes of its split.

    >>> spec = describe(DataConfig(dataset="gaussian_ring"))
    >>> spec.shape, spec.modes.shape
    ((2,), (8, 2))

    Raises:
      DatasetError: the data set, its split, its `image` feature, the image size or the shards cannot be used; or the
        run is conditional and the slice lacks classes.
    """
    _check_shards(config)
    if config.dataset in mixtures.MIXTURES:
        _check_no_image_settings(config)
        spec = mixtures.describe(config.dataset)
        classes = len(mixtures.MIXTURES[config.dataset]["modes"])
        return dataclasses.replace(spec, num_classes=classes) if config.conditional else spec
    return images.describe(config)


def build(
    config: DataConfig,
    *,
    per_replica_batch_size: int,
    num_replicas: int,
    replica_ids: Sequence[int],
    seed: int,
    start_step: int = 0,
    spec: DataSpec | None = None,
) -> tf.data.Dataset:
    """Returns an endless dataset of float32 batches [per_replica_batch_size, *shape], one per local replica and step.

    With `config.conditional`, an element is (batch, labels), labels int32 [per_replica_batch_size] below num_classes.

    The order is (step 0, replica_ids[0]), (step 0, replica_ids[1]), ..., (step 1, replica_ids[0]), ..., as
    `strategy.distribute_datasets_from_function` hands batches to the local replicas. Each batch is a function of (seed,
    step, replica id) alone. A dataset built with `start_step=k` therefore continues bit for bit without skipping
    anything, and the samples of a step do not depend on how replicas are spread over workers.

    Images are in [-1, 1]. In each epoch, the batches of all replicas are consecutive slices of one permutation of the
    split; with `config.shards` other than `iid`, each replica has a part of the split and permutations of its own (see
    `images.deal`). Points are drawn anew from the mixture.

    >>> batches = build(DataConfig(), per_replica_batch_size=64, num_replicas=1, replica_ids=[0], seed=0)
    >>> next(iter(batches)).shape
    TensorShape([64, 2])

    Args:
      config: the data set.
      per_replica_batch_size: samples per batch.
      num_replicas: number of replicas of all workers together.
      replica_ids: global ids of this worker's replicas, in the order of its devices.
      seed: seed of the permutations or of the draws.
      start_step: the first step.
      spec: what `describe` returned before. None: no comparison.

    Raises:
      DatasetError: see `describe`; or the images need more memory than `images.MEMORY_LIMIT_BYTES`, or are not those of
        `spec`.
      ValueError: a batch size, replica id or step is out of range.
    """
    for name, value, least in (
        ("per_replica_batch_size", per_replica_batch_size, 1),
        ("num_replicas", num_replicas, 1),
        ("start_step", start_step, 0),
    ):
        if value < least:
            raise ValueError(f"`{name}` must be {least} or more. Received: {name}={value}")
    ids = list(replica_ids)
    if not ids or len(set(ids)) != len(ids) or min(ids) < 0 or max(ids) >= num_replicas:
        raise ValueError(
            f"`replica_ids` must be one or more different ids below num_replicas={num_replicas}. "
            f"Received: replica_ids={ids}"
        )
    _check_shards(config)
    if config.dataset in mixtures.MIXTURES:
        mixture = (config.dataset, per_replica_batch_size, num_replicas, seed, config.shards)
        batch_at = mixtures.batches(*mixture, with_labels=config.conditional)
    else:
        batch_at = images.batches(config, per_replica_batch_size, num_replicas, seed, spec)
    replicas = tf.constant(ids, tf.int64)

    def element(position: tf.Tensor) -> Any:
        return batch_at(position // len(ids), replicas[position % len(ids)])

    positions = tf.data.Dataset.counter(start=start_step * len(ids))
    batches = positions.map(element, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE)


def _check_no_image_settings(config: DataConfig) -> None:
    """Raises DatasetError for a setting of images beside a mixture; warns of a data_dir, which many runs may share."""
    for name in ("image_size", "split"):
        value = getattr(config, name)
        if value != getattr(DataConfig(), name):
            raise DatasetError(
                f"{config.dataset!r} has points, and --{name} is for images: leave it out, or name a set of images, "
                f"such as --dataset=cifar10. Received: {name}={value}"
            )
    if config.data_dir:
        warn_once(f"data_dir={config.data_dir} has no effect with dataset={config.dataset}, whose points are drawn")


def _check_shards(config: DataConfig) -> None:
    """Raises DatasetError unless a mixture can be dealt to the replicas as `config.shards` says."""
    possible = ("iid", "by_class")
    if config.dataset in mixtures.MIXTURES and config.shards not in possible:
        raise DatasetError(
            f"{config.dataset!r} can be dealt to the replicas by --shards={' or --shards='.join(possible)}. "
            f"Received: shards={config.shards}"
        )
