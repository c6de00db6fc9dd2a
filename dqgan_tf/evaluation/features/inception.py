"""The Inception graph of 2015-12-05, from which FID, KID and IS are taken.

The weights are not part of this package: give the path of `classify_image_graph_def.pb`, a frozen TensorFlow graph
from the archive `inception-2015-12-05.tgz`. Its last pooling gives 2048 features; the logits are those times the
weights of the softmax layer, without its bias, 1008 of them. Images of any size are resized to 299 x 299 with the
bilinear kernel of TensorFlow 1 (no half-pixel centres) and mapped to (x - 128) / 128. Grey images are repeated over the
three channels. Keras' InceptionV3 is another network and gives other numbers.

Szegedy et al. 2015, arXiv:1512.00567; preprocessing and logits as in the code of Salimans et al. 2016
(arXiv:1606.03498) and Heusel et al. 2017 (arXiv:1706.08500).
"""

import os

import numpy as np
import tensorflow as tf
from google.protobuf import message

from dqgan_tf.evaluation.features import base

IMAGE_SIZE = 299
FEATURE_SIZE = 2048
NUM_LOGITS = 1008
FILE_BYTES = 95_673_916

INPUT = "Mul"
POOL = "pool_3"
SOFTMAX_PRODUCT = "softmax/logits/MatMul"
# Nodes of the published graph that a graph cut down for another purpose does not carry.
PUBLISHED_NODES = ("DecodeJpeg/contents", "ExpandDims", "ResizeBilinear", INPUT, "mixed_10/join", POOL, "softmax")


def load(path: str) -> base.FeatureNetwork:
    """Returns the network frozen in a file.

    `is_inception` holds when the file is as long as the published one (95,673,916 bytes), its graph has the published
    graph's nodes, 2048 features and 1008 logits. Any other graph with the nodes `Mul`, `pool_3` and
    `softmax/logits/MatMul` is loaded under the name `frozen_graph(<file name>)`. The sha256 of the file is in
    `fingerprint`.

    Args:
      path: of the frozen graph.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file holds no graph, or one without these nodes.
    """
    graph_def = _read(path)
    graph = tf.Graph()
    with graph.as_default():
        images, pool, logits = _build(graph_def, path)
    session = tf.compat.v1.Session(graph=graph)

    def function(batch):
        return base.Features(*session.run((pool, logits), {images: _as_rgb(batch)}))

    sizes = int(pool.shape[1]), int(logits.shape[1])
    official = _is_published(graph_def, os.path.getsize(path), *sizes)
    name = "inception-2015-12-05" if official else f"frozen_graph({os.path.basename(path)})"
    return base.FeatureNetwork(name, official, sizes[0], None, (1, 3), base.file_fingerprint(path), function)


def preprocess(images: tf.Tensor) -> tf.Tensor:
    """uint8 [b, h, w, 3] to float32 [b, 299, 299, 3] in [-1, 1): legacy bilinear, then (x - 128) / 128."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    resized = tf.compat.v1.image.resize_bilinear(tf.cast(images, tf.float32), size, half_pixel_centers=False)
    return (resized - 128.0) / 128.0


def _read(path):
    if not os.path.isfile(path):
        raise FileNotFoundError(
            "The Inception weights must be the path of classify_image_graph_def.pb, from inception-2015-12-05.tgz. "
            f"Received: {path!r}, which is not a file"
        )
    graph_def = tf.compat.v1.GraphDef()
    try:
        with open(path, "rb") as file:
            graph_def.ParseFromString(file.read())
    except message.DecodeError as error:
        raise ValueError(f"The Inception weights must be a frozen TensorFlow graph. Received: {path!r}") from error
    return graph_def


def _build(graph_def, path):
    # A graph of 2015 holds BatchNormWithGlobalNormalization, which TensorFlow runs only in graphs that say they are
    # that old: inside a tf.function it is refused (tried at 2.21), in a session's own graph it runs.
    missing = [name for name in (INPUT, POOL, SOFTMAX_PRODUCT) if name not in {node.name for node in graph_def.node}]
    if missing:
        raise ValueError(f"The Inception graph must have the node {missing[0]!r}. Received: {path!r}, which has not")
    images = tf.compat.v1.placeholder(tf.uint8, [None, None, None, 3])
    pool, product = tf.compat.v1.import_graph_def(
        graph_def, {f"{INPUT}:0": preprocess(images)}, [f"{POOL}:0", SOFTMAX_PRODUCT], name=""
    )
    pool = tf.squeeze(pool, [1, 2])
    return images, pool, tf.matmul(pool, product.inputs[1])


def _is_published(graph_def, file_bytes, feature_size, num_logits):
    names = {node.name for node in graph_def.node}
    sizes_agree = (file_bytes, feature_size, num_logits) == (FILE_BYTES, FEATURE_SIZE, NUM_LOGITS)
    return sizes_agree and names.issuperset(PUBLISHED_NODES)


def _as_rgb(images):
    return np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images
