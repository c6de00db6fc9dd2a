"""The CIFAR-10 classifiers on real images. Expected figures: the README beside the weights."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dqgan_tf.evaluation import classifier_score, frechet, report
from dqgan_tf.evaluation.features import resnet_cifar

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
    network = resnet_cifar.load(str(weights / f"{name}.npz"))
    features = report.extract_features(network, np.split(images, 4))
    assert (network.name, network.is_inception, network.feature_size) == (depth, False, 64)
    # One image in a thousand may fall on the other side by rounding.
    assert np.mean(np.argmax(features.logits, axis=1) == labels) == pytest.approx(accuracy, abs=0.0011)
    distance = frechet.frechet_distance(*train_moments(weights, name), *features.moments)
    assert distance == pytest.approx(floor, abs=0.0006)


def test_real_images_score_as_known(weights, cifar_images):
    # 9.26 is known for this judge and these 1,000 images, taken as one split.
    network = resnet_cifar.load(str(weights / f"{RESNET20}.npz"))
    score, _ = classifier_score.classifier_score(network(cifar_images[0]).logits, num_splits=1)
    assert score == pytest.approx(9.26, abs=0.006)


def test_an_incomplete_archive_names_the_array(weights, tmp_path):
    with np.load(weights / f"{RESNET20}.npz") as file:
        arrays = {name: file[name] for name in file.files if name != "layer2.1.bn2.bias"}
    np.savez(tmp_path / "part.npz", **arrays)
    with pytest.raises(ValueError, match="must hold the array 'layer2.1.bn2.bias'. Received: .*part.npz"):
        resnet_cifar.load(str(tmp_path / "part.npz"))


def test_another_archive(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="must hold the array"):
        resnet_cifar.load(str(tmp_path / "other.npz"))


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "text.npz").write_text("weights, honestly")
    with pytest.raises(ValueError, match="must be an npz. Received: .*text.npz"):
        resnet_cifar.load(str(tmp_path / "text.npz"))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be the path of an npz. Received: .*nothing.npz"):
        resnet_cifar.load(str(tmp_path / "nothing.npz"))


def test_the_shortcut_takes_every_other_pixel_and_pads_channels_on_both_sides():
    # He et al. option A by hand: 2 channels become 4, with half of the new ones before and half behind.
    x = np.arange(2 * 4 * 4 * 2, dtype=np.float32).reshape(2, 4, 4, 2)
    y = resnet_cifar._shortcut(x, 2).numpy()
    assert y.shape == (2, 2, 2, 4)
    np.testing.assert_array_equal(y[..., 1:3], x[:, ::2, ::2])
    assert not y[..., [0, 3]].any()
