"""The judge that is trained on the spot: what is cached, when, under which name, and how good it is."""

import gzip
import hashlib
import os
import pathlib

import numpy as np
import pytest

from dqgan_tf.errors import UsageError
from dqgan_tf.evaluation import small_classifier


def stripes(count=480, size=16, seed=0):
    """Images with a bright row (label 0), column (1) or diagonal (2) on noise: easy to tell apart."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 64, (count, size, size, 1), np.uint8)
    labels = generator.integers(0, 3, count)
    places = generator.integers(0, size, count)
    for image, label, place in zip(images, labels, places, strict=True):
        if label == 0:
            image[place] = 255
        elif label == 1:
            image[:, place] = 255
        else:
            image[np.arange(size), (np.arange(size) + place) % size] = 255
    return images, labels


def cached(folder):
    (path,) = pathlib.Path(folder).iterdir()
    return path


def test_it_learns_and_is_named(tmp_path):
    images, labels = stripes(2400)
    network = small_classifier.train_or_load(str(tmp_path), "stripes", images, labels, epochs=8)
    others, truth = stripes(200, seed=1)
    features = network(others)
    assert (network.name, network.is_inception, network.feature_size) == ("small_classifier(stripes)", False, 64)
    assert (network.image_size, network.channels) == ((16, 16), (1,))
    assert features.pool.shape == (200, 64)
    assert features.logits.shape == (200, 3)
    # Guessing is right one time in three.
    assert np.mean(np.argmax(features.logits, axis=1) == truth) > 0.9


def test_the_second_call_reads_the_first_ones_file(tmp_path, monkeypatch):
    images, labels = stripes()
    first = small_classifier.train_or_load(str(tmp_path), "stripes", images, labels, epochs=1)
    monkeypatch.setattr(small_classifier, "train", None)
    second = small_classifier.train_or_load(str(tmp_path), "stripes", images, labels, epochs=1)
    assert first.fingerprint == second.fingerprint
    np.testing.assert_array_equal(first(images).pool, second(images).pool)
    hits = np.argmax(first(images[-40:]).logits, axis=1) == labels[-40:]  # a twelfth of 480 images is held out
    assert first.accuracy == second.accuracy == pytest.approx(np.mean(hits))


def name_in_order_of_the_data(images, labels):
    """What names the data in the file of a classifier that holds out the last twelfth of the data as they are."""
    digest = hashlib.sha256(repr((images.shape, str(images.dtype))).encode())
    digest.update(images[: small_classifier.FINGERPRINTED].tobytes())
    digest.update(labels[: small_classifier.FINGERPRINTED].tobytes())
    return f"small_classifier_v1_data_{digest.hexdigest()[:12]}_seed0_epochs4.npz"


def test_data_sorted_by_class(tmp_path):
    """The last twelfth is the last class, which would not be trained."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 40)
    noise = generator.integers(0, 80, (len(labels), 8, 8, 1))
    images = (generator.integers(0, 176, (12, 8, 8, 1))[labels] + noise).astype(np.uint8)
    network = small_classifier.train_or_load(str(tmp_path), "data", images, labels)
    assert network.accuracy > 0.9
    assert np.mean(np.argmax(network(images).logits, axis=1) == labels) > 0.9
    # A file of an older version, which held out the last class, is not read.
    assert cached(tmp_path).name != name_in_order_of_the_data(images, labels)


def test_other_data_keep_their_last_twelfth_and_their_file():
    images, labels = stripes(1212)
    path = pathlib.Path(small_classifier.cache_path("", "data", images, labels, 0, 4))
    assert path.name == name_in_order_of_the_data(images, labels)
    np.testing.assert_array_equal(small_classifier.split_order(labels), np.arange(1212))


@pytest.mark.parametrize("lacking", [slice(1111), slice(1111, None)], ids=["trained", "held out"])
def test_every_class_is_trained_and_held_out(lacking):
    _, labels = stripes(1212)
    labels[lacking][labels[lacking] == 2] = 1
    order = small_classifier.split_order(labels)
    np.testing.assert_array_equal(np.sort(order), np.arange(1212))
    assert set(labels[order[1111:]]) == set(labels[order[:1111]]) == {0, 1, 2}
    np.testing.assert_array_equal(order, small_classifier.split_order(labels))


