"""A small convolutional classifier trained on the data set itself: the judge when no weights are given.

Figures taken with it carry its name and compare runs on one data set with one cached network; they are not FID, KID or
IS and do not compare with published ones.
"""

import hashlib
import os
import re
import zipfile
import zlib

import numpy as np
import tensorflow as tf

from dqgan_tf.evaluation.features import base

VERSION = 1
FEATURE_SIZE = 64
FIRST_FILTERS = 16
LARGEST_SIDE = 8
BATCH_SIZE = 128
LEARNING_RATE = 0.05
MOMENTUM = 0.9
HELD_OUT = 12
FINGERPRINTED = 1000

Weights = dict[str, np.ndarray]


def train_or_load(cache_dir: str, dataset_name: str, images, labels, seed: int = 0, epochs: int = 4):
    """Returns the classifier of a data set, trained at the first call and read from `cache_dir` after that.

    One in twelve images, the last ones, are held out of training; their accuracy is printed and kept in the file as
    `held_out_accuracy`. The file is `small_classifier_v<version>_<dataset>_<data>_seed<s>_epochs<e>.npz`, where
    `<data>` is a hash of the images' shape and of the first 1,000 images and labels. A file that cannot be read is
    replaced; a file appears whole or not at all, so several processes may call this at once.

    Args:
      cache_dir: made if absent.
      dataset_name: how results name the data set.
      images: uint8 [n, h, w, c], n >= 24.
      labels: int [n], from 0.
      seed: of the initial weights and the order of images. Equal seeds give equal weights on one machine.
      epochs: passes over the images when training.

    Returns:
      A `FeatureNetwork` named `small_classifier(<dataset_name>)` with 64 features.

    Raises:
      ValueError: a shape or type is wrong, a label is negative, or epochs < 1.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    _check(images, labels, epochs)
    path = cache_path(cache_dir, dataset_name, images, labels, seed, epochs)
    weights = _read(path, _shapes(images.shape[1:], int(labels.max()) + 1))
    if weights is None:
        weights = train(images, labels, seed, epochs)
        _write(path, weights)
    return _network(f"small_classifier({dataset_name})", weights, images.shape[1:], base.file_fingerprint(path))


def cache_path(cache_dir: str, dataset_name: str, images, labels, seed: int, epochs: int) -> str:
    """Returns where `train_or_load` keeps the classifier of these data."""
    digest = hashlib.sha256(repr((images.shape, str(images.dtype))).encode())
    digest.update(np.ascontiguousarray(images[:FINGERPRINTED]).tobytes())
    digest.update(np.asarray(labels[:FINGERPRINTED], np.int64).tobytes())
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", dataset_name)
    file = f"small_classifier_v{VERSION}_{name}_{digest.hexdigest()[:12]}_seed{seed}_epochs{epochs}.npz"
    return os.path.join(cache_dir, file)


def forward(weights, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Features float32 [b, 64] and logits float32 [b, classes] of images, uint8 [b, h, w, c].

    ```
    x = images / 127.5 - 1;   x = relu(conv3x3(x, stride 2)) until no side is above 8
    features = relu(flatten(x) W1 + b1);   logits = features W2 + b2
    ```
    """
    x = tf.cast(images, tf.float32) / 127.5 - 1.0
    for layer in range(_num_convolutions(images.shape[1:])):
        kernel, bias = weights[f"convolution{layer}.weight"], weights[f"convolution{layer}.bias"]
        x = tf.nn.relu(tf.nn.conv2d(x, kernel, 2, "SAME") + bias)
    x = tf.reshape(x, [-1, np.prod(x.shape[1:])])
    pool = tf.nn.relu(x @ weights["features.weight"] + weights["features.bias"])
    return pool, pool @ weights["logits.weight"] + weights["logits.bias"]


