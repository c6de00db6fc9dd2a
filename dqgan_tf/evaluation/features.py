"""Feature networks: fixed networks with which image figures are computed, loaded from files of published weights.

**Inception**, the graph of 2015-12-05 behind FID, KID and IS. The weights are not part of this package: they are the
frozen TensorFlow graph `classify_image_graph_def.pb` in the archive `inception-2015-12-05.tgz`. The last pooling gives
2048 features. The 1008 logits are the features times the weights of the softmax layer, without its bias. Images of any
size are resized to 299 x 299 with the bilinear kernel of TensorFlow 1 (no half-pixel centres) and mapped to
(x - 128) / 128. Grey images are repeated over the three channels. Keras' InceptionV3 is another network and gives other
numbers. Szegedy et al. 2015, arXiv:1512.00567; preprocessing and logits as in the code of Salimans et al. 2016
(arXiv:1606.03498) and Heusel et al. 2017 (arXiv:1706.08500).

**CIFAR ResNets**, classifiers of CIFAR-10 with 64 features, in place of Inception. The names of their figures contain
it: `frechet_distance(resnet20,n=10000)`. These figures are not FID or IS and have another scale. Images of another size
than 32 x 32 are resized (bilinear, antialiased, without rounding), grey images are repeated over the three channels.
He et al. 2015, arXiv:1512.03385, sec. 4.2, with the parameter-free shortcut (option A).
"""

import dataclasses
import hashlib
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf import message

from dqgan_tf.errors import UsageError

INCEPTION_IMAGE_SIZE = 299
INCEPTION_FEATURE_SIZE = 2048
INCEPTION_NUM_LOGITS = 1008
INCEPTION_FILE_BYTES = 95_673_916
INPUT, POOL, SOFTMAX_PRODUCT = "Mul", "pool_3", "softmax/logits/MatMul"
# Nodes of the published graph that a graph cut down for another purpose does not have.
PUBLISHED_NODES = ("DecodeJpeg/contents", "ExpandDims", "ResizeBilinear", INPUT, "mixed_10/join", POOL, "softmax")

RESNET_FEATURE_SIZE = 64
RESNET_IMAGE_SIZE = (32, 32)
RESNET_STAGES = ((1, 16, 1), (2, 32, 2), (3, 64, 2))  # (name, channels, first stride)
_CIFAR_MEAN, _CIFAR_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Features(NamedTuple):
    """Outputs of a feature network for b images.

    pool: float32 [b, d], the features that distances are computed in.
    logits: float32 [b, classes], or None if the network is not a classifier.
    """

    pool: np.ndarray
    logits: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A fixed network that figures are computed with.

    name: name in the results, such as `resnet20` or `small_classifier(fashion_mnist)`.
    is_inception: whether this is the Inception graph of 2015-12-05. Only then are figures called FID, KID and IS.
    feature_size: d.
    image_size: height and width of the images it accepts. None: it resizes images itself.
    channels: numbers of channels it accepts.
    fingerprint: sha256 (hex) of the weights file.
    function: uint8 [b, h, w, c] -> `Features`. Call the network instead, which checks its input.
    accuracy: share of held-out images that it classifies rightly, if it is known.
    """

    name: str
    is_inception: bool
    feature_size: int
    image_size: tuple[int, int] | None
    channels: tuple[int, ...]
    fingerprint: str
    function: Callable[[np.ndarray], Features]
    accuracy: float | None = None

    def __call__(self, images) -> Features:
        """Returns the `Features` of images, uint8 [b, h, w, c].

        Raises:
          UsageError: the network does not accept images of this size or number of channels.
          ValueError: the images have another type or rank.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                f"`images` must be uint8 [b, h, w, c]. Received: dtype={images.dtype}, shape={images.shape}"
            )
        if images.shape[3] not in self.channels or self.image_size not in (None, images.shape[1:3]):
            size = "of any size" if self.image_size is None else f"{self.image_size[0]} x {self.image_size[1]}"
            channels = " or ".join(map(str, self.channels))
            raise UsageError(
                f"Images must be {size} with {channels} channels for {self.name}. Received: shape={images.shape}"
            )
        return self.function(images)


