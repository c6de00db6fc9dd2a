"""Image sets: held in memory as bytes, gathered in the order of a keyed permutation.

`DataConfig.dataset` is a name of TensorFlow Datasets (`catalogue.py`) or one of the sources of `files.py`.

Framing: the largest centred square (for `celeb_a` the centred 140 x 140 pixels, Tolstikhin et al. 2018,
arXiv:1711.01558), then antialiased bilinear resizing to `image_size`, rounded to integers. An image of the right size
is unchanged. A batch holds x = v / 127.5 - 1 of the bytes v, float32 in [-1, 1].
"""

import concurrent.futures
import math
import re
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from dqgan_tf.config import DataConfig
from dqgan_tf.data import catalogue, files
from dqgan_tf.data.spec import DatasetError, DataSpec

CROPS = {"celeb_a": 140}
DEFAULT_SIZES = {"celeb_a": 64}
MEMORY_LIMIT_BYTES = files.MEMORY_LIMIT_BYTES
PERMUTATION_ROUNDS = 8  # With the op's default of 4, positions and epochs next to each other are correlated (0.07).

_CHUNK = 256  # images read at a time


def describe(config: DataConfig) -> DataSpec:
    """Returns the description of the framed images; see `dqgan_tf.data.describe`."""
    own = _find(config)
    if own is not None:
        source, rows = own
        shape, default, num_examples = source.shape, None, len(rows)
    else:
        builder = catalogue.prepared_builder(config.dataset, config.data_dir)
        shape, default = _tfds_shape(config, builder), DEFAULT_SIZES.get(builder.name)
        num_examples = _tfds_count(config, builder)
    height, width, channels = shape
    size = config.image_size or default or (height if height == width else None)
    if size is None:
        raise DatasetError(
            f"`image_size` must be given for {config.dataset!r}, such as image_size=32: its images have the shape "
            f"{shape}."
        )
    return DataSpec(kind="images", shape=(size, size, channels), num_examples=num_examples, name=config.dataset)


def _find(config):
    """Returns the source and the rows of a set of one's own; None for a set of TensorFlow Datasets."""
    return files.find(config.dataset, config.split, lambda name: catalogue.is_known(name, config.data_dir))


def _tfds_shape(config, builder):
    features = builder.info.features
    if not isinstance(features, dict | tfds.features.FeaturesDict) or "image" not in features:
        raise DatasetError(f"{config.dataset!r} has no feature `image`. Its features: {features}")
    feature = features["image"]
    if len(feature.shape) != 3 or feature.shape[-1] is None or feature.np_dtype != np.uint8:
        raise DatasetError(
            f"`image` of {config.dataset!r} must be uint8 [height, width, channels] with known channels. "
            f"Received: shape={feature.shape}, dtype={np.dtype(feature.np_dtype)}"
        )
    return feature.shape


def _tfds_count(config, builder):
    try:
        num_examples = builder.info.splits[config.split].num_examples
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits) or "those in its dataset_info.json, which lists none"
        raise DatasetError(
            f"`split` must be one of {known}, or a slice of one such as train[:50%]. Received: split={config.split!r}"
        ) from error
    if num_examples < 1:
        raise DatasetError(f"Split {config.split!r} of {config.dataset!r} is empty.")
    return num_examples


