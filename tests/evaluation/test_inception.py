"""The loading code, run on small graphs that have the published graph's node names and its kind of nodes."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.errors import UsageError
from dqgan_tf.evaluation import features as networks
from dqgan_tf.evaluation.features import PUBLISHED_NODES, load_inception

FLOAT = tf.float32.as_datatype_enum
PRODUCER = 8  # the published graph holds a node that TensorFlow removed in GraphDef version 9


def add_constant(graph_def, name, value):
    node = graph_def.node.add(name=name, op="Const")
    node.attr["dtype"].type = FLOAT
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.asarray(value, np.float32)))


def frozen_graph(feature_size, num_logits, weights=None, names=PUBLISHED_NODES):
    """From `Mul` through an old batch norm, a mean over all pixels and a matrix to `softmax/logits/MatMul`.

    The batch norm divides by 2 and the first three features are the colours, so that results are known by hand.
    """
    graph_def = tf.compat.v1.GraphDef()
    graph_def.versions.producer = PRODUCER
    node = graph_def.node.add(name="Mul", op="Placeholder")
    node.attr["dtype"].type = FLOAT
    for name, value in {"mean": 0.0, "variance": 4.0, "beta": 0.0, "gamma": 1.0}.items():
        add_constant(graph_def, name, np.full(3, value))
    node = graph_def.node.add(
        name="conv/batchnorm",
        op="BatchNormWithGlobalNormalization",
        input=["Mul", "mean", "variance", "beta", "gamma"],
    )
    node.attr["T"].type = FLOAT
    node.attr["variance_epsilon"].f = 0.0
    node.attr["scale_after_normalization"].b = False
    add_constant(graph_def, "widen", np.eye(3, feature_size)[None, None])
    node = graph_def.node.add(name="mixed_10/join", op="Conv2D", input=["conv/batchnorm", "widen"])
    node.attr["T"].type = FLOAT
    node.attr["strides"].list.i.extend([1, 299, 299, 1])
    node.attr["padding"].s = b"VALID"
    # Strides of 299 leave one pixel, the first.
    node = graph_def.node.add(name="pool_3", op="AvgPool", input=["mixed_10/join"])
    node.attr["T"].type = FLOAT
    node.attr["ksize"].list.i.extend([1, 1, 1, 1])
    node.attr["strides"].list.i.extend([1, 1, 1, 1])
    node.attr["padding"].s = b"VALID"
    if weights is None:
        weights = np.zeros((feature_size, num_logits))
    add_constant(graph_def, "flat", np.zeros((1, feature_size)))
    add_constant(graph_def, "softmax/weights", weights)
    node = graph_def.node.add(name="softmax/logits/MatMul", op="MatMul", input=["flat", "softmax/weights"])
    node.attr["T"].type = FLOAT
    present = {node.name for node in graph_def.node}
    for name in names:
        if name not in present:
            graph_def.node.add(name=name, op="NoOp")
    return graph_def


def write(path, graph_def):
    path.write_bytes(graph_def.SerializeToString())
    return str(path)


def test_features_and_logits_by_hand(tmp_path):
    weights = [[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [8.0, 80.0]]
    network = load_inception(write(tmp_path / "small.pb", frozen_graph(4, 2, weights)))
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[1] = [0, 128, 255]
    features = network(images)
    # (v - 128) / 128 of 0, 128, 255 is -1, 0, 127/128; halved by the batch norm; the fourth feature is 0.
    expected = [[-0.5, -0.5, -0.5, 0.0], [-0.5, 0.0, 127 / 256, 0.0]]
    np.testing.assert_array_equal(features.pool, np.array(expected, np.float32))
    np.testing.assert_array_equal(features.logits, np.array(expected, np.float32) @ np.array(weights, np.float32))


def test_grey_images_are_repeated_over_the_colours(tmp_path):
    network = load_inception(write(tmp_path / "small.pb", frozen_graph(3, 2)))
    grey = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    np.testing.assert_array_equal(network(grey).pool, network(np.concatenate([grey] * 3, axis=3)).pool)


def test_resizing_is_the_legacy_bilinear_one():
    # Without half-pixel centres, output i samples input i * 2 / 299, and past the last pixel the last one repeats:
    # of [0, 128] the row is 128 * min(2 i / 299, 1). Half-pixel centres would give 0 up to the quarter.
    image = np.zeros((1, 2, 2, 3), np.uint8)
    image[:, :, 1] = 128
    row = networks.inception_preprocess(tf.constant(image)).numpy()[0, 0, :, 0]
    expected = 128.0 * np.minimum(2.0 * np.arange(299) / 299.0, 1.0)
    np.testing.assert_allclose(row, (expected - 128.0) / 128.0, atol=1e-6)


def test_a_small_graph_is_not_called_inception(tmp_path):
    network = load_inception(write(tmp_path / "small.pb", frozen_graph(4, 2)))
    assert (network.is_inception, network.name) == (False, "frozen_graph(small.pb)")
    assert (network.feature_size, network.image_size) == (4, None)
    assert len(network.fingerprint) == 64


@pytest.fixture(scope="module")
def full_size():
    return frozen_graph(networks.INCEPTION_FEATURE_SIZE, networks.INCEPTION_NUM_LOGITS)


def test_what_is_called_inception(tmp_path, monkeypatch, full_size):
    path = write(tmp_path / "graph.pb", full_size)
    monkeypatch.setattr(networks, "INCEPTION_FILE_BYTES", full_size.ByteSize())
    network = load_inception(path)
    assert (network.is_inception, network.name) == (True, "inception-2015-12-05")


def test_another_length_is_not_called_inception(tmp_path, full_size):
    # The published file has 95,673,916 bytes, as its archive lists it.
    assert networks.INCEPTION_FILE_BYTES == 95_673_916
    assert not load_inception(write(tmp_path / "graph.pb", full_size)).is_inception


@pytest.mark.parametrize("sizes", [(2047, 1008), (2048, 1000)])
def test_other_sizes_are_not_called_inception(tmp_path, monkeypatch, sizes):
    graph_def = frozen_graph(*sizes)
    monkeypatch.setattr(networks, "INCEPTION_FILE_BYTES", graph_def.ByteSize())
    assert not load_inception(write(tmp_path / "graph.pb", graph_def)).is_inception


def test_a_graph_without_the_published_nodes_is_not_called_inception(tmp_path, monkeypatch):
    graph_def = frozen_graph(2048, 1008, names=("ExpandDims", "ResizeBilinear", "softmax"))
    monkeypatch.setattr(networks, "INCEPTION_FILE_BYTES", graph_def.ByteSize())
    assert not load_inception(write(tmp_path / "graph.pb", graph_def)).is_inception


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match="path of classify_image_graph_def.pb.*nothing.pb.*not a file"):
        load_inception(str(tmp_path / "nothing.pb"))


def test_a_file_that_is_no_graph(tmp_path):
    (tmp_path / "text.pb").write_text("weights, honestly")
    with pytest.raises(UsageError, match="must be a frozen TensorFlow graph. Received: .*text.pb"):
        load_inception(str(tmp_path / "text.pb"))


@pytest.mark.parametrize("name", [networks.INPUT, networks.POOL, networks.SOFTMAX_PRODUCT])
def test_a_graph_without_a_needed_node(tmp_path, name):
    graph_def = frozen_graph(3, 2)
    for node in graph_def.node:
        node.name = "another" if node.name == name else node.name
    with pytest.raises(UsageError, match=f"must have the node '{name}'"):
        load_inception(write(tmp_path / "graph.pb", graph_def))
