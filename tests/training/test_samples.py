"""Pictures of a generator that is a known function of its latents."""

import types

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import data
from dqgan_tf.config import DataConfig
from dqgan_tf.errors import UsageError
from dqgan_tf.gan import steps
from dqgan_tf.training import samples

RING = data.describe(DataConfig("gaussian_ring"))
IMAGES = data.DataSpec("images", (4, 4, 1), 10, "images")


class Model:
    """Returns its latents, times 2 for the averaged generator."""

    def __init__(self, seed=0, latent_dim=2, shape=(2,)):
        self.seed, self.latent_dim, self.shape = seed, latent_dim, shape

    def generate(self, latent, use_ema=True):
        return tf.reshape((2.0 if use_ema else 1.0) * latent, [-1, *self.shape])


class TestDraw:
    @pytest.mark.parametrize("count", [0, -1])
    def test_no_sample_is_refused(self, count):
        with pytest.raises(UsageError, match=f"1 or more, such as 64. Received: {count}"):
            samples.draw(Model(), count, use_ema=False)

    def test_is_normal_and_of_the_length_asked_for(self):
        drawn = samples.draw(Model(), 1234, use_ema=False)
        assert drawn.shape == (1234, 2) and drawn.dtype == np.float32
        # Five standard errors: 5 / sqrt(2468) of the mean, 5 / sqrt(2 * 2468) of the deviation.
        assert abs(drawn.mean()) < 0.1 and abs(drawn.std() - 1) < 0.07
        assert len(np.unique(drawn[:, 0])) == 1234  # no two batches share latents

    def test_the_same_at_every_call_whatever_the_count(self):
        few, many = (samples.draw(Model(), count, use_ema=False) for count in (3, 501))
        np.testing.assert_array_equal(few, many[:3])

    def test_depends_on_the_seed(self):
        assert np.all(samples.draw(Model(0), 5, use_ema=False) != samples.draw(Model(1), 5, use_ema=False))

    def test_asks_for_the_generator_that_is_wanted(self):
        raw, averaged = (samples.draw(Model(), 5, use_ema=use_ema) for use_ema in (False, True))
        np.testing.assert_array_equal(averaged, 2 * raw)

    def test_takes_no_latent_of_training(self):
        """Step 0 of replica 0 of the training stream, against the first samples."""
        seed = steps.stream_seed(0, steps.LATENT, tf.constant(0), tf.constant(0), 1)
        training = tf.random.stateless_normal([500, 2], seed).numpy()
        assert np.all(samples.draw(Model(), 500, use_ema=False) != training)


def test_pictures_of_points_and_images():
    points = samples.picture(RING, samples.draw(Model(), 100, use_ema=True))
    assert points.ndim == 3 and points.dtype == np.uint8 and len(np.unique(points)) > 1
    grid = samples.picture(IMAGES, np.full((64, 4, 4, 1), -1.0, np.float32))
    assert grid.dtype == np.uint8 and grid[2, 2, 0] == 0  # -1 is black


