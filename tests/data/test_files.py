"""Image sets of one's own (folders, files of arrays, functions) against the pixels that were written; their faults."""

import os
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from dqgan_tf import data
from dqgan_tf.config import DataConfig
from dqgan_tf.data import files, images

BYTES = np.random.default_rng(0).integers(0, 256, [12, 8, 8, 3], dtype=np.uint8)


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels.squeeze(), mode).save(path)


def config(path, **options):
    return DataConfig(dataset=str(path), **options)


def refusal(path, **options):
    """The sentence with which the set is refused, by `describe` or, as late as possible, by `load`."""
    with pytest.raises(data.DatasetError) as error:
        data.describe(config(path, **options))
        images.load(config(path, **options))
    assert "\n" not in str(error.value)
    return str(error.value)


class TestFolder:
    def test_images_in_the_order_of_their_names(self, tmp_path):
        for i in (3, 0, 2, 1):
            save(tmp_path / f"{i}.png", BYTES[i])
        (tmp_path / ".DS_Store").write_text("hidden")
        spec = data.describe(config(tmp_path))
        assert (spec.kind, spec.shape, spec.num_examples, spec.name) == ("images", (8, 8, 3), 4, str(tmp_path))
        np.testing.assert_array_equal(images.load(config(tmp_path)), BYTES[:4])
        assert images.load_labels(config(tmp_path)) is None

    def test_class_folders_are_numbered_by_name(self, tmp_path):
        for i, name in enumerate(("cat", "ant", "cat", "bee")):
            save(tmp_path / name / f"{i}.bmp", BYTES[i])
        np.testing.assert_array_equal(images.load(config(tmp_path)), BYTES[[1, 3, 0, 2]])
        np.testing.assert_array_equal(images.load_labels(config(tmp_path)), [0, 1, 2, 2])

    def test_class_folders_with_numbers_for_names_are_in_their_order(self, tmp_path):
        for i, name in enumerate(("10", "9", "0")):
            save(tmp_path / name / "a.png", BYTES[i])
        np.testing.assert_array_equal(images.load(config(tmp_path)), BYTES[[2, 1, 0]])
        save(tmp_path / "a9" / "a.png", BYTES[3])  # now they are texts
        np.testing.assert_array_equal(images.load(config(tmp_path)), BYTES[[2, 0, 1, 3]])

    def test_a_class_of_trains_is_no_split(self, tmp_path):
        for i, name in enumerate(("bus", "train", "train")):
            save(tmp_path / name / f"{i}.png", BYTES[i])
        message = refusal(tmp_path)
        assert f"rename the class folder, or give the split's own folder, dataset='{tmp_path}/train'" in message
        assert data.describe(config(tmp_path / "train")).num_examples == 2
        (tmp_path / "train").rename(tmp_path / "railway")
        assert data.describe(config(tmp_path)).num_examples == 3
        assert "Received: split='..'" in refusal(tmp_path, split="..")

    @pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "jpg", "webp"])
    def test_formats(self, tmp_path, suffix):
        """Flat colours survive a palette and every lossy codec to within a few levels."""
        for i in (10, 200):
            save(tmp_path / f"{i}.{suffix}", np.full([16, 16, 3], (i, 50, 90), np.uint8))
        loaded = images.load(config(tmp_path)).astype(int)
        assert np.abs(loaded - np.array([[10, 50, 90], [200, 50, 90]])[:, None, None]).max() <= 4

    def test_mixed_sizes_are_framed(self, tmp_path):
        wide, tall = np.tile(BYTES[0], (1, 2, 1)), np.tile(BYTES[1], (3, 1, 1))
        save(tmp_path / "a.png", wide)
        save(tmp_path / "b.png", tall)
        assert "`image_size` must be given" in refusal(tmp_path)
        loaded = images.load(config(tmp_path, image_size=8))
        np.testing.assert_array_equal(loaded, [wide[:, 4:12], tall[8:16]])

    @pytest.mark.parametrize(
        ("modes", "channels"),
        [(("L", "L"), 1), (("L", "RGB"), 3), (("RGBA", "RGBA"), 4), (("RGBA", "L"), 3), (("P", "1"), 3)],
    )
    def test_channels_are_those_that_all_images_have(self, tmp_path, modes, channels):
        for i, mode in enumerate(modes):
            PIL.Image.fromarray(BYTES[i]).convert(mode).save(tmp_path / f"{i}.png")
        loaded = images.load(config(tmp_path))
        expected = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
        for i, mode in enumerate(modes):
            pixels = np.asarray(PIL.Image.fromarray(BYTES[i]).convert(mode).convert(expected))
            np.testing.assert_array_equal(loaded[i], pixels.reshape(8, 8, channels))

    def test_a_grey_palette_is_one_channel(self, tmp_path):
        """Programs that make small files store grey images with a palette."""
        for i in range(2):
            grey = PIL.Image.fromarray(BYTES[i]).convert("L")
            palette = grey.convert("RGB").quantize(256)
            assert palette.mode == "P"
            palette.save(tmp_path / f"{i}.png")
        config = DataConfig(dataset=str(tmp_path), image_size=BYTES.shape[1])
        assert images.describe(config).shape[-1] == 1
        np.testing.assert_array_equal(images.load(config)[0, ..., 0], PIL.Image.open(tmp_path / "0.png").convert("L"))

    def test_16_bits_lose_their_lower_half(self, tmp_path):
        for i in range(2):
            PIL.Image.fromarray((BYTES[i, ..., 0].astype(np.uint16) << 8) + 77).save(tmp_path / f"{i}.png")
        np.testing.assert_array_equal(images.load(config(tmp_path)), BYTES[:2, ..., :1])

    def test_a_subfolder_of_the_splits_name(self, tmp_path):
        for split, count in (("train", 3), ("test", 2)):
            for i in range(count):
                save(tmp_path / split / f"{i}.png", BYTES[i])
        assert data.describe(config(tmp_path)).num_examples == 3
        assert data.describe(config(tmp_path, split="test")).num_examples == 2
        assert data.describe(config(tmp_path, split="train[1:]")).num_examples == 2

    @pytest.mark.parametrize("names", [("Train", "Test"), ("training", "testing"), ("val", "test"), ("test",)])
    def test_folders_of_splits_are_no_classes(self, tmp_path, names):
        for name in names:
            for i in range(2):
                save(tmp_path / name / f"{i}.png", BYTES[i])
        first = sorted(names)[0]
        text = refusal(tmp_path)
        assert "have names of splits, not of classes" in text and f"such as dataset='{tmp_path / first}'" in text
        assert data.describe(config(tmp_path, split=first)).num_examples == 2
        assert data.describe(config(tmp_path / first)).num_examples == 2

    def test_a_name_of_tfds_wins_over_a_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for i in range(2):
            save(tmp_path / "mnist" / f"{i}.png", BYTES[i])
            save(tmp_path / "my" / "own" / f"{i}.png", BYTES[i])
        here = {"data_dir": str(tmp_path / "none")}
        assert "The folder 'mnist' is --dataset=./mnist" in refusal("mnist", **here)
        for name in ("./mnist", "my/own", "mnist/"):
            assert data.describe(config(name, **here)).shape == (8, 8, 3)

    def test_home(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        for i in range(2):
            save(tmp_path / "pictures" / f"{i}.png", BYTES[i])
        assert data.describe(config("~/pictures")).num_examples == 2

    def test_faults(self, tmp_path):
        assert "'own' does not exist" in refusal("own/") and "'../own' does not exist" in refusal("../own")
        assert f"'{tmp_path}/nothing' does not exist" in refusal(tmp_path / "nothing")
        for url in ("gs://bucket/pictures/", "s3://bucket/pictures.npz"):
            assert "not a URL: mount that storage" in refusal(url)
        (tmp_path / "text").write_text("hello")
        assert f"'{tmp_path}/text' is neither a folder nor an .npz" in refusal(tmp_path / "text")
        (tmp_path / "empty").mkdir()
        assert "holds no images" in refusal(tmp_path / "empty")
        save(tmp_path / "one" / "a.png", BYTES[0])
        assert "holds 1 image; a data set needs 2 or more" in refusal(tmp_path / "one")
        save(tmp_path / "mixed" / "class" / "a.png", BYTES[0])
        save(tmp_path / "mixed" / "a.png", BYTES[0])
        assert "the file 'a.png' beside the folder 'class'" in refusal(tmp_path / "mixed")
        save(tmp_path / "deep" / "a" / "b" / "c.png", BYTES[0])
        assert "must hold images only. Received: the folder 'b'" in refusal(tmp_path / "deep")
        (tmp_path / "gap" / "bare").mkdir(parents=True)
        assert "must hold images only. Received: no file" in refusal(tmp_path / "gap")

    @pytest.mark.parametrize("damage", ["text", "zero", "truncated.png", "truncated.jpg", "truncated.bmp"])
    def test_a_file_that_is_no_image_is_named(self, tmp_path, damage):
        for i in range(2):
            save(tmp_path / f"{i}.png", BYTES[i])
        kind, _, suffix = damage.partition(".")
        path = tmp_path / f"bad.{suffix or 'txt'}"
        if kind == "truncated":
            save(path, BYTES[2])
            path.write_bytes(path.read_bytes()[:-40])
        else:
            path.write_bytes(b"hello" if kind == "text" else b"")
        assert f"The file '{path}' cannot be read: " in refusal(tmp_path)

    @pytest.mark.parametrize("split", ["test", "train[", "train[:0]", "", "train[a]"])
    def test_splits_that_do_not_exist(self, tmp_path, split):
        for i in range(2):
            save(tmp_path / f"{i}.png", BYTES[i])
        assert f"{split!r}" in refusal(tmp_path, split=split)


class TestArrays:
    @pytest.mark.parametrize("grey", [False, True])
    def test_bytes(self, tmp_path, grey):
        array = BYTES[..., 0] if grey else BYTES
        np.save(tmp_path / "x.npy", array)
        np.savez(tmp_path / "x.npz", array)
        np.savez_compressed(tmp_path / "y.npz", pictures=np.asfortranarray(array), about=np.array("text"))
        (tmp_path / "y.npz").rename(tmp_path / "Y.NPZ")
        (tmp_path / "y.npy").write_bytes((tmp_path / "x.npy").read_bytes())
        (tmp_path / "y.npy").rename(tmp_path / "Y.NPY")
        for name in ("x.npy", "x.npz", "Y.NPY", "Y.NPZ", "Y.NPZ:pictures"):
            loaded = images.load(config(tmp_path / name))
            np.testing.assert_array_equal(loaded, array.reshape(12, 8, 8, -1))
            assert data.describe(config(tmp_path / name)).shape == loaded.shape[1:]

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats(self, tmp_path, dtype):
        """0 to 255 in steps of 1/255, or of 2/255: every byte is met exactly. float16 keeps them apart, too."""
        for low in (0, -1):
            floats = BYTES / 255 if low == 0 else BYTES / 127.5 - 1
            np.save(tmp_path / "x.npy", floats.astype(dtype))
            np.testing.assert_array_equal(images.load(config(tmp_path / "x.npy")), BYTES)

    def test_keys(self, tmp_path):
        labels = np.arange(12) % 3
        np.savez(tmp_path / "x.npz", x_train=BYTES, y_train=labels[:, None], x_test=BYTES[:5], y_test=labels[:5])
        assert "such as" in refusal(tmp_path / "x.npz") and "x_test (5, 8, 8, 3)" in refusal(tmp_path / "x.npz")
        for name, count in (("x_train", 12), ("x_test", 5), ("x_test,y_test", 5)):
            chosen = config(tmp_path / f"x.npz:{name}")
            assert len(images.load(chosen)) == count
            np.testing.assert_array_equal(images.load_labels(chosen), labels[:count])
        assert "Received: dataset=" in refusal(tmp_path / "x.npz:nothing")
        with pytest.raises(data.DatasetError, match="labels of .* one for each of 5 images"):
            images.load_labels(config(tmp_path / "x.npz:x_test,y_train"))
        np.savez(tmp_path / "y.npz", x=BYTES, table=np.arange(12).reshape(3, 4), y=np.arange(12), z=np.arange(12))
        with pytest.raises(data.DatasetError, match=r"one for each of 12 images. Received: shape=\(3, 4\)"):
            images.load_labels(config(tmp_path / "y.npz:x,table"))
        assert "FILE.npz:IMAGES,LABELS names it" in refusal(tmp_path / "y.npz", conditional=True)

    def test_the_name_of_a_file_alone_is_no_function(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        np.savez(tmp_path / "pictures.npz", x_train=BYTES, x_test=BYTES[:5])
        assert len(images.load(config("pictures.npz:x_train"))) == 12
        assert "There is no file 'nowhere.npz'" in refusal("nowhere.npz:x_train")

    def test_channels_last(self, tmp_path):
        for shape in ((8, 8, 2), (8, 8, 5), (8, 8, 12), (8, 6, 5)):
            np.save(tmp_path / "x.npy", np.zeros([3, *shape], np.uint8))
            assert data.describe(config(tmp_path / "x.npy", image_size=6)).shape == (6, 6, shape[2])

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (np.arange(12) / 2, r"has no labels \(.*file also holds y \(12,\) float64\)"),
            (np.arange(4), r"has no labels \(.*file also holds y \(4,\) int64\)"),
            (np.eye(12, dtype=int), r"has no labels \(.*file also holds y \(12, 12\) int64\)"),
            (np.arange(12) - 1, "must be whole numbers from 0, one for each of 12 images. Received: label -1"),
            (np.arange(12) + 10**9, "at most as many as images, 12. Received: labels from 1000000000 to 1000000011"),
        ],
    )
    def test_labels_that_are_none(self, tmp_path, labels, message):
        np.savez(tmp_path / "x.npz", x=BYTES, y=labels)
        with pytest.raises(data.DatasetError, match=message):
            data.describe(config(tmp_path / "x.npz", conditional=True))

    def test_slices(self, tmp_path):
        np.savez(tmp_path / "x.npz", x=BYTES, y=np.arange(12))
        chosen = config(tmp_path / "x.npz", split="train[25%:50%]+train[-1:]")
        np.testing.assert_array_equal(images.load(chosen), BYTES[[3, 4, 5, 11]])
        np.testing.assert_array_equal(images.load_labels(chosen), [3, 4, 5, 11])

    def test_resized(self, tmp_path):
        np.save(tmp_path / "x.npy", BYTES[:, :, :6])
        assert "`image_size` must be given" in refusal(tmp_path / "x.npy")
        loaded = images.load(config(tmp_path / "x.npy", image_size=6))
        np.testing.assert_array_equal(loaded, BYTES[:, 1:7, :6])

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.array([{}, None], object), "array of objects"),
            (BYTES.astype(np.int64), "uint8, or floats .* Received: dtype=int64"),
            (BYTES.astype(np.float32), "values from 0 to 255"),
            (np.where(np.arange(12) == 7, np.nan, 0.5)[:, None, None] * np.ones([8, 8]), "Image 7 of .* holds a NaN"),
            (np.where(np.arange(12) == 2, np.inf, 0.5)[:, None, None] * np.ones([8, 8]), "Image 2 of .* infinity"),
            (BYTES[0, 0], r"must be \[n, h, w\].* Received: shape=\(8, 3\)"),
            (BYTES[:1], "holds 1 image"),
            (BYTES[:0], "holds 0 image"),
            (BYTES.transpose(0, 3, 1, 2), r"must come last: store images.transpose\(0, 2, 3, 1\)"),
            (BYTES.transpose(0, 3, 1, 2)[..., :6], r"must come last: store images.transpose\(0, 2, 3, 1\)"),
            (np.where(BYTES < 9, -1e-7, BYTES / 255), "clip them to .* Received: values from -1e-07 to 1"),
            (np.where(BYTES < 9, -0.07, BYTES / 255), "clip them to .* Received: values from -0.07 to 1"),
        ],
    )
    def test_faults(self, tmp_path, array, message):
        np.save(tmp_path / "x.npy", array)
        np.savez(tmp_path / "x.npz", array)
        for name in ("x.npy", "x.npz"):
            with pytest.raises(data.DatasetError, match=message):
                data.describe(config(tmp_path / name))
                images.load(config(tmp_path / name))

    @pytest.mark.parametrize("name", ["x.npy", "x.npz"])
    def test_damaged_files(self, tmp_path, name):
        path = tmp_path / name
        assert f"There is no file '{path}'" in refusal(path)
        np.save(path, BYTES) if name == "x.npy" else np.savez(path, BYTES)
        whole = path.read_bytes()
        for content in (whole[:-100], whole[:60], b"", b"no arrays"):
            path.write_bytes(content)
            assert f"The file '{path}' cannot be read: " in refusal(path)

    def test_no_arrays(self, tmp_path):
        np.savez(tmp_path / "x.npz")
        assert "must hold one array of images" in refusal(tmp_path / "x.npz")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of data sets into the working folder, which is not in `sys.path`, and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", os.getcwd())])
    np.save(tmp_path / "bytes.npy", BYTES)
    name = f"sets_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(
        """
import numpy as np, tensorflow as tf
X = np.load("bytes.npy"); Y = np.arange(12)
def of(*parts): return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0])
def bare(): return of(X)
def pairs(): return of(X, Y[:, None]).shuffle(12)
def named(): return tf.data.Dataset.from_tensor_slices({"image": X / 255, "label": Y}).shuffle(12).batch(5)
def grey(): return of(X[..., 0])
def endless(): return bare().repeat()
def bands(): return of(X.reshape(12, 8, 6, 4).repeat(2, -1)[..., :5])
def grey_batches(): return grey().batch(6)
def equal_batches(): return grey().batch(8, drop_remainder=True)
def full_batches(): return grey().batch(6, drop_remainder=True)
def rows(): return of(X.reshape(12, -1)).batch(6)
def first(): return of(X.transpose(0, 3, 1, 2))
def first_batches(): return first().batch(6)
def empty(): return bare().take(0)
def nothing(): return None
def words(): return of(np.array(["a", "b"]))
def targets(): return of(X, X)
def broken(): raise RuntimeError("no such disk")
def late(): return bare().map(lambda x: tf.ensure_shape(tf.io.decode_png("x"), [8, 8, 3]))
def needs(argument): return bare()
def decoded(): return of([tf.io.encode_png(x).numpy() for x in X]).map(tf.io.decode_image)
def decoded_batches(): return decoded().batch(6)
def moving(): return decoded().map(lambda x: tf.py_function(lambda x: tf.stack([x, x]), [x], tf.uint8))
def twins(): return of(X[[0, 0]], np.eye(2))
calls = []
def other():
    calls.append(0)
    images = np.random.default_rng(len(calls)).integers(0, 256, [12, 8, 8, 1], np.uint8)
    return of(images, images[:, 0, 0, 0] // 64)
def sizes():
    parts = [X[0], X[1, :6]]
    return tf.data.Dataset.from_generator(lambda: parts, output_signature=tf.TensorSpec([None, None, 3], tf.uint8))
value = 3
"""
    )
    yield name
    sys.modules.pop(name, None)


