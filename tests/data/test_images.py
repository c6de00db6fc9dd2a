"""Framing against numpy and Pillow; the loader on stand-ins for prepared sets and on the real CIFAR-10."""

import dataclasses
import json
import pathlib
import time

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from dqgan_tf import data, fields
from dqgan_tf.config import DataConfig
from dqgan_tf.data import images
from dqgan_tf.errors import UsageError

FILES = "dataset_info.json or features.json there is damaged, prepare the set again"
VERSIONS = {"cifar10": "3.0.2", "fashion_mnist": "3.0.1", "celeb_a": "2.1.0"}


@pytest.fixture
def stand_in(tmp_path):
    """Returns `stand_in(name, images)`: a configuration of a set that TFDS takes for prepared, filled with noise."""
    contexts = []

    def prepare(name, count=5, announced=None, **options):
        folder = tmp_path / name / VERSIONS[name]
        folder.mkdir(parents=True)
        split = {"name": "train", "shardLengths": [str(announced or count)], "numBytes": "1"}
        (folder / "dataset_info.json").write_text(
            json.dumps({"name": name, "version": VERSIONS[name], "fileFormat": "tfrecord", "splits": [split]})
        )
        contexts.append(tfds.testing.mock_data(num_examples=count, data_dir=str(tmp_path)))
        contexts[-1].__enter__()
        return DataConfig(dataset=name, data_dir=str(tmp_path), **options)

    yield prepare
    for context in contexts:
        context.__exit__(None, None, None)


def picture(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, [height, width, channels], dtype=np.uint8)


class TestFrame:
    def test_right_size_passes_unchanged(self):
        image = picture(32, 32)
        np.testing.assert_array_equal(images.frame(image, 32), image)

    def test_celeb_a_crop_is_the_centred_140_pixels(self):
        """(218 - 140) / 2 = 39 rows and (178 - 140) / 2 = 19 columns go on each side."""
        image = picture(218, 178)
        np.testing.assert_array_equal(images.frame(image, 140, crop=140), image[39:179, 19:159])

    @pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40)])
    def test_crops_to_the_shorter_side(self, height, width):
        image = picture(height, width)
        top, left = (height - 40) // 2, (width - 40) // 2
        np.testing.assert_array_equal(images.frame(image, 40), image[top : top + 40, left : left + 40])

    @pytest.mark.parametrize(("side", "size"), [(140, 64), (64, 28), (28, 32)])
    def test_resizing_as_pillow_does(self, side, size):
        """Pillow's bilinear filter is antialiased; it rounds twice, once per axis, where this rounds once."""
        image = picture(side, side)
        expected = np.asarray(PIL.Image.fromarray(image).resize((size, size), PIL.Image.Resampling.BILINEAR), int)
        assert np.abs(images.frame(image, size).numpy().astype(int) - expected).max() <= 1


