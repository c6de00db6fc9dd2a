"""Image sets: held in memory as bytes, gathered in the order of a keyed permutation.

`DataConfig.dataset` is a name of TensorFlow Datasets (`catalogue.py`) or one of the sources of `files.py`.

Framing: the largest centred square (for `celeb_a` the centred 140 x 140 pixels, Tolstikhin et al. 2018,
arXiv:1711.01558), then antialiased bilinear resizing to `image_size`, rounded to integers. An image of the right size
is unchanged. A batch holds x = v / 127.5 - 1 of the bytes v, float32 in [-1, 1].
"""

import concurrent.futures
import dataclasses
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from dqgan_tf.config import DataConfig
from dqgan_tf.data import catalogue, files
from dqgan_tf.data.spec import DatasetError, DataSpec
from dqgan_tf.fields import warn_once

CROPS = {"celeb_a": 140}
DEFAULT_SIZES = {"celeb_a": 64}
MEMORY_LIMIT_BYTES = files.MEMORY_LIMIT_BYTES
PERMUTATION_ROUNDS = 8  # With the op's default of 4, positions and epochs next to each other are correlated (0.07).

_SHARDS_STREAM = 0x73686172  # "shar": keys apart from those of permutations of the whole split
_CHUNK = 256  # images read at a time


def describe(config: DataConfig) -> DataSpec:
    """Returns the description of the framed images; see `dqgan_tf.data.describe`."""
    user_set = _find(config)
    spec = _describe(config, user_set)
    _check_slice(config, user_set)
    return spec


def _describe(config, user_set):
    """As `describe`; `user_set` is what `_find` returned. A function that makes a set may make another next time."""
    if user_set is not None:
        source, rows = user_set
        shape, default, num_examples, has_labels = source.shape, None, len(rows), source.has_labels
    else:
        builder = catalogue.prepared_builder(config.dataset, config.data_dir)
        shape, default = _tfds_shape(config, builder), DEFAULT_SIZES.get(builder.name)
        num_examples, has_labels = _tfds_count(config, builder), _tfds_has_labels(builder)
    if (config.shards != "iid" or config.conditional) and not has_labels:
        raise _no_labels(config, user_set)
    height, width, channels = shape
    size = config.image_size or default or (height if height == width else None)
    if size is None:
        raise DatasetError(
            f"`image_size` must be given for {config.dataset!r}, such as image_size=32: its images have the shape "
            f"{shape}."
        )
    spec = DataSpec(kind="images", shape=(size, size, channels), num_examples=num_examples, name=config.dataset)
    return dataclasses.replace(spec, num_classes=_num_classes(config, user_set)) if config.conditional else spec


def _num_classes(config, user_set):
    """Returns the number of classes of a conditional run: of the whole set, not only of the split."""
    if user_set is not None:
        source, _ = user_set
        if source.class_names:
            return len(source.class_names)
        labels, num_examples = source.labels(), source.num_examples
    else:
        info = catalogue.prepared_builder(config.dataset, config.data_dir).info
        if classes := getattr(info.features["label"], "num_classes", None):
            return classes
        labels, num_examples = _load_labels(config, user_set), sum(split.num_examples for split in info.splits.values())
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_examples:  # each class is a row of weights
        raise DatasetError(
            f"The labels of {config.dataset!r} must be the numbers 0, 1, 2, ... of its classes, of which a conditional "
            f"run has at most as many as images, {num_examples}. Received: labels from {low} to {high}"
        )
    return high + 1


def _check_slice(config, user_set):
    """Warns of a slice that lacks classes of its split, which may be sorted by class.

    Raises:
      DatasetError: the run is conditional: its networks would have classes without samples.
    """
    try:
        labels, all_labels = _labels_of_slice(config, user_set)
    except DatasetError:  # a run that uses the labels raises it where it loads them
        return
    if labels is None:
        return
    found, expected = len(np.unique(labels)), len(np.unique(all_labels))
    if found == expected:
        return
    sentence = (
        f"The slice has {found} of the {expected} classes of {config.dataset!r}. A slice takes images in the order of "
        "the set; class folders are ordered by class. Shuffle the arrays of a file, or keep fewer files in every class "
        f"folder; a smaller `image_size` also saves memory. Received: split={config.split!r}"
    )
    if config.conditional:
        raise DatasetError(f"A conditional run needs images of every class. {sentence}, conditional=True")
    warn_once(sentence)