class TestSlicesOfSortedSets:
    @pytest.fixture
    def sorted_set(self, tmp_path):
        """Returns `sorted_set(kind)`: 12 images of 4 classes in the order of the classes."""

        def make(kind):
            labels = np.arange(12) // 3
            if kind == "folder":
                for i, image in enumerate(BYTES):
                    save(tmp_path / "set" / f"class_{labels[i]}" / f"{i:02d}.png", image)
                return tmp_path / "set"
            np.savez(tmp_path / "x.npz", x=BYTES, y=labels)
            return tmp_path / "x.npz"

        return make

    @pytest.mark.parametrize("kind", ["folder", "npz"])
    def test_classes_that_a_slice_lacks_are_named_once(self, sorted_set, kind, caplog):
        path = sorted_set(kind)
        chosen = config(path, split="train[:40%]")
        for _ in range(2):
            assert data.describe(chosen).num_examples == 5
        data.build(chosen, per_replica_batch_size=2, num_replicas=1, replica_ids=[0], seed=0)
        assert caplog.text.count(f"The slice has 2 of the 4 classes of '{path}'.") == 1
        assert "keep fewer files in every class folder" in caplog.text and "`image_size`" in caplog.text
        assert "Received: split='train[:40%]'" in caplog.text

    @pytest.mark.parametrize("kind", ["folder", "npz"])
    def test_a_conditional_run_is_refused(self, sorted_set, kind):
        chosen = config(sorted_set(kind), split="train[3:]", conditional=True)
        message = r"needs images of every class. The slice has 3 of the 4 .*split='train\[3:\]', conditional=True"
        with pytest.raises(data.DatasetError, match=message):
            data.describe(chosen)
        with pytest.raises(data.DatasetError, match=message):
            data.build(chosen, per_replica_batch_size=2, num_replicas=1, replica_ids=[0], seed=0)

    def test_slices_of_all_classes(self, sorted_set, tmp_path, caplog):
        for kind in ("folder", "npz"):
            for split in ("train", "train[2:10]", "train[:1]+train[3:4]+train[6:7]+train[-1:]"):
                assert data.describe(config(sorted_set(kind), split=split, conditional=True)).num_classes == 4
        np.savez(tmp_path / "x.npz", x=BYTES, y=np.arange(12) % 4)
        assert data.describe(config(tmp_path / "x.npz", split="train[:4]", conditional=True)).num_classes == 4
        # Classes that the whole set does not have are not lost by a slice.
        np.savez(tmp_path / "x.npz", x=BYTES, y=np.arange(12) % 2 * 7)
        assert data.describe(config(tmp_path / "x.npz", split="train[:4]", conditional=True)).num_classes == 8
        assert not caplog.text

    def test_labels_that_are_none_do_not_matter_to_a_run_without_classes(self, tmp_path, caplog):
        np.savez(tmp_path / "x.npz", x=BYTES, y=np.arange(12) - 1)
        assert data.describe(config(tmp_path / "x.npz", split="train[:4]")).num_examples == 4
        assert not caplog.text