def file_fingerprint(path: str) -> str:
    """Returns the sha256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_npz(path: str) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz file by name.

    Raises:
      UsageError: the file is missing, damaged or of another kind.
    """
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path!r} must be an npz file, such as resnet20.npz, and cannot be read: {error}") from error


def load(path: str) -> FeatureNetwork:
    """Returns the network of a file: a CIFAR ResNet from X.npz, a frozen graph from any other file.

    A folder stands for the only CIFAR ResNet in it.

    Raises:
      UsageError: see `load_resnet` and `load_inception`; or the folder holds none or several.
    """
    if os.path.isdir(path):
        networks = [file for file in sorted(pathlib.Path(path).glob("*.npz")) if "conv1.weight" in read_npz(str(file))]
        if len(networks) != 1:
            names = ", ".join(map(str, networks)) or "none"
            raise UsageError(f"A folder of a feature network must hold one CIFAR ResNet; name one. It holds: {names}")
        path = str(networks[0])
    return load_resnet(path) if path.endswith(".npz") else load_inception(path)


def load_inception(path: str) -> FeatureNetwork:
    """Returns the network frozen in a file.

    `is_inception` holds if the file has the length of the published one (95,673,916 bytes) and its graph has the
    published nodes, 2048 features and 1008 logits. Any other graph with the nodes `Mul`, `pool_3` and
    `softmax/logits/MatMul` is loaded under the name `frozen_graph(<file name>)`.

    Args:
      path: file of the frozen graph.

    Raises:
      UsageError: the file is missing, is not a graph, or lacks one of these nodes.
    """
    if not os.path.isfile(path):
        raise UsageError(
            "The Inception weights must be the path of classify_image_graph_def.pb, from inception-2015-12-05.tgz. "
            f"Received: {path!r}, which is not a file"
        )
    graph_def = tf.compat.v1.GraphDef()
    try:
        with open(path, "rb") as file:
            graph_def.ParseFromString(file.read())
    except message.DecodeError as error:
        raise UsageError(f"The Inception weights must be a frozen TensorFlow graph. Received: {path!r}") from error
    nodes = {node.name for node in graph_def.node}
    missing = [name for name in (INPUT, POOL, SOFTMAX_PRODUCT) if name not in nodes]
    if missing:
        raise UsageError(f"The Inception graph must have the node {missing[0]!r}. Received: {path!r}, which has not")
    # The graph contains BatchNormWithGlobalNormalization, which TensorFlow runs only in graphs that declare an old
    # version. A tf.function refuses it (2.21); a session with a separate graph runs it.
    graph = tf.Graph()
    with graph.as_default():
        images = tf.compat.v1.placeholder(tf.uint8, [None, None, None, 3])
        pool, product = tf.compat.v1.import_graph_def(
            graph_def, {f"{INPUT}:0": inception_preprocess(images)}, [f"{POOL}:0", SOFTMAX_PRODUCT], name=""
        )
        pool = tf.squeeze(pool, [1, 2])
        logits = tf.matmul(pool, product.inputs[1])
    session = tf.compat.v1.Session(graph=graph)

    def function(batch):
        rgb = np.repeat(batch, 3, axis=3) if batch.shape[3] == 1 else batch
        return Features(*session.run((pool, logits), {images: rgb}))

    sizes = (os.path.getsize(path), pool.shape[1], logits.shape[1])
    published = sizes == (INCEPTION_FILE_BYTES, INCEPTION_FEATURE_SIZE, INCEPTION_NUM_LOGITS)
    published = published and nodes.issuperset(PUBLISHED_NODES)
    name = "inception-2015-12-05" if published else f"frozen_graph({os.path.basename(path)})"
    return FeatureNetwork(name, published, int(pool.shape[1]), None, (1, 3), file_fingerprint(path), function)


def inception_preprocess(images: tf.Tensor) -> tf.Tensor:
    """uint8 [b, h, w, 3] to float32 [b, 299, 299, 3] in [-1, 1): legacy bilinear, then (x - 128) / 128."""
    size = (INCEPTION_IMAGE_SIZE, INCEPTION_IMAGE_SIZE)
    resized = tf.compat.v1.image.resize_bilinear(tf.cast(images, tf.float32), size, half_pixel_centers=False)
    return (resized - 128.0) / 128.0