def _labels_of_slice(config, user_set):
    """Returns the labels of a slice and of its whole split; (None, None) if there is nothing to compare."""
    if "[" not in config.split:
        return None, None
    if user_set is not None:
        source, rows = user_set
        all_labels = source.labels()
        return (None, None) if all_labels is None else (all_labels[rows], all_labels)
    info = catalogue.prepared_builder(config.dataset, config.data_dir).info
    # The whole set is read for its labels, so not without need: TFDS has shuffled most sets when it prepared them.
    if not (config.conditional or info.disable_shuffling):
        return None, None
    labels = _load_labels(config, user_set)
    if labels is None or len(np.unique(labels)) == getattr(info.features["label"], "num_classes", None):
        return None, None
    parts = tfds.core.ReadInstruction.from_spec(config.split).to_absolute(info.splits)
    whole = dataclasses.replace(config, split="+".join(sorted({part.splitname for part in parts})))
    return labels, _load_labels(whole, user_set)


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


def _tfds_has_labels(builder):
    feature = dict(builder.info.features).get("label")
    return feature is not None and feature.shape == () and np.issubdtype(feature.np_dtype, np.integer)


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
    return _load(config, _find(config))


def _load(config, user_set):
    spec = _describe(config, user_set)
    size, num_examples = spec.shape[0], spec.num_examples or 0
    needed = num_examples * math.prod(spec.shape)
    if needed > MEMORY_LIMIT_BYTES:
        raise DatasetError(
            f"{spec.name!r} at {size} pixels takes {needed / 1e9:.1f} GB of memory; the limit is "
            f"{MEMORY_LIMIT_BYTES / 1e9:.1f} GB. Choose a smaller `image_size`. A slice such as split='train[:10%]' "
            "also helps where the images are not ordered by class; those of class folders are."
        )
    images = np.empty((num_examples, *spec.shape), np.uint8)
    count, tenth = 0, max(len(images) // 10, 1)
    for chunk in _tfds_chunks(config, size) if user_set is None else _own_chunks(user_set[0], user_set[1], size):
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
    return _load_labels(config, _find(config))


def _load_labels(config, user_set):
    if user_set is not None:
        source, rows = user_set
        own_labels = source.labels()
        return None if own_labels is None else own_labels[rows]
    builder = catalogue.prepared_builder(config.dataset, config.data_dir)
    if not _tfds_has_labels(builder):
        return None
    _, labels = _read(config, "label")
    return np.concatenate(list(_iterate(config, labels.batch(4096)))).astype(np.int64)


def load_with_labels(config: DataConfig) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the results of `load` and of `load_labels`, of one and the same call of a function that makes the set."""
    user_set = _find(config)
    return _load(config, user_set), _load_labels(config, user_set)


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
    config: DataConfig, batch_size: int, num_replicas: int, seed: int, spec: DataSpec | None = None
) -> Callable[[tf.Tensor, tf.Tensor], Any]:
    """Returns a function (step i64 [], replica id i64 []) -> images f32 [batch_size, height, width, channels].

    With `config.conditional`, it returns (images, labels i32 [batch_size]).

    Raises:
      DatasetError: the images cannot be loaded, or not dealt to this number of replicas, or are not those of `spec`.
    """
    parts, user_set = None, _find(config)
    if spec is not None:
        _check_unchanged(spec, _describe(config, user_set))
    else:
        _check_slice(config, user_set)
    if config.shards != "iid":
        labels = _load_labels(config, user_set)
        if labels is None:
            raise _no_labels(config, user_set)
        parts = deal(labels, config.shards, num_replicas, seed)
    with tf.device("CPU:0"):
        images = tf.identity(
            tf.constant(_load(config, user_set))
        )  # The constant itself holds its bytes twice (TensorFlow 2.21).
        classes = tf.constant(_load_labels(config, user_set), tf.int32) if config.conditional else None
    num_examples = images.shape[0]

    def batch_at(step, replica):
        if parts is None:
            indices = permuted_indices(num_examples, batch_size, num_replicas, seed, step, replica)
        else:
            indices = dealt_indices(parts, batch_size, seed, step, replica)
        batch = tf.cast(tf.gather(images, indices), tf.float32) / 127.5 - 1.0
        return batch if classes is None else (batch, tf.gather(classes, indices))

    return batch_at


def _check_unchanged(before, now):
    """Raises DatasetError if a set was changed since the start, for example by a copy that is not yet complete."""
    for name in ("num_examples", "shape", "num_classes"):
        if getattr(before, name) != getattr(now, name):
            raise DatasetError(
                f"{before.name!r} changed while the run started: {name} was {getattr(before, name)}, and is "
                f"{getattr(now, name)} now. Start again when the set is complete"
            )


def _no_labels(config, user_set):
    others = user_set[0].other_arrays if user_set is not None else ""
    rule = "one array of whole numbers, one for each image; FILE.npz:IMAGES,LABELS names it"
    unless = f" ({rule}, and the file also holds {others})" if others else ""
    return DatasetError(
        f"{config.dataset!r} has no labels{unless}, so that it takes only --shards=iid and --noconditional. "
        f"Received: shards={config.shards}, conditional={config.conditional}"
    )


def deal(labels: np.ndarray, shards: str, num_replicas: int, seed: int) -> list[np.ndarray]:
    """Deals n images to M replicas: disjoint parts of n / M images, rounded up or down, that together are the set.

    `by_class`: the images in the order of their classes, at random within a class, cut into M parts. So a replica has
    about 1 / M of the classes. A class at a cut belongs to two replicas; with more replicas than classes, to several.

    `dirichlet:ALPHA` (Hsu et al. 2019, arXiv:1909.06335): one replica after another draws its shares of the classes
    from a Dirichlet distribution with parameters ALPHA p, p the shares of the classes in the set, and takes images at
    random. If a class is used up, the replica's other shares grow in proportion; if all its classes are, it draws new
    shares of the others. Small ALPHA: few classes in a part; large ALPHA: parts like the set.

    The parts are equal in size because the update is the plain mean over replicas: its target is then the whole set.

    Args:
      labels: int [n], from 0.
      shards: `by_class` or `dirichlet:ALPHA`.
      num_replicas: M.
      seed: seed of the random order and of the shares.

    Returns:
      The indices of the images of each replica, int64 [n / M].

    Raises:
      DatasetError: a replica would have fewer than two images.
    """
    if len(labels) < 2 * num_replicas:
        raise DatasetError(
            f"{num_replicas} replicas need {2 * num_replicas} images or more for --shards={shards}. "
            f"Received: {len(labels)} images"
        )
    # The numbers of RandomState do not change with the version of numpy (NEP 19), so a resumed run has the same parts.
    # Its `multinomial` is the exception: its numbers changed between numpy 2.4 and 2.5. `_draw_classes` does without.
    generator = np.random.RandomState(seed % 2**32)
    order = generator.permutation(len(labels))
    by_class = [order[labels[order] == label] for label in np.unique(labels)]
    cuts = np.arange(num_replicas + 1) * len(labels) // num_replicas
    if shards == "by_class":
        return [np.concatenate(by_class)[first:last] for first, last in itertools.pairwise(cuts)]
    alpha, prior = float(shards.partition(":")[2]), np.array([len(rows) for rows in by_class]) / len(labels)
    parts, used = [], np.zeros(len(by_class), np.int64)
    for size in np.diff(cuts):
        counts = _draw_counts(generator, alpha * prior, prior, size, [len(rows) for rows in by_class] - used)
        rows = [rows[first : first + n] for rows, first, n in zip(by_class, used, counts, strict=True)]
        parts.append(np.concatenate(rows))
        used += counts
    return parts


def _draw_counts(generator, alphas, prior, size, left):
    """Returns how many images of each class a replica takes: `size` in all, and at most `left` of a class."""
    shares, counts = _draw_shares(generator, alphas, prior), np.zeros(len(left), np.int64)
    while counts.sum() < size:
        is_open = counts < left
        if shares[is_open].sum() < 1e-12:
            shares = _draw_shares(generator, alphas, prior * is_open)
        counts = np.minimum(counts + _draw_classes(generator, shares * is_open, size - counts.sum()), left)
    return counts


def _draw_shares(generator, alphas, prior):
    """Returns a variate of the Dirichlet distribution with parameters `alphas`, over the classes with `prior` > 0."""
    shares = generator.standard_gamma(alphas) * (prior > 0)
    if not shares.any():  # every variate underflows to 0; the limit for alpha -> 0 is one class
        shares = _draw_classes(generator, prior, 1)
    return shares / shares.sum()


def _draw_classes(generator, shares, size):
    """Returns how many of `size` draws fall on each class; `shares` are its probabilities times any factor."""
    ends = np.cumsum(shares)
    classes = np.searchsorted(ends[:-1], generator.random_sample(size) * ends[-1], side="right")
    return np.bincount(classes, minlength=len(shares))


def permuted_indices(
    num_examples: int, batch_size: int, num_replicas: int, seed: int, step: tf.Tensor, replica: tf.Tensor
) -> tf.Tensor:
    """Returns the indices of the samples of one batch, i64 [batch_size] in [0, num_examples).

    Sample j of replica r in step t has the position p = (t num_replicas + r) batch_size + j. It lies in epoch p // n,
    and its index is permutation_(seed, epoch)(p mod n). The permutation is a cipher on the numbers below n
    (`RandomIndexShuffle`: Simon, Beaulieu et al. 2013, eprint 2013/404), so that no order is stored.

    Args:
      num_examples: n.
      batch_size, num_replicas, seed: arguments of `dqgan_tf.data.build`.
      step, replica: t and r, i64 [].
    """
    first = (step * num_replicas + replica) * batch_size
    # Permutations of keys that differ by 1 are correlated (0.7), so that keys are drawn at random rather than counted.
    return _shuffle(
        first, batch_size, num_examples, num_examples, lambda epoch: tf.stack([tf.constant(seed, tf.int64), epoch])
    )


def dealt_indices(
    parts: list[np.ndarray], batch_size: int, seed: int, step: tf.Tensor, replica: tf.Tensor
) -> tf.Tensor:
    """As `permuted_indices` for replicas with parts of their own: sample j of step t has the position t batch_size + j
    in the endless sequence of permutations of the replica's part. `parts` is the result of `deal`."""
    sizes = [len(part) for part in parts]
    key = tf.random.experimental.stateless_fold_in(tf.constant([seed, _SHARDS_STREAM], tf.int64), replica)
    within = _shuffle(
        step * batch_size,
        batch_size,
        tf.gather(tf.constant(sizes, tf.int64), replica),
        min(sizes),
        lambda epoch: tf.random.experimental.stateless_fold_in(key, epoch),
    )
    first = tf.gather(tf.constant(np.cumsum([0, *sizes[:-1]]), tf.int64), replica)
    return tf.gather(tf.constant(np.concatenate(parts), tf.int64), first + within)


def _shuffle(first, batch_size, num_examples, least, seed_of):
    """Returns elements `first` to `first + batch_size - 1` of an endless sequence of permutations of the numbers below
    `num_examples` (a number, or a tensor of at least `least`). `seed_of` maps an epoch to the seed of its key."""
    positions = first + tf.range(batch_size, dtype=tf.int64)
    epochs = positions // num_examples
    # One key per epoch that a batch can touch.
    num_epochs = (batch_size - 1 + least - 1) // least + 1
    keys = []
    for offset in range(num_epochs):
        key = seed_of(epochs[0] + offset)
        keys.append(tf.random.stateless_uniform([3], key, minval=None, maxval=None, dtype=tf.uint32))
    # tf.random.experimental.index_shuffle is the same op, but pads one seed per index wrongly (TensorFlow 2.21).
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % num_examples,
        seed=tf.gather(tf.stack(keys), epochs - epochs[0]),
        max_index=tf.constant(num_examples, tf.int64) - 1 if isinstance(num_examples, int) else num_examples - 1,
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