def test_equal_seeds_give_equal_weights(tmp_path):
    images, labels = stripes()
    prints = [
        small_classifier.train_or_load(str(tmp_path / name), "stripes", images, labels, seed, epochs=2).fingerprint
        for name, seed in [("a", 0), ("b", 0), ("c", 1)]
    ]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"not an archive at all",
        lambda content: content[:200] + bytes(255 - byte for byte in content[200:400]) + content[400:],
    ],
    ids=["torn", "empty", "text", "flipped"],
)
def test_a_damaged_file_is_replaced(tmp_path, capsys, damage):
    images, labels = stripes()
    first = small_classifier.train_or_load(str(tmp_path), "stripes", images, labels, epochs=1)
    path = cached(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    again = small_classifier.train_or_load(str(tmp_path), "stripes", images, labels, epochs=1)
    assert again.fingerprint == first.fingerprint
    assert "training again" in capsys.readouterr().out


def test_a_file_of_another_shape_is_replaced(tmp_path):
    images, labels = stripes()
    first = small_classifier.train_or_load(str(tmp_path), "stripes", images, labels, epochs=1)
    path = cached(tmp_path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **(arrays | {"logits.bias": np.zeros(7, np.float32)}))
    again = small_classifier.train_or_load(str(tmp_path), "stripes", images, labels, epochs=1)
    assert again.fingerprint == first.fingerprint


def test_nothing_half_written_stays_behind(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="No space"):
        small_classifier.train_or_load(str(tmp_path), "stripes", *stripes(), epochs=1)
    assert not list(tmp_path.iterdir())


def test_the_file_name_tells_data_seed_and_epochs_apart():
    # More images than are hashed: the last one's absence must show in the shape.
    images, labels = stripes(small_classifier.FINGERPRINTED + 10)
    other_labels = np.roll(labels, 1)
    calls = [
        ("stripes", images, labels, 0, 4),
        ("dots", images, labels, 0, 4),
        ("stripes", 255 - images, labels, 0, 4),
        ("stripes", images[:-1], labels[:-1], 0, 4),
        ("stripes", images, other_labels, 0, 4),
        ("stripes", images, labels, 1, 4),
        ("stripes", images, labels, 0, 5),
    ]
    paths = [small_classifier.cache_path("cache", *call) for call in calls]
    assert len(set(paths)) == len(paths)
    assert all(f"_v{small_classifier.VERSION}_" in path for path in paths)
    assert os.path.dirname(small_classifier.cache_path("cache", "a/b c", images, labels, 0, 4)) == "cache"


def test_progress_is_printed(tmp_path, capsys):
    small_classifier.train_or_load(str(tmp_path), "stripes", *stripes(), epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"small classifier: epoch {i}/2" for i in (1, 2)]


@pytest.mark.parametrize("shape, labels", [((24, 28, 28, 1), 3), ((24, 32, 32, 3), 2), ((24, 9, 5, 1), 2)])
def test_other_image_sizes(tmp_path, shape, labels):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    network = small_classifier.train_or_load(str(tmp_path), "noise", images, np.arange(24) % labels, epochs=1)
    assert network(images).logits.shape == (24, labels)


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (np.zeros((23, 8, 8, 1), np.uint8), np.zeros(23, int), "x must have 24 or more images. Received: 23"),
        (np.zeros((30, 8, 8, 1), np.uint8), np.zeros(29, int), r"labels of x .* shape=\(29,\) for 30 images"),
        (np.zeros((30, 8, 8, 1), np.uint8), np.zeros(30), "dtype=float64"),
        (np.zeros((30, 8, 8, 1), np.uint8), np.full(30, -1), "integers from 0"),
        (np.zeros((30, 8, 8, 1), np.uint8), np.full(30, 5), "x has one class, .* Received: the label 5 for all 30"),
        (
            np.zeros((30, 8, 8, 1), np.uint8),
            10**9 * np.arange(30),
            "of at most 65536 classes; .* labels up to 29000000000",
        ),
    ],
)
def test_a_data_set_that_does_not_fit_is_refused(tmp_path, images, labels, message):
    with pytest.raises(UsageError, match=message):
        small_classifier.train_or_load(str(tmp_path), "x", images, labels)


@pytest.mark.parametrize(("dtype", "epochs", "message"), [("f4", 1, "dtype=float32"), ("u1", 0, "epochs=0")])
def test_wrong_arguments_are_faults_of_the_caller(tmp_path, dtype, epochs, message):
    with pytest.raises(ValueError, match=message) as error:
        small_classifier.train_or_load(
            str(tmp_path), "x", np.zeros((30, 8, 8, 1), dtype), np.arange(30) % 2, epochs=epochs
        )
    assert not isinstance(error.value, UsageError)


def read_idx(path, offset):
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=offset)


def fashion_mnist(folder, part):
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
    return images, read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int64)


@pytest.mark.slow
def test_accuracy_on_fashion_mnist(tmp_path, data_dir):
    folder = data_dir / "fashion_mnist"
    if not folder.is_dir():
        pytest.skip(f"no Fashion-MNIST in {folder}; set DQGAN_DATA to a folder that holds it")
    network = small_classifier.train_or_load(str(tmp_path), "fashion_mnist", *fashion_mnist(folder, "train"))
    test, truth = fashion_mnist(folder, "t10k")
    # 88 % is what a judge of ten classes should reach; a linear classifier reaches 84 %.
    assert np.mean(np.argmax(network(test).logits, axis=1) == truth) >= 0.88
