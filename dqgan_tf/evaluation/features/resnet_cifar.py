"""ResNet classifiers of CIFAR-10 with 64 features, a judge of 32 x 32 images that needs no download of Inception.

Figures taken with it carry its name, such as `frechet_distance(resnet20)`; they are not FID or IS and have another
scale.

He et al. 2015, arXiv:1512.03385, sec. 4.2, with the parameter-free shortcut (option A).
"""

import os
import re
import zipfile

import numpy as np
import tensorflow as tf

from dqgan_tf.evaluation.features import base

FEATURE_SIZE = 64
IMAGE_SIZE = (32, 32)
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
EPSILON = 1e-5
STAGES = ((1, 1), (2, 2), (3, 2))


def load(path: str) -> base.FeatureNetwork:
    """Returns the network of an npz file, named by its depth: `resnet20`, `resnet56`.

    The file holds float32 arrays named as in a PyTorch state dict: `conv1.weight` (3, 3, in, out), `bn1.{weight, bias,
    running_mean, running_var}`, `layer{1,2,3}.{block}.{conv,bn}{1,2}...`, `linear.weight` (64, 10), `linear.bias`.

    Args:
      path: of the npz.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: an array is missing.
    """
    weights = _read(path)
    blocks = _num_blocks(weights, path)

    @tf.function(input_signature=[tf.TensorSpec([None, *IMAGE_SIZE, 3], tf.uint8)])
    def graph(images):
        return forward(weights, images, blocks)

    def function(images):
        return base.Features(*(output.numpy() for output in graph(images)))

    depth = 6 * blocks + 2
    return base.FeatureNetwork(
        f"resnet{depth}", False, FEATURE_SIZE, IMAGE_SIZE, (3,), base.file_fingerprint(path), function
    )


def forward(weights: dict[str, np.ndarray], images: tf.Tensor, blocks: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Features float32 [b, 64] and logits float32 [b, 10] of images, uint8 [b, 32, 32, 3].

    ```
    x = (images / 255 - mean) / deviation;  relu(bn(conv3x3(x)));  3 stages of `blocks` blocks, 16, 32 and 64 channels
    block(x) = relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))
    ```
    """
    x = (tf.cast(images, tf.float32) / 255.0 - MEAN) / DEVIATION
    x = tf.nn.relu(_convolve(weights, "conv1", "bn1", x, 1))
    for stage, first_stride in STAGES:
        for block in range(blocks):
            x = _block(weights, f"layer{stage}.{block}", x, first_stride if block == 0 else 1)
    pool = tf.reduce_mean(x, axis=[1, 2])
    return pool, pool @ weights["linear.weight"] + weights["linear.bias"]


def _block(weights, name, x, stride):
    y = tf.nn.relu(_convolve(weights, f"{name}.conv1", f"{name}.bn1", x, stride))
    y = _convolve(weights, f"{name}.conv2", f"{name}.bn2", y, 1)
    return tf.nn.relu(y + _shortcut(x, stride))


def _shortcut(x, stride):
    if stride == 1:
        return x
    added = x.shape[-1] // 2
    return tf.pad(x[:, ::stride, ::stride], [[0, 0], [0, 0], [0, 0], [added, added]])


def _convolve(weights, convolution, norm, x, stride):
    # Padding 1 on all four sides: SAME pads only right and below at stride 2.
    x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    x = tf.nn.conv2d(x, weights[f"{convolution}.weight"], stride, "VALID")
    mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
    return tf.nn.batch_normalization(x, mean, variance, weights[f"{norm}.bias"], weights[f"{norm}.weight"], EPSILON)


def _read(path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f"A CIFAR ResNet's weights must be the path of an npz. Received: {path!r}, not a file")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"A CIFAR ResNet's weights must be an npz. Received: {path!r}, which is none or incomplete")
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def _num_blocks(weights, path):
    blocks = sum(bool(re.fullmatch(r"layer1\.\d+\.conv1\.weight", name)) for name in weights)
    missing = sorted(_expected(blocks) - set(weights))
    if missing or not blocks:
        lack = missing[0] if missing else "layer1.0.conv1.weight"
        raise ValueError(f"A CIFAR ResNet's npz must hold the array {lack!r}. Received: {path!r}, which does not")
    return blocks


def _expected(blocks):
    layers = [("conv1", "bn1")]
    for stage, _ in STAGES:
        for block in range(blocks):
            layers += [(f"layer{stage}.{block}.conv{i}", f"layer{stage}.{block}.bn{i}") for i in (1, 2)]
    names = {"linear.weight", "linear.bias"}
    for convolution, norm in layers:
        names.add(f"{convolution}.weight")
        names.update(f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))
    return names
