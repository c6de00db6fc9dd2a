"""The CIFAR-10 classifiers on real images. Expected figures: the README beside the weights."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dqgan_tf.errors import UsageError
from dqgan_tf.evaluation import distances, features, report, scores

RESNET20 = "resnet20-12fca82f"
RESNET56 = "resnet56-4bfd9763"


@pytest.fixture(scope="module")
def weights(data_dir):
    """Folder of the weights."""
    folder = data_dir / "cifar10_resnet"
    if not (folder / f"{RESNET20}.npz").is_file():
        pytest.skip(f"no CIFAR-10 ResNet weights in {folder}; set DQGAN_DATA to a folder that holds them")
    return folder


@pytest.fixture(scope="module")
def cifar_images(data_dir):
    """The first 1,000 images of the test set and their labels."""
    if not (data_dir / "tfds" / "cifar10").is_dir():
        pytest.skip(f"CIFAR-10 is not prepared in {data_dir / 'tfds'}; set DQGAN_DATA to a folder that holds it")
    builder = tfds.builder("cifar10", data_dir=str(data_dir / "tfds"))
    examples = next(iter(builder.as_dataset(split="test", batch_size=1000)))
    return examples["image"].numpy(), examples["label"].numpy()


def train_moments(weights, name):
    with np.load(weights / f"{name}_cifar10_train_stats.npz") as file:
        return file["mu"], file["sigma"]


@pytest.mark.parametrize(
    "name, depth, accuracy, floor",
    [
        (RESNET20, "resnet20", 0.915, 0.167),
        pytest.param(RESNET56, "resnet56", 0.926, 0.194, marks=pytest.mark.slow),
    ],
)
def test_accuracy_and_distance_of_real_test_images(weights, cifar_images, name, depth, accuracy, floor):
    images, labels = cifar_images
    network = features.load_resnet(str(weights / f"{name}.npz"))
    extracted = report.extract_features(network, images)
    assert (network.name, network.is_inception, network.feature_size) == (depth, False, 64)
    # One image in a thousand may fall on the other side by rounding.
    assert np.mean(np.argmax(extracted.logits, axis=1) == labels) == pytest.approx(accuracy, abs=0.0011)
    distance = distances.frechet_distance(*train_moments(weights, name), *distances.moments(extracted.pool))
    assert distance == pytest.approx(floor, abs=0.0006)


def test_real_images_score_as_known(weights, cifar_images):
    # 9.26 is known for this judge and these 1,000 images, taken as one split.
    network = features.load_resnet(str(weights / f"{RESNET20}.npz"))
    score, _ = scores.classifier_score(network(cifar_images[0]).logits, num_splits=1)
    assert score == pytest.approx(9.26, abs=0.006)


def test_fashion_mnist_by_its_folder(weights, tmp_path):
    """28 x 28 grey images are those of 32 x 32 and three equal channels, resized by the bilinear kernel of numpy."""
    grey = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    (tmp_path / "resnet.npz").symlink_to(weights / f"{RESNET20}.npz")
    np.savez(tmp_path / "stats.npz", mu=np.zeros(64))
    network = features.load(str(tmp_path))
    assert (network.name, network.image_size, network.channels) == ("resnet20", None, (1, 3))
    # Half-pixel centres: pixel i of 32 lies at (i + .5) 28 / 32 - .5, between two of 28.
    place = np.clip((np.arange(32) + 0.5) * 28 / 32 - 0.5, 0, 27)
    low = np.minimum(place.astype(int), 26)
    kernel = np.zeros((32, 28))
    kernel[np.arange(32), low], kernel[np.arange(32), low + 1] = 1 - (place - low), place - low
    resized = np.einsum("ih,nhwc,jw->nijc", kernel, grey.astype(float), kernel)
    whole = features._resnet(features.read_npz(str(weights / f"{RESNET20}.npz")), np.float32(resized.repeat(3, 3)), 3)
    np.testing.assert_allclose(network(grey).pool, whole[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(network(grey.repeat(3, 3)).logits, whole[1], rtol=1e-3, atol=1e-3)


def test_a_folder_of_several_networks(weights):
    with pytest.raises(UsageError, match="must hold one CIFAR ResNet; name one. It holds: .*resnet20.*resnet56"):
        features.load(str(weights))


def test_an_incomplete_archive_names_the_array(weights, tmp_path):
    with np.load(weights / f"{RESNET20}.npz") as file:
        arrays = {name: file[name] for name in file.files if name != "layer2.1.bn2.bias"}
    np.savez(tmp_path / "part.npz", **arrays)
    with pytest.raises(
        UsageError, match=r"array 'layer2.1.bn2.bias' of shape \(32,\). Received: .*part.npz' with no such array"
    ):
        features.load_resnet(str(tmp_path / "part.npz"))


def test_another_archive(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(UsageError, match="must hold the array"):
        features.load_resnet(str(tmp_path / "other.npz"))


def test_an_array_of_another_shape(tmp_path):
    arrays = {name: np.zeros(shape, np.float32) for name, shape in features._resnet_shapes(1).items()}
    np.savez(tmp_path / "wide.npz", **arrays | {"linear.bias": np.zeros(100, np.float32)})
    with pytest.raises(UsageError, match=r"'linear.bias' of shape \(10,\). Received: .*wide.npz' with shape \(100,\)"):
        features.load_resnet(str(tmp_path / "wide.npz"))


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "text.npz").write_text("weights, honestly")
    with pytest.raises(UsageError, match="text.npz' must be an npz file"):
        features.load_resnet(str(tmp_path / "text.npz"))


def test_a_single_array(tmp_path):
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(UsageError, match="single.npy' must be an npz file"):
        features.load_resnet(str(tmp_path / "single.npy"))


def test_a_truncated_archive(tmp_path):
    np.savez(tmp_path / "whole.npz", a=np.zeros(1000))
    (tmp_path / "part.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:500])
    with pytest.raises(UsageError, match="part.npz' must be an npz file"):
        features.load_resnet(str(tmp_path / "part.npz"))


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match="nothing.npz' must be an npz file"):
        features.load_resnet(str(tmp_path / "nothing.npz"))


def test_the_shortcut_takes_every_other_pixel_and_pads_channels_on_both_sides():
    # He et al. option A by hand: 2 channels become 4, with half of the new ones before and half behind.
    x = np.arange(2 * 4 * 4 * 2, dtype=np.float32).reshape(2, 4, 4, 2)
    y = features._shortcut(x, 2).numpy()
    assert y.shape == (2, 2, 2, 4)
    np.testing.assert_array_equal(y[..., 1:3], x[:, ::2, ::2])
    assert not y[..., [0, 3]].any()
