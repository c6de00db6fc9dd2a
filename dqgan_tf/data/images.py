"""Image sets of TensorFlow Datasets, held in memory as bytes and gathered by a keyed permutation.

Framing: the largest centred square (for `celeb_a` the centred 140 x 140 pixels, Tolstikhin et al. 2018,
arXiv:1711.01558), then antialiased bilinear resizing to `image_size`, rounded to whole values. An image of the right
size passes unchanged. A batch is x = v / 127.5 - 1 of the bytes v, float32 in [-1, 1].
"""

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from dqgan_tf.config import DataConfig
from dqgan_tf.data import catalogue, permutation
from dqgan_tf.data.errors import DatasetError
from dqgan_tf.data.spec import DataSpec
from dqgan_tf.data.stream import BatchAt

CROPS = {"celeb_a": 140}
DEFAULT_SIZES = {"celeb_a": 64}
MEMORY_LIMIT_BYTES = 6 * 10**9

_CHUNK = 256  # images


def describe(config: DataConfig) -> DataSpec:
    """Returns the spec of the framed images; see `dqgan_tf.data.describe`."""
    builder = catalogue.prepared_builder(config.dataset, config.data_dir)
    feature = _image_feature(builder, config.dataset)
    size = _image_size(config, feature)
    shape = (size, size, feature.shape[-1])
    return DataSpec(kind="images", shape=shape, num_examples=_num_examples(builder, config), name=config.dataset)


def load(config: DataConfig) -> np.ndarray:
    """Returns the whole split, framed: uint8 [num_examples, height, width, channels], in the order of the files.

    Raises:
      DatasetError: as `describe`; or the split is above `MEMORY_LIMIT_BYTES`, or not of the announced length.
    """
    spec = describe(config)
    _check_memory(spec)
    images = np.empty((spec.num_examples, *spec.shape), np.uint8)
    loaded = 0
    for chunk in _framed(config, spec.shape[0]).batch(_CHUNK).prefetch(4).as_numpy_iterator():
        if loaded + len(chunk) <= len(images):
            images[loaded : loaded + len(chunk)] = chunk
        loaded += len(chunk)
        _show_progress(config.dataset, loaded, len(images))
    if loaded != len(images):
        raise DatasetError(f"{config.dataset!r} announces {len(images)} images in {config.split!r} and holds {loaded}.")
    return images


def batches(config: DataConfig, batch_size: int, num_replicas: int, seed: int) -> BatchAt:
    """Returns (step i64 [], replica id i64 []) -> images f32 [batch_size, height, width, channels] in [-1, 1]."""
    with tf.device("CPU:0"):
        images = tf.identity(tf.constant(load(config)))  # The constant itself holds its bytes twice (TensorFlow 2.21).
    num_examples = images.shape[0]

    def batch_at(step, replica):
        chosen = permutation.indices(num_examples, batch_size, num_replicas, seed, step, replica)
        return tf.cast(tf.gather(images, chosen), tf.float32) / 127.5 - 1.0

    return batch_at


def _framed(config, size):
    builder = catalogue.prepared_builder(config.dataset, config.data_dir)
    crop = CROPS.get(catalogue.base_name(config.dataset))
    decoders = tfds.decode.PartialDecoding({"image": True})
    reading = tfds.ReadConfig(try_autocache=False)  # What is loaded is kept once, as bytes, by the caller.
    examples = builder.as_dataset(split=config.split, shuffle_files=False, decoders=decoders, read_config=reading)
    return examples.map(
        lambda example: frame(example["image"], size, crop), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


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


def _image_feature(builder, name):
    features = builder.info.features
    if not isinstance(features, dict | tfds.features.FeaturesDict) or "image" not in features:
        raise DatasetError(f"{name!r} has no feature `image`. Its features: {features}")
    feature = features["image"]
    if len(feature.shape) != 3 or feature.shape[-1] is None or feature.np_dtype != np.uint8:
        raise DatasetError(
            f"`image` of {name!r} must be uint8 [height, width, channels] with known channels. "
            f"Received: shape={feature.shape}, dtype={np.dtype(feature.np_dtype)}"
        )
    return feature


def _image_size(config, feature):
    height, width, _ = feature.shape
    native = height if height == width else None
    size = config.image_size or DEFAULT_SIZES.get(catalogue.base_name(config.dataset), native)
    if size is None:
        raise DatasetError(
            f"`image_size` must be given for {config.dataset!r}, whose images are of shape {feature.shape}."
        )
    if size < 1:
        raise DatasetError(f"`image_size` must be 1 or more. Received: image_size={size}")
    return size


def _num_examples(builder, config):
    try:
        count = builder.info.splits[config.split].num_examples
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise DatasetError(
            f"`split` must be one of {known}, or a slice of one. Received: split={config.split!r}"
        ) from error
    if not count:
        raise DatasetError(f"Split {config.split!r} of {config.dataset!r} is empty.")
    return count


def _check_memory(spec):
    needed = spec.num_examples * int(np.prod(spec.shape))
    if needed > MEMORY_LIMIT_BYTES:
        raise DatasetError(
            f"{spec.name!r} at {spec.shape[0]} pixels takes {needed / 1e9:.1f} GB of memory; the limit is "
            f"{MEMORY_LIMIT_BYTES / 1e9:.1f} GB. Choose a smaller `image_size`, or a slice such as split='train[:10%]'."
        )


def _show_progress(name, loaded, total):
    tenth = max(total // 10, 1)
    if loaded // tenth > (loaded - _CHUNK) // tenth:
        logging.info("Loading %s: %d of %d images", name, loaded, total)