@pytest.mark.parametrize(("spec", "shape"), [(RING, (2,)), (IMAGES, (4, 4, 1))])
def test_write_pictures(tmp_path, spec, shape):
    model, board = (
        Model(latent_dim=int(np.prod(shape)), shape=shape),
        tf.summary.create_file_writer(str(tmp_path / "tb")),
    )
    samples.write_pictures(tmp_path / "samples", 7, spec, model, board)
    files = {path.name: path.read_bytes() for path in (tmp_path / "samples").iterdir()}
    assert set(files) == {"ema_00000007.png", "raw_00000007.png"}
    (events,) = (tmp_path / "tb").iterdir()
    shown = {
        (event.step, value.tag): tf.io.decode_png(value.tensor.string_val[2])  # behind width and height
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    assert set(shown) == {(7, "3 samples/raw"), (7, "3 samples/ema")}
    for name in ("raw", "ema"):
        np.testing.assert_array_equal(tf.io.decode_png(files[f"{name}_00000007.png"]), shown[7, f"3 samples/{name}"])
    assert np.any(shown[7, "3 samples/raw"] != shown[7, "3 samples/ema"])


class Labelled(Model):
    """Draws images whose value is their class, from -1 for class 0 by steps of 1/4."""

    def generate(self, latent, labels, use_ema=True):
        assert len(latent) == len(labels)
        return tf.ones([len(labels), 4, 4, 1]) * (tf.cast(labels, tf.float32)[:, None, None, None] / 4.0 - 1.0)


class TestLabels:
    SPEC = data.DataSpec("images", (4, 4, 1), 10, "images", num_classes=5)

    def test_a_class_is_a_column(self, tmp_path):
        board = tf.summary.create_file_writer(str(tmp_path / "tb"))
        x = np.repeat(np.arange(5), 100)[np.random.default_rng(0).permutation(500)]
        images = np.ones((500, 4, 4, 1), np.float32) * (x[:, None, None, None] / 4 - 1)
        batches = tf.data.Dataset.from_tensor_slices((images, x)).batch(30)
        samples.write_pictures(tmp_path, 0, self.SPEC, Labelled(), board, samples.take(batches, self.SPEC))
        for name in ("raw", "ema", "real"):
            grid = tf.io.decode_png((tmp_path / f"{name}_00000000.png").read_bytes()).numpy()[..., 0]
            assert grid.shape == (12 * 6 - 2, 5 * 6 - 2)
            for row in range(12):
                tops = grid[6 * row : 6 * row + 4].reshape(4, -1)[:, [0, 6, 12, 18, 24]]
                np.testing.assert_array_equal(tops, np.tile([0, 32, 64, 96, 128], (4, 1)))

    def test_a_rare_class_has_black_images(self):
        batches = tf.data.Dataset.from_tensor_slices((np.ones((30, 4, 4, 1), np.float32), np.full(30, 2))).batch(3)
        taken = samples.take(batches, self.SPEC).reshape(60, 16)
        assert np.all(taken[2::5] == 1.0) and np.all(np.delete(taken, np.s_[2::5], 0) == -1.0)

    def test_files_hold_the_labels(self, tmp_path):
        run = types.SimpleNamespace(data_spec=self.SPEC, model=Labelled(), step=70)
        for options, expected in (({}, [0, 1, 2, 3, 4, 0, 1]), ({"label": 3}, [3] * 7)):
            samples.write_file(str(tmp_path / "x.npz"), run, 7, use_ema=True, **options)
            with np.load(tmp_path / "x.npz") as file:
                np.testing.assert_array_equal(file["labels"], expected)
                np.testing.assert_array_equal(file["samples"][:, 0, 0, 0], np.rint(31.875 * np.array(expected)))
        np.testing.assert_array_equal(samples.class_labels(self.SPEC, 7, repeat=3), [0, 0, 0, 1, 1, 1, 2])
        with pytest.raises(UsageError, match="`label` must be 0 to 4. Received: label=5"):
            samples.write_file(str(tmp_path / "x.npz"), run, 7, use_ema=True, label=5)
        with pytest.raises(UsageError, match="not conditional"):
            samples.class_labels(IMAGES, 7, label=0)


class TestWriteFile:
    """Files of samples; trainers.generate writes them."""

    def trained(self, spec, shape):
        model = Model(latent_dim=int(np.prod(shape)), shape=shape)
        return types.SimpleNamespace(data_spec=spec, model=model, step=70)

    def test_points_are_floats(self, tmp_path):
        trained = self.trained(RING, (2,))
        samples.write_file(str(tmp_path / "x.npz"), trained, 5, use_ema=True)
        with np.load(tmp_path / "x.npz") as file:
            np.testing.assert_array_equal(file["samples"], samples.draw(trained.model, 5, use_ema=True))
            assert file["samples"].dtype == np.float32 and file["step"] == 70

    def test_images_are_bytes(self, tmp_path):
        trained = self.trained(IMAGES, (4, 4, 1))
        samples.write_file(str(tmp_path / "x.npz"), trained, 5, use_ema=False)
        with np.load(tmp_path / "x.npz") as file:
            drawn = np.clip(samples.draw(trained.model, 5, use_ema=False), -1, 1)
            np.testing.assert_array_equal(file["samples"], np.rint(127.5 * (drawn + 1)).astype(np.uint8))

    @pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
    def test_a_picture_of_any_number_of_channels(self, tmp_path, channels):
        spec = data.DataSpec("images", (4, 4, channels), 10, "images")
        samples.write_file(str(tmp_path / "x.png"), self.trained(spec, spec.shape), 4, use_ema=True)
        written = tf.io.decode_png((tmp_path / "x.png").read_bytes())
        assert written.shape == (10, 10, 3 if channels >= 3 else 1)

    def test_another_ending(self, tmp_path):
        with pytest.raises(UsageError, match="such as samples.npz or samples.png. Received: '.*x.jpg'"):
            samples.write_file(str(tmp_path / "x.jpg"), self.trained(RING, (2,)), 4, use_ema=True)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"count": 10**9}, "take 16.0 GB of memory; the limit is 6.0 GB. Draw at most 375000000"),
            ({"count": 10**8}, "have 60000 x 60000 pixels.* Received: 100000000 images, 10000 columns"),
            ({"columns": 10**9}, "have 6000000000 x 6 pixels; a PNG file holds at most 1000000 on a side"),
            ({"interpolate": 10**6}, "or write X.npz. Received: 4 images, 1000000 columns"),
            ({"count": 200_000, "columns": 1}, "have 6 x 1200000 pixels"),
        ],
    )
    def test_more_than_a_file_holds(self, tmp_path, options, message):
        count = options.pop("count", 4)
        with pytest.raises(UsageError, match=message):
            samples.write_file(str(tmp_path / "x.png"), self.trained(IMAGES, (4, 4, 1)), count, use_ema=True, **options)

    def test_the_longest_picture(self, tmp_path):
        """One pixel more than 1,000,000 is refused, and libpng writes no such file."""
        spec = data.DataSpec("images", (49_998, 1, 1), 10, "images")
        samples.write_file(str(tmp_path / "x.png"), self.trained(spec, spec.shape), 20, use_ema=True, columns=1)
        assert tf.io.decode_png((tmp_path / "x.png").read_bytes()).shape == (999_998, 1, 1)
        with pytest.raises(tf.errors.OpError):
            tf.io.encode_png(tf.zeros([1_000_001, 1, 1], tf.uint8))
