"""A small convolutional classifier, trained on the data set itself, for evaluation without published weights.

Its name is part of the names of its figures. They compare runs on one data set with one cached network. They are not
FID, KID or IS and cannot be compared with published figures.
"""

import hashlib
import os
import re
import uuid

import numpy as np
import tensorflow as tf

from dqgan_tf.errors import UsageError
from dqgan_tf.evaluation.features import FeatureNetwork, Features, file_fingerprint, read_npz

VERSION = 1
FEATURE_SIZE = 64
MOST_CLASSES = 2**16  # each is a column of weights
FIRST_FILTERS = 16
LARGEST_SIDE = 8
BATCH_SIZE = 128
LEARNING_RATE = 0.05
MOMENTUM = 0.9
HELD_OUT = 12
SPLIT_SEED = 0
FINGERPRINTED = 1000


def train_or_load(cache_dir: str, dataset_name: str, images, labels, seed: int = 0, epochs: int = 4) -> FeatureNetwork:
    """Returns the classifier of a data set. The first call trains it, later calls read it from `cache_dir`.

    A twelfth of the images is held out of training: the last one in the order of `split_order`. The accuracy on it is
    printed and stored in the file as `held_out_accuracy`. The file is
    `small_classifier_v<version>_<dataset>_<data>_seed<s>_epochs<e>.npz`, where `<data>` is a hash of the images' shape
    and of the first 1,000 images and labels in that order. A file that cannot be read is replaced. A file appears as a
    whole or not at all, so that several processes may call this at the same time.

    Args:
      cache_dir: folder of the file, created if missing.
      dataset_name: name of the data set in the results.
      images: uint8 [n, h, w, c], n >= 24.
      labels: int [n], from 0.
      seed: seed of the initial weights and of the order of images. Equal seeds give equal weights on one machine.
      epochs: passes over the images in training.

    Returns:
      A `FeatureNetwork` named `small_classifier(<dataset_name>)` with 64 features and its held-out accuracy.

    Raises:
      UsageError: there are too few images or one class, or the labels are not integers from 0.
      ValueError: the images are not uint8, or epochs < 1.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"`images` must be uint8 [n, h, w, c]. Received: dtype={images.dtype}, shape={images.shape}")
    if len(images) < 2 * HELD_OUT:
        raise UsageError(f"{dataset_name} must have {2 * HELD_OUT} or more images. Received: {len(images)} images")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise UsageError(
            f"The labels of {dataset_name} must be integers from 0, one per image. "
            f"Received: dtype={labels.dtype}, shape={labels.shape} for {len(images)} images"
        )
    if labels.min() == labels.max():  # the loss of one class is 0, so that the weights would stay random
        raise UsageError(
            f"{dataset_name} has one class, which trains no classifier: give --feature_network. "
            f"Received: the label {labels[0]} for all {len(images)} images"
        )
    if labels.max() >= MOST_CLASSES:
        raise UsageError(
            f"The labels of {dataset_name} must be the numbers 0, 1, 2, ... of at most {MOST_CLASSES} classes; give "
            f"--feature_network for images without classes. Received: labels up to {labels.max()}"
        )
    if epochs < 1:
        raise ValueError(f"`epochs` must be at least 1. Received: epochs={epochs}")
    path = cache_path(cache_dir, dataset_name, images, labels, seed, epochs)
    weights = _read(path, _shapes(images.shape[1:], int(labels.max()) + 1))
    if weights is None:
        weights = train(images, labels, seed, epochs)
        _write(path, weights)
    constants = {name: tf.constant(value) for name, value in weights.items()}

    @tf.function(input_signature=[tf.TensorSpec([None, *images.shape[1:]], tf.uint8)])
    def graph(batch):
        return forward(constants, batch)

    def function(batch):
        return Features(*(output.numpy() for output in graph(batch)))

    name, size, channels = f"small_classifier({dataset_name})", images.shape[1:3], images.shape[3:]
    accuracy = float(weights.get("held_out_accuracy", np.nan))
    return FeatureNetwork(name, False, FEATURE_SIZE, size, channels, file_fingerprint(path), function, accuracy)


def split_order(labels: np.ndarray) -> np.ndarray:
    """Returns the indices of the images, int64 [n], in an order whose last twelfth is held out of training.

    It is the order of the data if the last twelfth and the rest have every class. Otherwise, as in a folder of class
    folders, it is a random order, the same in every call.
    """
    count = _num_trained(labels)
    num_classes = len(np.unique(labels))
    if len(np.unique(labels[:count])) == len(np.unique(labels[count:])) == num_classes:
        return np.arange(len(labels))
    return np.random.default_rng(SPLIT_SEED).permutation(len(labels))


def _num_trained(labels):
    return len(labels) - max(1, len(labels) // HELD_OUT)


def cache_path(cache_dir: str, dataset_name: str, images, labels, seed: int, epochs: int) -> str:
    """Returns the path where `train_or_load` stores the classifier of these data."""
    # In the order of the split, so that a classifier of another split has another name.
    first = split_order(labels)[:FINGERPRINTED]
    digest = hashlib.sha256(repr((images.shape, str(images.dtype))).encode())
    digest.update(np.ascontiguousarray(images[first]).tobytes())
    digest.update(np.asarray(labels[first], np.int64).tobytes())
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", dataset_name)
    file = f"small_classifier_v{VERSION}_{name}_{digest.hexdigest()[:12]}_seed{seed}_epochs{epochs}.npz"
    return os.path.join(cache_dir, file)


def forward(weights, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns features float32 [b, 64] and logits float32 [b, classes] of images, uint8 [b, h, w, c].

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


def train(images, labels, seed: int, epochs: int) -> dict[str, np.ndarray]:
    """Trains from scratch by stochastic gradient descent with momentum and a rate that falls linearly to 0.

    ```
    v <- 0.9 v + grad cross_entropy;   w <- w - rate v
    ```

    Prints one line per epoch. The arguments are those of `train_or_load`.

    Returns:
      The arrays that `forward` takes, and `held_out_accuracy`, float32 scalar.
    """
    generator = np.random.default_rng(seed)
    initial = {}
    for name, shape in _shapes(images.shape[1:], int(labels.max()) + 1).items():
        # He et al. 2015 (arXiv:1502.01852): normal with variance 2 / fan in; biases 0.
        scale = np.sqrt(2.0 / np.prod(shape[:-1])) if name.endswith("weight") else 0.0
        initial[name] = (scale * generator.standard_normal(shape)).astype(np.float32)
    weights = {name: tf.Variable(value) for name, value in initial.items()}
    count = _num_trained(labels)
    rows, held_out = np.split(split_order(labels), [count])
    # All images, of which a step gathers its rows: to copy the rows before would take their memory once more.
    epoch = _epoch_function(weights, tf.constant(images), tf.constant(labels, tf.int32))
    size = min(BATCH_SIZE, count)
    steps = count // size
    accuracy = 0.0
    for index in range(epochs):
        rates = LEARNING_RATE * (1.0 - (index + np.array([0.0, 1.0])) / epochs)
        order = rows[generator.permutation(count)[: steps * size]].reshape(steps, size)
        loss = epoch(tf.constant(order, tf.int32), tf.constant(rates, tf.float32))
        accuracy = _accuracy(weights, images[held_out], labels[held_out])
        print(
            f"small classifier: epoch {index + 1}/{epochs}, loss {float(loss):.3f}, held-out accuracy {accuracy:.3f}",
            flush=True,
        )
    arrays = {name: variable.numpy() for name, variable in weights.items()}
    return arrays | {"held_out_accuracy": np.float32(accuracy)}


def _epoch_function(weights, images, labels):
    """Returns a function (order i32 [steps, batch], rates f32 [first, last]) -> mean loss, which updates `weights`."""
    velocities = {name: tf.Variable(tf.zeros_like(variable)) for name, variable in weights.items()}

    @tf.function
    def epoch(order, rates):
        steps, total = tf.shape(order)[0], 0.0
        for step in tf.range(steps):
            with tf.GradientTape() as tape:
                _, logits = forward(weights, tf.gather(images, order[step]))
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.gather(labels, order[step]), logits)
                loss = tf.reduce_mean(losses)
            rate = rates[0] + (rates[1] - rates[0]) * tf.cast(step / steps, tf.float32)
            for name, gradient in tape.gradient(loss, weights).items():
                velocities[name].assign(MOMENTUM * velocities[name] + gradient)
                weights[name].assign_sub(rate * velocities[name])
            total += loss
        return total / tf.cast(steps, tf.float32)

    return epoch


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
    """Returns the shapes of the weights by name."""
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


def _read(path, shapes):
    """Returns the cached arrays, or None if they are missing or unusable."""
    if not os.path.exists(path):
        return None
    try:
        weights = read_npz(path)
    except UsageError as error:
        print(f"small classifier: training again, {error}", flush=True)
        return None
    if any(weights.get(name, np.zeros(())).shape != shape for name, shape in shapes.items()):
        print(f"small classifier: training again, {path} holds other arrays", flush=True)
        return None
    return weights


def _write(path, weights):
    """Writes the file under another name, then renames it, so that no process reads a part of it."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    partial = f"{path}.{uuid.uuid4().hex}.partial"
    try:
        with open(partial, "wb") as file:
            np.savez(file, **weights)
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