def load_resnet(path: str) -> FeatureNetwork:
    """Returns the CIFAR ResNet in an npz file, named by its depth: `resnet20`, `resnet56`.

    The file holds float32 arrays named as in a PyTorch state dict: `conv1.weight` (3, 3, in, out), `bn1.{weight, bias,
    running_mean, running_var}`, `layer{1,2,3}.{block}.{conv,bn}{1,2}...`, `linear.weight` (64, 10), `linear.bias`.

    Raises:
      UsageError: the file is missing or damaged, or an array is missing or has another shape.
    """
    weights = read_npz(path)
    blocks = max(1, sum(bool(re.fullmatch(r"layer1\.\d+\.conv1\.weight", name)) for name in weights))
    for name, shape in _resnet_shapes(blocks).items():
        if name not in weights or weights[name].shape != shape:
            received = f"shape {weights[name].shape}" if name in weights else "no such array"
            raise UsageError(
                f"The npz of a CIFAR ResNet must hold the array {name!r} of shape {shape}. Received: {path!r} with "
                f"{received}"
            )

    @tf.function(input_signature=[tf.TensorSpec([None, *RESNET_IMAGE_SIZE, 3], tf.float32)])
    def graph(images):
        return _resnet(weights, images, blocks)

    def function(images):
        pixels = tf.cast(np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images, tf.float32)
        if images.shape[1:3] != RESNET_IMAGE_SIZE:
            pixels = tf.image.resize(pixels, RESNET_IMAGE_SIZE, antialias=True)
        return Features(*(output.numpy() for output in graph(pixels)))

    name, fingerprint = f"resnet{6 * blocks + 2}", file_fingerprint(path)
    return FeatureNetwork(name, False, RESNET_FEATURE_SIZE, None, (1, 3), fingerprint, function)


def _resnet_shapes(blocks):
    layers = {"conv1": ("bn1", 3, 16)}
    channels = 16
    for stage, filters, _ in RESNET_STAGES:
        for block in range(blocks):
            layers[f"layer{stage}.{block}.conv1"] = (f"layer{stage}.{block}.bn1", channels, filters)
            layers[f"layer{stage}.{block}.conv2"] = (f"layer{stage}.{block}.bn2", filters, filters)
            channels = filters
    shapes = {"linear.weight": (RESNET_FEATURE_SIZE, 10), "linear.bias": (10,)}
    for convolution, (norm, inputs, outputs) in layers.items():
        shapes[f"{convolution}.weight"] = (3, 3, inputs, outputs)
        shapes |= {f"{norm}.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes


def _resnet(weights, images, blocks):
    """Returns features float32 [b, 64] and logits float32 [b, 10] of images, float32 [b, 32, 32, 3] from 0 to 255.

    ```
    x = (images / 255 - mean) / deviation;  relu(bn(conv3x3(x)));  3 stages of `blocks` blocks, 16, 32 and 64 channels
    block(x) = relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))
    ```
    """
    x = (images / 255.0 - _CIFAR_MEAN) / _CIFAR_DEVIATION
    x = tf.nn.relu(_convolve(weights, "conv1", "bn1", x, 1))
    for stage, _, first_stride in RESNET_STAGES:
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", first_stride if block == 0 else 1
            y = tf.nn.relu(_convolve(weights, f"{name}.conv1", f"{name}.bn1", x, stride))
            y = _convolve(weights, f"{name}.conv2", f"{name}.bn2", y, 1)
            x = tf.nn.relu(y + _shortcut(x, stride))
    pool = tf.reduce_mean(x, axis=[1, 2])
    return pool, pool @ weights["linear.weight"] + weights["linear.bias"]


def _shortcut(x, stride):
    """Returns x, or every other pixel of it with zeros for the added channels, half in front and half behind."""
    if stride == 1:
        return x
    added = x.shape[-1] // 2
    return tf.pad(x[:, ::stride, ::stride], [[0, 0], [0, 0], [0, 0], [added, added]])


def _convolve(weights, convolution, norm, x, stride):
    # One pixel of padding on all four sides. SAME would pad only right and below at stride 2.
    x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    x = tf.nn.conv2d(x, weights[f"{convolution}.weight"], stride, "VALID")
    mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
    return tf.nn.batch_normalization(x, mean, variance, weights[f"{norm}.bias"], weights[f"{norm}.weight"], 1e-5)