class TestStandIns:
    @pytest.mark.parametrize(
        ("name", "shape"), [("cifar10", (32, 32, 3)), ("fashion_mnist", (28, 28, 1)), ("celeb_a", (64, 64, 3))]
    )
    def test_default_shapes(self, stand_in, name, shape):
        config = stand_in(name)
        spec = data.describe(config)
        assert (spec.kind, spec.shape, spec.num_examples, spec.name) == ("images", shape, 5, name)
        loaded = images.load(config)
        assert loaded.shape == (5, *shape)
        assert loaded.dtype == np.uint8
        assert loaded.std() > 0

    def test_image_size(self, stand_in):
        assert images.load(stand_in("cifar10", image_size=28)).shape == (5, 28, 28, 3)

    def test_celeb_a_is_cropped_before_resizing(self, stand_in):
        config = stand_in("celeb_a", count=2, image_size=140)
        only_image = tfds.decode.PartialDecoding({"image": True})  # the stand-in's noise depends on what else is read
        raw = tfds.load("celeb_a", split="train", data_dir=config.data_dir, download=False, decoders=only_image)
        expected = [example["image"][39:179, 19:159] for example in raw.as_numpy_iterator()]
        np.testing.assert_array_equal(images.load(config), expected)

    def test_batches_are_the_loaded_bytes_scaled(self, stand_in):
        config = stand_in("cifar10", count=7)
        dataset = data.build(config, per_replica_batch_size=7, num_replicas=1, replica_ids=[0], seed=0)
        batch = next(dataset.as_numpy_iterator())
        assert batch.dtype == np.float32
        expected = {image.tobytes() for image in images.load(config)}
        assert {np.rint((image + 1) * 127.5).astype(np.uint8).tobytes() for image in batch} == expected
        assert batch.min() >= -1 and batch.max() <= 1

    def test_scale_reaches_both_ends(self, tmp_path):
        np.save(tmp_path / "ends.npy", np.array([0, 255], np.uint8)[:, None, None])
        batch_at = images.batches(DataConfig(dataset=str(tmp_path / "ends.npy")), 2, 1, 0)
        assert sorted(batch_at(np.int64(0), np.int64(0)).numpy().ravel()) == [-1, 1]

    def test_too_large_for_memory(self, stand_in, monkeypatch):
        config = stand_in("cifar10")
        monkeypatch.setattr(images, "MEMORY_LIMIT_BYTES", 5 * 32 * 32 * 3)
        images.load(config)
        monkeypatch.setattr(images, "MEMORY_LIMIT_BYTES", 5 * 32 * 32 * 3 - 1)
        message = "'cifar10' at 32 pixels takes .* a smaller `image_size`. .* where the images are not ordered by class"
        with pytest.raises(data.DatasetError, match=message):
            images.load(config)

    @pytest.mark.parametrize("announced", [4, 6])
    def test_another_length_than_announced(self, stand_in, announced):
        with pytest.raises(data.DatasetError, match=f"announces {announced} images in 'train' and holds 5"):
            images.load(stand_in("cifar10", announced=announced))

    def test_unknown_split(self, stand_in):
        with pytest.raises(data.DatasetError, match=r"one of train, or .*\[:50%\]. Received: split='validation'"):
            data.describe(stand_in("cifar10", split="validation"))

    def test_empty_split(self, stand_in):
        with pytest.raises(data.DatasetError, match=r"Split 'train\[:0\]' of 'cifar10' is empty"):
            data.describe(stand_in("cifar10", split="train[:0]"))

    @pytest.mark.parametrize("size", [-1, 0])
    def test_image_size_below_one(self, stand_in, size):
        with pytest.raises(UsageError, match=f"`image_size` must be a .*at least 1. Received: image_size={size}"):
            data.describe(stand_in("cifar10", image_size=size))


def store(tmp_path, version="1.0.0", config=None, **features):
    """Writes a set `own` of one example and returns its configuration; features: name -> (feature, value)."""
    tfds.dataset_builders.store_as_tfds_dataset(
        name="own",
        version=version,
        config=config,
        features=tfds.features.FeaturesDict({name: feature for name, (feature, _) in features.items()}),
        split_datasets={"train": [(0, {name: value for name, (_, value) in features.items()})]},
        data_dir=tmp_path,
        disable_shuffling=True,
    )
    return DataConfig(dataset="own", data_dir=str(tmp_path))