def train(images, labels, seed: int, epochs: int) -> Weights:
    """Trains from scratch by stochastic gradient descent with momentum and a rate that falls linearly to 0.

    ```
    v <- 0.9 v + grad cross_entropy;   w <- w - rate v
    ```

    Prints one line an epoch. Arguments are those of `train_or_load`.

    Returns:
      The arrays that `forward` takes, and `held_out_accuracy`, float32 scalar.
    """
    generator = np.random.default_rng(seed)
    initial = _initial(_shapes(images.shape[1:], int(labels.max()) + 1), generator)
    weights = {name: tf.Variable(value) for name, value in initial.items()}
    kept = len(images) - max(1, len(images) // HELD_OUT)
    epoch = _epoch_function(weights, tf.constant(images[:kept]), tf.constant(labels[:kept], tf.int32))
    accuracy = 0.0
    for index in range(epochs):
        rates = LEARNING_RATE * (1.0 - (index + np.array([0.0, 1.0])) / epochs)
        loss = epoch(_batches(generator.permutation(kept)), tf.constant(rates, tf.float32))
        accuracy = _accuracy(weights, images[kept:], labels[kept:])
        print(
            f"small classifier: epoch {index + 1}/{epochs}, loss {float(loss):.3f}, held-out accuracy {accuracy:.3f}",
            flush=True,
        )
    trained = {name: variable.numpy() for name, variable in weights.items()}
    return {**trained, "held_out_accuracy": np.float32(accuracy)}


def _epoch_function(weights, images, labels):
    velocities = {name: tf.Variable(tf.zeros_like(variable)) for name, variable in weights.items()}

    def loss_of(chosen):
        _, logits = forward(weights, tf.gather(images, chosen))
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.gather(labels, chosen), logits))

    @tf.function
    def epoch(order, rates):
        steps, total = tf.shape(order)[0], 0.0
        for step in tf.range(steps):
            with tf.GradientTape() as tape:
                loss = loss_of(order[step])
            rate = rates[0] + (rates[1] - rates[0]) * tf.cast(step / steps, tf.float32)
            for name, gradient in tape.gradient(loss, weights).items():
                velocities[name].assign(MOMENTUM * velocities[name] + gradient)
                weights[name].assign_sub(rate * velocities[name])
            total += loss
        return total / tf.cast(steps, tf.float32)

    return epoch


def _batches(permutation):
    size = min(BATCH_SIZE, len(permutation))
    steps = len(permutation) // size
    return tf.constant(permutation[: steps * size].reshape(steps, size), tf.int32)


def _accuracy(weights, images, labels):
    hits = 0
    for start in range(0, len(images), 1000):
        _, logits = forward(weights, tf.constant(images[start : start + 1000]))
        hits += np.count_nonzero(np.argmax(logits.numpy(), axis=1) == labels[start : start + 1000])
    return hits / len(images)


def _num_convolutions(image_shape):
    side, count = max(image_shape[0], image_shape[1]), 0
    while side > LARGEST_SIDE or not count:
        side, count = -(-side // 2), count + 1
    return count


def _shapes(image_shape, num_classes):
    height, width, channels = image_shape
    shapes = {}
    for layer in range(_num_convolutions(image_shape)):
        filters = min(FIRST_FILTERS * 2**layer, FEATURE_SIZE)
        shapes[f"convolution{layer}.weight"] = (3, 3, channels, filters)
        shapes[f"convolution{layer}.bias"] = (filters,)
        height, width, channels = -(-height // 2), -(-width // 2), filters
    shapes["features.weight"] = (height * width * channels, FEATURE_SIZE)
    shapes["features.bias"] = (FEATURE_SIZE,)
    shapes["logits.weight"] = (FEATURE_SIZE, num_classes)
    shapes["logits.bias"] = (num_classes,)
    return shapes


def _initial(shapes, generator):
    """He et al. 2015 (arXiv:1502.01852): normal with variance 2 / fan in; biases 0."""
    values = {}
    for name, shape in shapes.items():
        scale = np.sqrt(2.0 / np.prod(shape[:-1])) if name.endswith("weight") else 0.0
        values[name] = (scale * generator.standard_normal(shape)).astype(np.float32)
    return values


def _network(name, weights, image_shape, fingerprint):
    constants = {key: tf.constant(value) for key, value in weights.items()}

    @tf.function(input_signature=[tf.TensorSpec([None, *image_shape], tf.uint8)])
    def graph(images):
        return forward(constants, images)

    def function(images):
        return base.Features(*(output.numpy() for output in graph(images)))

    size, channels = tuple(image_shape[:2]), (image_shape[2],)
    return base.FeatureNetwork(name, False, FEATURE_SIZE, size, channels, fingerprint, function)


def _read(path, shapes):
    try:
        with np.load(path) as file:
            weights = {name: file[name] for name in file.files}
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        print(f"small classifier: training again, {path} cannot be read ({error})", flush=True)
        return None
    if any(weights.get(name, np.zeros(())).shape != shape for name, shape in shapes.items()):
        print(f"small classifier: training again, {path} holds other arrays", flush=True)
        return None
    return weights


def _write(path, weights):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as file:
            np.savez(file, **weights)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def _check(images, labels, epochs):
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) < 2 * HELD_OUT:
        raise ValueError(
            f"`images` must be uint8 [n, h, w, c] with n >= {2 * HELD_OUT}. "
            f"Received: dtype={images.dtype}, shape={images.shape}"
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError(
            "`labels` must be integers from 0, one per image. "
            f"Received: dtype={labels.dtype}, shape={labels.shape} for {len(images)} images"
        )
    if epochs < 1:
        raise ValueError(f"`epochs` must be at least 1. Received: epochs={epochs}")
