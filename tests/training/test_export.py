"""Samples and exports of a run from its model_dir alone: its data set is gone."""

import dataclasses
import importlib.util
import json
import pathlib
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import data
from dqgan_tf.config import DataConfig, NetworkConfig, RunConfig, TrainConfig
from dqgan_tf.data import images as images_of
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.errors import CheckpointError, UsageError
from dqgan_tf.training import export, job, restore, samples
from dqgan_tf.training.checkpoint import Checkpoints
from tests.gan.local_strategy import local_strategy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of images of two channels, whose average differs from the weights, as after some steps."""
    folder = tmp_path_factory.mktemp("run")
    np.save(folder / "own.npy", np.zeros([6, 4, 4, 2], np.uint8))
    config = RunConfig(
        str(folder),
        data=DataConfig(dataset=str(folder / "own.npy")),
        network=NetworkConfig(width=3, latent_dim=5),
        train=TrainConfig(batch_size=4, deterministic=False),
    )
    built = job.build(config, data.describe(config.data), local_strategy(1), MessageBoard(0, 1))
    values = {name: value.numpy() for name, value in built.model.shared_values().items()}
    moved = {name: value + 0.5 for name, value in values.items() if name.startswith("ema/")}
    built.model.set_shared_values(values | moved | {"step": np.int64(3)})
    Checkpoints(built).save(3)
    (folder / "config.json").write_text(config.to_json())
    (folder / "data.json").write_text(built.data_spec.to_json())
    (folder / "own.npy").unlink()
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    return restore.load(str(folder))


LATENT = tf.random.stateless_normal([3, 5], [1, 2])


def test_a_run_is_restored_without_its_data(folder, trained):
    assert (trained.step, trained.data_spec.shape, trained.data_spec.num_examples) == (3, (4, 4, 2), 6)
    with pytest.raises(data.DatasetError, match="There is no file"):
        data.describe(trained.config.data)


def test_data_that_have_moved_are_named_anew(folder, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, [6, 4, 4, 2], np.uint8)
    np.save(tmp_path / "moved.npy", images)
    moved = restore.load(str(folder), dataset=str(tmp_path / "moved.npy"))
    np.testing.assert_array_equal(images_of.load(moved.config.data), images)


@pytest.mark.parametrize(
    "shape, received", [([5, 4, 4, 2], "5 images of shape (4, 4, 2)"), ([6, 4, 4, 1], "(4, 4, 1)")]
)
def test_other_data_than_those_of_the_run_are_refused(folder, tmp_path, shape, received):
    np.save(tmp_path / "other.npy", np.zeros(shape, np.uint8))
    with pytest.raises(
        UsageError, match=r"other data than the run's .*own.npy', which has 6 images of shape \(4, 4, 2\)"
    ) as info:
        restore.load(str(folder), dataset=str(tmp_path / "other.npy"))
    assert received in str(info.value).split("Received: ")[1]


@pytest.mark.parametrize("name", ["x.keras", "x", "folder.of/v1.0"])
def test_an_export_is_the_average(trained, tmp_path, name):
    path = str(tmp_path / name)
    export.write(path, trained)
    if name.endswith(".keras"):
        drawn = keras.models.load_model(path)(LATENT)
    else:
        loaded = tf.saved_model.load(path)  # a name of its own, because the function does not keep its variables
        drawn = loaded.serve(LATENT)
    averaged, raw = (trained.model.generate(LATENT, use_ema=use_ema).numpy() for use_ema in (True, False))
    np.testing.assert_allclose(drawn, averaged, atol=1e-6)
    assert np.abs(averaged - raw).max() > 0.01
    assert [entry.name for entry in (tmp_path / name).parent.iterdir()] == [name.split("/")[-1]]


def test_an_export_of_a_conditional_run_takes_labels(tmp_path):
    ring, network = DataConfig("gaussian_ring", conditional=True), NetworkConfig(width=3, latent_dim=5)
    config = RunConfig(str(tmp_path), data=ring, network=network, train=TrainConfig(batch_size=4, deterministic=False))
    built = job.build(config, data.describe(ring), local_strategy(1), MessageBoard(0, 1))
    run = restore.TrainedRun(config, built.data_spec, built.model, 0)
    labels = tf.constant([7, 0, 3])
    expected = built.model.generate(LATENT, labels).numpy()
    assert np.abs(expected - built.model.generate(LATENT, labels[::-1]).numpy()).max() > 0.01
    for name in ("x.keras", "x"):
        export.write(str(tmp_path / name), run)
    loaded = tf.saved_model.load(str(tmp_path / "x"))
    for drawn in (keras.models.load_model(tmp_path / "x.keras")([LATENT, labels]), loaded.serve([LATENT, labels])):
        np.testing.assert_allclose(drawn, expected, atol=1e-6)


def test_onnx(trained, tmp_path):
    """Also tried by hand: tf2onnx 1.17.0, onnx 1.23.2 and onnxruntime 1.32.0 with both networks, and with labels."""
    if importlib.util.find_spec("tf2onnx") is None or importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("tf2onnx or onnxruntime is not installed")
    import onnxruntime

    export.write(str(tmp_path / "x.onnx"), trained)
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"))
    [drawn] = session.run(None, {session.get_inputs()[0].name: LATENT.numpy()})
    np.testing.assert_allclose(drawn, trained.model.generate(LATENT).numpy(), atol=1e-5)


def test_onnx_needs_a_package(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="ONNX needs tf2onnx: pip install 'dqgan-tf\\[onnx\\]'"):
        export.write(str(tmp_path / "x.onnx"), trained)


def test_outputs_that_are_refused(trained, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "a.keras").mkdir()
    for name, message in (
        ("x.h5", "must be X.keras"),
        ("x.KERAS", "must be X.keras"),
        ("full", "which exists"),
        ("a.keras", "is a folder"),
    ):
        with pytest.raises(UsageError, match=message):
            export.write(str(tmp_path / name), trained)
    with pytest.raises(UsageError, match="which exists"):
        export.check(str(tmp_path / "full" / "file"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "images"}', '{"shape": 3}'])
def test_a_damaged_description_is_refused(folder, tmp_path, text):
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "data.json").unlink()
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(CheckpointError, match="data.json cannot be read"):
        restore.load(str(tmp_path))


class TestDataOfARunThatGoesOn:
    @pytest.fixture
    def config(self, tmp_path, trained):
        (tmp_path / "data.json").write_text(trained.data_spec.to_json())
        return RunConfig(str(tmp_path), data=DataConfig(dataset="own.npy", shards="dirichlet:0.3"))

    def test_the_same_data_pass(self, config, trained):
        restore.check_data(config, trained.data_spec)
        (pathlib.Path(config.model_dir) / "data.json").unlink()
        restore.check_data(config, trained.data_spec)

    @pytest.mark.parametrize(
        "other", [{"num_examples": 7}, {"shape": (4, 4, 1)}, {"num_classes": 3}, {"kind": "points"}]
    )
    def test_other_data_are_refused(self, config, trained, other):
        now = dataclasses.replace(trained.data_spec, **other)
        with pytest.raises(CheckpointError, match="was trained on 6 images .* has now .* --warm_start="):
            restore.check_data(config, now)

    def test_images_that_an_older_version_dealt_are_refused(self, config, trained):
        path = pathlib.Path(config.model_dir) / "data.json"
        values = json.loads(path.read_text())
        assert values.pop("dealing") == 2
        path.write_text(json.dumps(values))
        with pytest.raises(CheckpointError, match="dealt the images of --shards=dirichlet:0.3 in another way"):
            restore.check_data(config, trained.data_spec)
        by_class = dataclasses.replace(config, data=dataclasses.replace(config.data, shards="by_class"))
        restore.check_data(by_class, trained.data_spec)


@pytest.mark.parametrize("dataset", ["gaussian_ring", "gaussian_grid"])
def test_the_description_of_a_mixture_survives(dataset):
    spec = data.describe(DataConfig(dataset=dataset))
    again = data.DataSpec.from_json(spec.to_json())
    np.testing.assert_array_equal(again.modes, spec.modes)
    assert again.modes.dtype == np.float32 and again.shape == (2,)
    assert json.loads(again.to_json()) == json.loads(spec.to_json())


class TestLatents:
    model = types.SimpleNamespace(seed=4, latent_dim=6)

    def draw(self, first, last, **options):
        return samples.latents(self.model, first, last, **{"seed": None, "interpolate": None} | options).numpy()

    def test_a_seed_of_ones_own(self):
        np.testing.assert_array_equal(self.draw(0, 500), self.draw(0, 500, seed=4))
        assert np.all(self.draw(0, 500) != self.draw(0, 500, seed=5))

    def test_any_part_of_the_sequence(self):
        whole = self.draw(0, 1500)
        np.testing.assert_array_equal(self.draw(480, 1010), whole[480:1010])
        for k in (2, 3, 7):
            rows = self.draw(0, 1000, interpolate=k)
            np.testing.assert_allclose(self.draw(499, 640, interpolate=k), rows[499:640], atol=1e-6)

    def test_rows_are_great_circles(self):
        """Ends are normal latents 2 i and 2 i + 1. Between them the direction turns by equal angles in one plane."""
        ends, rows = self.draw(0, 20), self.draw(0, 50, interpolate=5).reshape(10, 5, 6)
        np.testing.assert_allclose(rows[:, 0], ends[0::2], atol=1e-5)
        np.testing.assert_allclose(rows[:, -1], ends[1::2], atol=1e-5)
        unit = self.draw(0, 10**4, interpolate=2).reshape(-1, 2, 6)
        assert abs(np.mean(unit[:, 0] * unit[:, 1])) < 0.03  # ends are independent
        for row, (a, b) in zip(rows, ends.reshape(10, 2, 6), strict=True):
            plane, _ = np.linalg.qr(np.stack([a, b], 1))
            np.testing.assert_allclose(plane @ plane.T @ row.T, row.T, atol=1e-4)
            w = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            middle = (np.sin(w / 2) / np.sin(w)) * (a + b)
            np.testing.assert_allclose(row[2], middle, atol=1e-4)

    def test_a_latent_of_one_value_has_no_angle(self):
        model = types.SimpleNamespace(seed=0, latent_dim=1)
        rows = samples.latents(model, 0, 30, seed=None, interpolate=3).numpy().reshape(10, 3)
        np.testing.assert_allclose(rows[:, 1], (rows[:, 0] + rows[:, 2]) / 2, atol=1e-5)


def test_the_grid_has_the_size_asked_for(trained, tmp_path):
    for columns, interpolate, width in ((2, None, 10), (5, None, 28), (None, 3, 16), (1, 3, 4)):
        path = str(tmp_path / "x.png")
        samples.write_file(path, trained, 5, use_ema=True, columns=columns, interpolate=interpolate)
        assert tf.io.decode_png(tf.io.read_file(path)).shape[1] == width
    with pytest.raises(UsageError, match="`columns` is for a grid of images"):
        samples.write_file(str(tmp_path / "x.npz"), trained, 5, use_ema=True, columns=2)