class TestOwnSets:
    """Sets that TFDS has no code for, found by their files."""

    def test_images_of_any_size_need_one(self, tmp_path):
        config = store(tmp_path, image=(tfds.features.Image(shape=(None, None, 3)), picture(20, 30)))
        with pytest.raises(data.DatasetError, match=r"`image_size` must be given for 'own', .*\(None, None, 3\)"):
            data.describe(config)
        sized = DataConfig(dataset="own", data_dir=config.data_dir, image_size=20)
        np.testing.assert_array_equal(images.load(sized)[0], picture(20, 30)[:, 5:25])

    def test_no_image(self, tmp_path):
        with pytest.raises(data.DatasetError, match="'own' has no feature `image`"):
            data.describe(store(tmp_path, label=(tfds.features.Scalar(np.int64), 3)))

    def test_image_of_floats(self, tmp_path):
        feature = tfds.features.Tensor(shape=(4, 4, 1), dtype=np.float32)
        with pytest.raises(data.DatasetError, match=r"must be uint8 .* Received: shape=\(4, 4, 1\), dtype=float32"):
            data.describe(store(tmp_path, image=(feature, np.zeros([4, 4, 1], np.float32))))

    @pytest.mark.parametrize(
        ("label", "value", "expected"),
        [
            (tfds.features.ClassLabel(num_classes=9), 3, [3]),
            (tfds.features.Text(), "three", None),
            (tfds.features.Tensor(shape=(2,), dtype=np.int64), [1, 2], None),
        ],
    )
    def test_labels_are_whole_numbers_or_none(self, tmp_path, label, value, expected):
        image = (tfds.features.Image(shape=(4, 4, 1)), picture(4, 4, 1))
        labels = images.load_labels(store(tmp_path, image=image, label=(label, value)))
        assert (None if labels is None else labels.tolist()) == expected

    def test_no_labels(self, tmp_path):
        config = store(tmp_path, image=(tfds.features.Image(shape=(4, 4, 1)), picture(4, 4, 1)))
        assert images.load_labels(config) is None

    @pytest.mark.parametrize(
        "label", [tfds.features.ClassLabel(num_classes=9), tfds.features.Scalar(np.int64)], ids=["classes", "numbers"]
    )
    def test_a_slice_of_a_sorted_set(self, tmp_path, label, caplog):
        """4 images of each of 3 classes, in the order of the classes; TFDS may know names of others."""
        examples = [(i, {"image": picture(4, 4, 1), "label": i // 4}) for i in range(12)]
        tfds.dataset_builders.store_as_tfds_dataset(
            name="own",
            version="1.0.0",
            features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(4, 4, 1)), "label": label}),
            split_datasets={"train": examples},
            data_dir=tmp_path,
            disable_shuffling=True,
        )
        config = DataConfig(dataset="own", data_dir=str(tmp_path), split="train[3:9]", conditional=True)
        assert data.describe(config).num_examples == 6
        lacking = dataclasses.replace(config, split="train[:6]")
        with pytest.raises(data.DatasetError, match="needs images of every class. The slice has 2 of the 3 classes"):
            data.describe(lacking)
        assert "The slice has" not in caplog.text
        fields.warn_once.cache_clear()  # another test may have warned of a set of this name
        assert data.describe(dataclasses.replace(lacking, conditional=False)).num_examples == 6
        assert "The slice has 2 of the 3 classes of 'own'" in caplog.text

    @pytest.mark.parametrize("damage", [lambda file: file.write_bytes(file.read_bytes()[:40]), pathlib.Path.unlink])
    def test_files_that_cannot_be_read(self, tmp_path, damage):
        config = store(tmp_path, image=(tfds.features.Image(shape=(4, 4, 1)), picture(4, 4, 1)))
        damage(next(tmp_path.glob("own/1.0.0/*.tfrecord*")))
        with pytest.raises(data.DatasetError, match=r"^Split 'train' of 'own' cannot be read: [^{]*Prepare"):
            images.load(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of a set with two configurations, one of them in two versions, of 1, 3 and 4 channels."""
    folder = tmp_path_factory.mktemp("sets")
    for config, version, channels in (("small", "1.0.0", 1), ("large", "1.0.0", 3), ("large", "1.2.0", 4)):
        feature = tfds.features.Image(shape=(16, 16, channels))
        store(folder, version, config, image=(feature, picture(16, 16, channels)))
    return folder


class TestNames:
    @pytest.mark.parametrize(
        ("name", "channels"),
        [("own/small", 1), ("own/large", 4), ("own/large:1.0.0", 3), ("own/small:1.*.*", 1), ("own:1.2.0", 4)],
    )
    def test_configuration_and_version(self, folder, name, channels):
        config = DataConfig(dataset=name, data_dir=str(folder))
        assert data.describe(config).shape == (16, 16, channels)
        np.testing.assert_array_equal(images.load(config), picture(16, 16, channels)[np.newaxis])

    @pytest.mark.parametrize("name", ["own/medium", "own:3.0.0", "own/small:1.2.0"])
    def test_others_are_refused_with_a_list(self, folder, name):
        with pytest.raises(data.DatasetError) as error:
            data.describe(DataConfig(dataset=name, data_dir=str(folder)))
        expected = f"There is no data set {name!r}. {folder} holds own/large:1.0.0, own/large:1.2.0, own/small:1.0.0."
        assert str(error.value) == expected

    def test_configurations_that_tfds_knows_are_listed(self, tmp_path):
        with pytest.raises(data.DatasetError, match="'cifar10_corrupted/fog': .*Its configurations are .*fog_1, fog_2"):
            data.describe(DataConfig(dataset="cifar10_corrupted/fog", data_dir=str(tmp_path)))

    @pytest.mark.parametrize("name", ["", ":", "own/small/x=1", "own:1.0", "a b", "x:y:z"])
    def test_other_forms_are_refused(self, folder, name):
        with pytest.raises(data.DatasetError, match=r"A name is written NAME, .* such as cifar10:3.0.2"):
            data.describe(DataConfig(dataset=name, data_dir=str(folder)))

    @pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
    @pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"splits": 3}'])
    def test_damaged_metadata(self, tmp_path, file, text):
        config = store(tmp_path, image=(tfds.features.Image(shape=(4, 4, 1)), picture(4, 4, 1)))
        (tmp_path / "own" / "1.0.0" / file).write_text(text)
        with pytest.raises(data.DatasetError, match=f"cannot open 'own': .* {tmp_path} holds own:1.0.0. If a {FILES}"):
            data.describe(config)

    def test_no_split(self, tmp_path):
        config = store(tmp_path, image=(tfds.features.Image(shape=(4, 4, 1)), picture(4, 4, 1)))
        info = tmp_path / "own" / "1.0.0" / "dataset_info.json"
        info.write_text(json.dumps(json.loads(info.read_text()) | {"splits": []}))
        with pytest.raises(data.DatasetError, match="`split` must be .* lists none"):
            data.describe(config)


class TestMissing:
    def test_unprepared_set_says_what_to_do_at_once(self, tmp_path):
        start = time.monotonic()
        with pytest.raises(data.DatasetError) as error:
            data.describe(DataConfig(dataset="celeb_a", data_dir=str(tmp_path)))
        assert time.monotonic() - start < 10
        assert f"-m trainers.prepare --dataset=celeb_a --data_dir={tmp_path}" in str(error.value)

    def test_build_fails_as_early_as_describe(self, tmp_path):
        with pytest.raises(data.DatasetError, match="'mnist' is not prepared"):
            data.build(
                DataConfig(dataset="mnist", data_dir=str(tmp_path)),
                per_replica_batch_size=2,
                num_replicas=1,
                replica_ids=[0],
                seed=0,
            )

    @pytest.mark.parametrize(
        ("name", "near"),
        [("cifar11", "cifar10"), ("Fashion-MNIST", "fashion_mnist"), ("celeba", "celeb_a")],
    )
    def test_unknown_name_lists_near_ones(self, tmp_path, name, near):
        with pytest.raises(data.DatasetError, match=f"no data set '{name}'.*{near}"):
            data.describe(DataConfig(dataset=name, data_dir=str(tmp_path)))

    def test_namespaces_are_not_looked_up(self, tmp_path):
        start = time.monotonic()
        with pytest.raises(data.DatasetError, match="no data set 'huggingface:mnist'"):
            data.describe(DataConfig(dataset="huggingface:mnist", data_dir=str(tmp_path)))
        assert time.monotonic() - start < 10

    def test_unknown_version(self, tmp_path):
        with pytest.raises(data.DatasetError, match="cannot open 'cifar10:9.9.9'"):
            data.describe(DataConfig(dataset="cifar10:9.9.9", data_dir=str(tmp_path)))


@pytest.fixture(scope="module")
def cifar10(data_dir):
    if not (data_dir / "tfds" / "cifar10").is_dir():
        pytest.skip(f"CIFAR-10 is not prepared in {data_dir / 'tfds'}; set DQGAN_DATA to a folder that holds it")
    return DataConfig(dataset="cifar10", data_dir=str(data_dir / "tfds"))


class TestCifar10:
    @pytest.mark.slow
    def test_mean_and_deviation_are_the_published_ones(self, cifar10):
        """Of the 50,000 training images, over 255, as computed in float64 and printed to eight digits."""
        loaded = images.load(cifar10)
        assert loaded.shape == (50_000, 32, 32, 3)
        counts = np.stack([np.bincount(loaded[..., channel].ravel(), minlength=256) for channel in range(3)])
        share, value = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
        mean = share @ value
        deviation = np.sqrt(share @ value**2 - mean**2)
        np.testing.assert_allclose(mean, [0.49139968, 0.48215841, 0.44653091], atol=6e-9)
        np.testing.assert_allclose(deviation, [0.24703223, 0.24348513, 0.26158784], atol=6e-9)

    def test_one_epoch_of_two_replicas_is_the_slice(self, cifar10):
        config = DataConfig(dataset="cifar10", data_dir=cifar10.data_dir, split="train[:200]")
        dataset = data.build(config, per_replica_batch_size=10, num_replicas=2, replica_ids=[0, 1], seed=3)
        seen = np.concatenate(list(dataset.take(20).as_numpy_iterator()))
        seen = sorted(np.rint((image + 1) * 127.5).astype(np.uint8).tobytes() for image in seen)
        assert seen == sorted(image.tobytes() for image in images.load(config))