class TestFunction:
    @pytest.mark.parametrize(("function", "has_labels"), [("bare", False), ("pairs", True), ("named", True)])
    def test_images_have_the_order_of_their_bytes(self, module, function, has_labels):
        """`pairs` and `named` shuffle without a seed, so that only a canonical order makes two calls equal."""
        chosen = config(f"{module}:{function}")
        first, labels = images.load(chosen), images.load_labels(chosen)
        np.testing.assert_array_equal(first, images.load(chosen))
        assert {image.tobytes() for image in first} == {image.tobytes() for image in BYTES}
        assert (labels is not None) == has_labels
        if has_labels:
            np.testing.assert_array_equal(first, BYTES[labels])

    def test_shapes(self, module):
        assert data.describe(config(f"{module}:grey")).shape == (8, 8, 1)
        assert "`image_size` must be given" in refusal(f"{module}:sizes")
        assert data.describe(config(f"{module}:sizes", image_size=6)).shape == (6, 6, 3)
        assert data.describe(config(f"{module}:bands", image_size=6)).shape == (6, 6, 5)
        assert data.describe(config(f"{module}:bare", split="train[:5]")).num_examples == 5
        assert data.describe(config(f"{module}:decoded")).shape == (8, 8, 3)  # of unknown rank

    def test_labels_are_those_of_the_images_of_one_call(self, module):
        """The function makes other images at every call, as one that augments them does."""
        chosen = config(f"{module}:other", conditional=True)
        batch, labels = images.batches(chosen, 12, 1, 0)(tf.constant(0, tf.int64), tf.constant(0, tf.int64))
        pixels = np.rint((batch.numpy() + 1) * 127.5)
        np.testing.assert_array_equal(pixels[:, 0, 0, 0] // 64, labels)
        loaded, labels = images.load_with_labels(chosen)
        np.testing.assert_array_equal(loaded[:, 0, 0, 0] // 64, labels)

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            ("endless", "that ends: leave out its repeat"),
            ("empty", "holds 0 image"),
            ("nothing", "must return a tf.data.Dataset. Received: NoneType"),
            ("words", "must be .* Received: shape="),
            ("targets", "labels of .* must be whole numbers"),
            ("broken", r"failed in .*sets_\d+.py, line \d+: RuntimeError: no such disk"),
            ("late", "failed"),
            ("needs", "failed.*argument"),
            ("twins", r"labels of .* must be whole numbers.* Received: a label of shape \(2,\)"),
            ("decoded_batches", r"ensure_shape\(.* Received: shape=\(6, 8, 8, 3\)"),
            ("moving", r"must be \[h, w\] or \[h, w, c\].* Received: shape=\(2, 8, 8, 3\)"),
            ("value", "has no function 'value'"),
            ("missing", "has no function 'missing'"),
        ],
    )
    def test_faults(self, module, function, message):
        with pytest.raises(data.DatasetError, match=message):
            data.describe(config(f"{module}:{function}"))

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            ("grey_batches", r"leave out its batch\(\).* Received: shape=\(None, 8, 8\)"),
            ("equal_batches", r"leave out its batch\(\).* Received: shape=\(8, 8, 8\)"),
            ("rows", r"leave out its batch\(\).* Received: shape=\(None, 192\)"),
            ("full_batches", r"need an axis of 1 channel.* Received: shape=\(6, 8, 8\)"),
            ("first", r"must come last.* Received: shape=\(3, 8, 8\)"),
            ("first_batches", r"must come last.* of which \(3, 8, 8\) would be an image"),
        ],
    )
    def test_axes_that_are_not_those_of_an_image(self, module, function, message):
        """With `image_size`, each of them could be cut to something that trains."""
        with pytest.raises(data.DatasetError, match=message):
            data.describe(config(f"{module}:{function}", image_size=6))

    def test_no_module(self):
        assert "There is no data set 'no_such.module:f': Python finds no module 'no_such'" in refusal(
            "no_such.module:f"
        )