def load(config: DataConfig) -> np.ndarray:
    """Returns the whole split, framed: uint8 [num_examples, height, width, channels], in the order of the files.

    Raises:
      DatasetError: see `describe`; or the split exceeds `MEMORY_LIMIT_BYTES`, has another length than its metadata say,
        or cannot be read.
    """
    spec = describe(config)
    size, num_examples = spec.shape[0], spec.num_examples or 0
    needed = num_examples * math.prod(spec.shape)
    if needed > MEMORY_LIMIT_BYTES:
        raise DatasetError(
            f"{spec.name!r} at {size} pixels takes {needed / 1e9:.1f} GB of memory; the limit is "
            f"{MEMORY_LIMIT_BYTES / 1e9:.1f} GB. Choose a smaller `image_size`, or a slice such as split='train[:10%]'."
        )
    own = _find(config)
    images = np.empty((num_examples, *spec.shape), np.uint8)
    count, tenth = 0, max(len(images) // 10, 1)
    for chunk in _tfds_chunks(config, size) if own is None else _own_chunks(own[0], own[1], size):
        if count + len(chunk) <= len(images):
            images[count : count + len(chunk)] = chunk
        if (count + len(chunk)) // tenth > count // tenth:
            logging.info("Loading %s: %d of %d images", spec.name, count + len(chunk), len(images))
        count += len(chunk)
    if count != len(images):
        raise DatasetError(f"{config.dataset!r} announces {len(images)} images in {config.split!r} and holds {count}.")
    return images


def load_labels(config: DataConfig) -> np.ndarray | None:
    """Returns the labels of the split, int64 [num_examples], in the order of `load`; None if it has no classes.

    Raises:
      DatasetError: the data set is unknown, not prepared or cannot be read.
    """
    own = _find(config)
    if own is not None:
        source, rows = own
        own_labels = source.labels()
        return None if own_labels is None else own_labels[rows]
    builder = catalogue.prepared_builder(config.dataset, config.data_dir)
    feature = dict(builder.info.features).get("label")
    if feature is None or feature.shape != () or not np.issubdtype(feature.np_dtype, np.integer):
        return None
    _, labels = _read(config, "label")
    return np.concatenate(list(_iterate(config, labels.batch(4096)))).astype(np.int64)


def frame(image: tf.Tensor, size: int, crop: int | None = None) -> tf.Tensor:
    """Returns the centred square of side `crop` (None: the shorter side), resized: uint8 [size, size, channels]."""
    if image.shape[:2] == (size, size):
        return image
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    side = crop or tf.minimum(height, width)
    square = tf.image.resize_with_crop_or_pad(image, side, side)
    resized = tf.image.resize(square, [size, size], antialias=True)
    resized = tf.ensure_shape(resized, [size, size, image.shape[-1]])
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def batches(
    config: DataConfig, batch_size: int, num_replicas: int, seed: int
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns a function (step i64 [], replica id i64 []) -> images f32 [batch_size, height, width, channels]."""
    with tf.device("CPU:0"):
        images = tf.identity(tf.constant(load(config)))  # The constant itself holds its bytes twice (TensorFlow 2.21).
    num_examples = images.shape[0]

    def batch_at(step, replica):
        indices = permuted_indices(num_examples, batch_size, num_replicas, seed, step, replica)
        return tf.cast(tf.gather(images, indices), tf.float32) / 127.5 - 1.0

    return batch_at


def permuted_indices(
    num_examples: int, batch_size: int, num_replicas: int, seed: int, step: tf.Tensor, replica: tf.Tensor
) -> tf.Tensor:
    """Returns the indices of the samples of one batch, i64 [batch_size] in [0, num_examples).

    Sample j of replica r in step t has the position p = (t num_replicas + r) batch_size + j. It lies in epoch p // n,
    and its index is permutation_(seed, epoch)(p mod n). The permutation is a cipher on the numbers below n
    (`RandomIndexShuffle`: Simon, Beaulieu et al. 2013, eprint 2013/404), so that no order is stored.

    Args:
      num_examples: n.
      batch_size, num_replicas, seed: as in `dqgan_tf.data.build`.
      step, replica: t and r, i64 [].
    """
    positions = (step * num_replicas + replica) * batch_size + tf.range(batch_size, dtype=tf.int64)
    epochs = positions // num_examples
    # One key per epoch that a batch can touch. Permutations of keys that differ by 1 are correlated (0.7), so that keys
    # are drawn at random rather than counted.
    num_epochs = (batch_size - 1 + num_examples - 1) // num_examples + 1
    keys = []
    for offset in range(num_epochs):
        epoch_seed = tf.stack([tf.constant(seed, tf.int64), epochs[0] + offset])
        keys.append(tf.random.stateless_uniform([3], epoch_seed, minval=None, maxval=None, dtype=tf.uint32))
    # tf.random.experimental.index_shuffle is the same op, but pads one seed per index wrongly (TensorFlow 2.21).
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % num_examples,
        seed=tf.gather(tf.stack(keys), epochs - epochs[0]),
        max_index=tf.constant(num_examples - 1, tf.int64),
        rounds=PERMUTATION_ROUNDS,
    )


def _tfds_chunks(config, size):
    """Yields framed images of TensorFlow Datasets, uint8 [up to _CHUNK, size, size, channels]."""
    builder, pictures = _read(config, "image")
    crop = CROPS.get(builder.name)
    framed_images = pictures.map(
        lambda image: frame(image, size, crop), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    yield from _iterate(config, framed_images.batch(_CHUNK).prefetch(4))


def _own_chunks(source, rows, size):
    """Yields framed images of a source of `files.py`, uint8 [up to _CHUNK, size, size, channels]."""
    read = source.reader()

    def framed(chunk):
        with tf.device("CPU:0"):
            return np.stack([frame(image, size) for image in read(chunk)])

    chunks = [rows[first : first + _CHUNK] for first in range(0, len(rows), _CHUNK)]
    with concurrent.futures.ThreadPoolExecutor() as pool:  # decoding and resizing release Python's lock
        yield from pool.map(framed, chunks)


def _read(config, feature):
    """Returns the builder and a dataset of one feature of the split, in the order of the files."""
    builder = catalogue.prepared_builder(config.dataset, config.data_dir)
    examples = builder.as_dataset(
        split=config.split,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding({feature: True}),
        read_config=tfds.ReadConfig(try_autocache=False),  # The caller stores the images.
    )
    return builder, examples.map(lambda example: example[feature])


def _iterate(config, dataset):
    """Yields numpy batches. Raises `DatasetError` if TensorFlow cannot read them."""
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError as error:
        reason = re.sub(r"^\{\{.*?\}\} | \[Op:.*", "", error.message)  # without the node's name (TensorFlow 2.21)
        raise DatasetError(
            f"Split {config.split!r} of {config.dataset!r} cannot be read: {reason}. Prepare the data set again."
        ) from error