@pytest.mark.parametrize("kind", ["folder", "npz", "function"])
def test_the_batch_of_a_replica_depends_on_seed_step_and_replica_alone(kind, tmp_path, request):
    """One whole run of two replicas against one that stops after 5 steps and goes on as two workers of one replica."""
    if kind == "function":
        chosen = config(f"{request.getfixturevalue('module')}:pairs")
    elif kind == "npz":
        np.savez(tmp_path / "x.npz", BYTES)
        chosen = config(tmp_path / "x.npz")
    else:
        for i, image in enumerate(BYTES):
            save(tmp_path / f"{i}.png", image)
        chosen = config(tmp_path)

    def batches(ids, start, count):
        options = {"per_replica_batch_size": 5, "num_replicas": 2, "seed": 3}
        dataset = data.build(chosen, replica_ids=ids, start_step=start, **options)
        return np.stack(list(dataset.take(count).as_numpy_iterator()))

    whole = batches([0, 1], 0, 16).reshape(8, 2, 5, 8, 8, 3)
    np.testing.assert_array_equal(whole[:5].reshape(10, 5, 8, 8, 3), batches([0, 1], 0, 10))
    for replica in (0, 1):
        np.testing.assert_array_equal(whole[5:, replica], batches([replica], 5, 3))
    assert len({batch.tobytes() for batch in whole.reshape(16, -1)}) == 16


@pytest.mark.parametrize("change, name", [({}, "num_examples"), ({"conditional": True}, "num_classes")])
def test_a_folder_that_changes_while_a_run_starts_is_refused(tmp_path, change, name):
    """A copy that is not complete: after `describe` an image of a new class arrives, and one of an old class goes."""
    for i, image in enumerate(BYTES[:6]):
        save(tmp_path / "set" / str(i % 2) / f"{i}.png", image)
    chosen = config(tmp_path / "set", **change)
    spec = data.describe(chosen)
    how = {"per_replica_batch_size": 2, "num_replicas": 1, "replica_ids": [0], "seed": 0}
    data.build(chosen, **how, spec=spec)
    save(tmp_path / "set" / "2" / "new.png", BYTES[6])
    if change:
        (tmp_path / "set" / "0" / "0.png").unlink()
    with pytest.raises(data.DatasetError, match=f"changed while the run started: {name} was"):
        data.build(chosen, **how, spec=spec)


def test_limits_are_one():
    assert images.MEMORY_LIMIT_BYTES == files.MEMORY_LIMIT_BYTES == 6 * 10**9


def test_a_function_that_does_not_end_is_stopped(module, monkeypatch):
    monkeypatch.setattr(files, "MEMORY_LIMIT_BYTES", 5 * 8 * 8 * 3)
    assert "exceeds the limit of 0.0 GB after 6 images" in refusal(f"{module}:bare")


def test_paths_are_told_from_names():
    """Only what is written as a path, or exists, is one; see docs/data.md."""
    known = {"cifar10", "own"}
    for name in ("cifar10", "cifar10:3.0.2", "own/small", "own/small:1.0.0", "nothing", "a b", "x:y:z", ""):
        assert files.find(name, "train", lambda name: name.split("/")[0].split(":")[0] in known) is None
