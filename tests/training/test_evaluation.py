"""Which network judges a run of images, and what its figures are called."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import data
from dqgan_tf.config import BEST_OF_IMAGES, BEST_OF_POINTS, DataConfig, EvaluationConfig, RunConfig
from dqgan_tf.errors import UsageError
from dqgan_tf.evaluation import features
from dqgan_tf.training import evaluation
from dqgan_tf.training.restore import TrainedRun


class Model:
    """Draws grey images whose pixels are the signs of the latents, negated for the averaged generator."""

    seed, latent_dim = 0, 36

    def generate(self, latent, use_ema=True):
        return tf.reshape(tf.sign(-latent if use_ema else latent), [-1, 6, 6, 1])


@pytest.fixture
def run(tmp_path):
    """Returns `run(with_labels)`: a run on 80 random images."""

    def make(with_labels=True):
        images = np.random.default_rng(0).integers(0, 256, (80, 6, 6, 1), np.uint8)
        arrays = {"images": images, "labels": np.arange(80) % 2} if with_labels else {"images": images}
        np.savez(tmp_path / "own.npz", **arrays)
        config = RunConfig(data=DataConfig(dataset=str(tmp_path / "own.npz")))
        return TrainedRun(config, data.describe(config.data), Model(), 3)

    return make


def settings(tmp_path, **options):
    return EvaluationConfig(eval_samples=70, cache_dir=str(tmp_path / "cache"), **options)


def test_a_small_classifier_judges_by_default(run, tmp_path):
    trained = run()
    figures = evaluation.evaluate(trained, settings(tmp_path))
    name = f"small_classifier({trained.data_spec.name})"
    assert {f"frechet_distance({name},n=70)", f"precision({name},n=70)", f"recall({name},n=70)"} <= set(figures)
    assert (figures["num_real"], figures["num_fake"], figures["generator"]) == (70, 70, "averaged")
    assert 0 <= figures["feature_network_accuracy"] <= 1
    assert evaluation.evaluate(trained, settings(tmp_path)) == figures  # the cached network
    raw = evaluation.evaluate(trained, settings(tmp_path), use_ema=False)
    assert raw["generator"] == "raw" and raw["feature_network_sha256"] == figures["feature_network_sha256"]
    assert raw[f"frechet_distance({name},n=70)"] != figures[f"frechet_distance({name},n=70)"]


def test_the_order_of_generated_images_does_not_depend_on_their_class(tmp_path, monkeypatch):
    """The data are sorted by class; the score takes each tenth of the generated images for a sample of all classes."""
    truth, drawn = np.repeat(np.arange(4), (100, 100, 100, 200)), []
    np.savez(tmp_path / "own.npz", images=np.zeros((500, 2, 2, 1), np.uint8), labels=truth)
    config = RunConfig(data=DataConfig(dataset=str(tmp_path / "own.npz"), conditional=True))

    def generate(latent, labels, use_ema):
        drawn.append(labels)
        return tf.reshape(tf.cast(labels, tf.float32), [-1, 1, 1, 1]) * tf.ones([1, 2, 2, 1]) / 2 - 1

    def judge(shown):
        classes = np.rint(shown[:, 0, 0, 0] / 63.75).astype(int)
        return features.Features(np.random.default_rng(0).random((len(shown), 2)), 99 * np.eye(4)[classes])

    network = features.FeatureNetwork("judge", False, 2, (2, 2), (1,), "f" * 64, judge)
    monkeypatch.setattr(features, "load", lambda path: network)
    model = types.SimpleNamespace(seed=0, latent_dim=2, generate=generate)
    trained = TrainedRun(config, data.describe(config.data), model, 3)
    wanted = EvaluationConfig(eval_samples=500, feature_network="judge.npz")
    figures = evaluation.evaluate(trained, wanted)
    # exp of the entropy of shares of .2, .2, .2 and .4 is 3.79; a tenth has 50 images.
    assert 3.3 < figures["classifier_score(judge,n=500)"] < 4
    np.testing.assert_array_equal(np.bincount(np.concatenate(drawn)), [100, 100, 100, 200])
    of_a_run = evaluation.Evaluator(dataclasses.replace(config, evaluation=wanted), trained.data_spec)
    assert of_a_run.evaluate(model) == figures


def resnet(folder):
    generator = np.random.default_rng(1)
    arrays = {name: np.abs(generator.standard_normal(s)) / 9 for name, s in features._resnet_shapes(1).items()}
    np.savez(folder / "resnet.npz", **{name: array.astype(np.float32) for name, array in arrays.items()})
    return str(folder / "resnet.npz")


def test_a_resnet_needs_no_labels(run, tmp_path):
    figures = evaluation.evaluate(run(with_labels=False), settings(tmp_path, feature_network=resnet(tmp_path)))
    assert {"frechet_distance(resnet8,n=70)", "classifier_score(resnet8,n=70)"} <= set(figures)
    assert "feature_network_accuracy" not in figures and not (tmp_path / "cache").exists()


def test_refusals(run, tmp_path):
    with pytest.raises(UsageError, match="has no labels to train a classifier with: give --feature_network"):
        evaluation.evaluate(run(with_labels=False), settings(tmp_path))
    with pytest.raises(UsageError, match="Inception weights or a feature network. Received: 'a.pb' and 'b.npz'"):
        evaluation.evaluate(run(), settings(tmp_path, inception_weights="a.pb", feature_network="b.npz"))
    ring = RunConfig()
    points = TrainedRun(ring, data.describe(ring.data), Model(), 3)
    with pytest.raises(UsageError, match="has points, which need no network; omit the weights. Received: 'b.npz'"):
        evaluation.evaluate(points, settings(tmp_path, feature_network="b.npz"))
    with pytest.raises(UsageError, match="`best_figure` of points must be none or one of modes_found, .*'recall' with"):
        evaluation.evaluate(points, settings(tmp_path, best_figure="recall"))
    few = EvaluationConfig(eval_samples=64, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(
        UsageError, match="has 64 features: .* --eval_samples=1000, which is --num_samples of .* Received: 64 samples"
    ):
        evaluation.Evaluator(dataclasses.replace(run().config, evaluation=few), run().data_spec)
    with pytest.raises(UsageError, match="`best_figure` of images must be none or one of frechet_distance, "):
        evaluation.evaluate(run(), settings(tmp_path, best_figure="modes_found"))


def test_images_that_are_not_the_runs_are_refused(run, tmp_path):
    """A folder that has grown since, or another prepared set of the same name."""
    trained = run()
    for shape in ((90, 6, 6, 1), (80, 8, 8, 1)):
        np.savez(tmp_path / "own.npz", images=np.zeros(shape, np.uint8), labels=np.arange(shape[0]) % 2)
        received = f"Received: {shape[0]} images of shape {shape[1:]}"
        with pytest.raises(UsageError, match=r"not those that the run was trained on, 80 of shape") as error:
            evaluation.evaluate(trained, settings(tmp_path, feature_network=resnet(tmp_path)))
        assert received in str(error.value)


def test_a_data_set_of_few_images_is_refused_before_a_classifier_is_trained(run, tmp_path):
    np.savez(tmp_path / "own.npz", images=np.zeros((64, 6, 6, 1), np.uint8), labels=np.arange(64) % 2)
    config = RunConfig(data=DataConfig(dataset=str(tmp_path / "own.npz")))
    trained = TrainedRun(config, data.describe(config.data), Model(), 3)
    with pytest.raises(UsageError, match="has 64 features: .* Received: a data set of 64 images"):
        evaluation.evaluate(trained, settings(tmp_path))
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_nothing_uses_is_told(run, tmp_path, caplog):
    evaluation.evaluate(run(), settings(tmp_path, feature_network=resnet(tmp_path)))
    assert "omit --cache_dir. Received: cache_dir=" in caplog.text


def test_figures_of_the_raw_generator_have_curves_of_their_own(tmp_path):
    figures = {"recall(judge,n=70)": 0.25, "generator": "averaged"}
    evaluation.record(str(tmp_path), 3, figures)
    evaluation.record(str(tmp_path), 3, {"recall(judge,n=70)": 0.5, "generator": "raw"})
    curves = {
        value.tag: float(tf.make_ndarray(value.tensor))
        for path in (tmp_path / "tensorboard").iterdir()
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    assert curves == {"2 quality/recall, judge,n=70": 0.25, "2 quality/raw_recall, judge,n=70": 0.5}


def test_every_best_figure_is_one_that_an_evaluation_has(run, tmp_path):
    ring = RunConfig()
    points = TrainedRun(
        ring, data.describe(ring.data), types.SimpleNamespace(seed=0, latent_dim=2, generate=scatter), 3
    )
    network = resnet(tmp_path)
    for trained, names, weights in ((points, BEST_OF_POINTS, None), (run(), BEST_OF_IMAGES, network)):
        figures = evaluation.evaluate(trained, settings(tmp_path, feature_network=weights, best_figure=names[0]))
        for name in names:
            full_name, value = evaluation.best_value(name, figures)
            assert full_name.partition("(")[0] == name and figures[full_name] == value


def scatter(latent, use_ema):
    return latent


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "resnet20"])
def test_a_figure_that_is_no_number_is_not_the_best(value):
    assert evaluation.best_value("recall", {"recall(x,n=7)": value}) is None
    assert evaluation.best_value("none", {"recall(x,n=7)": 0.5}) is None


def test_an_evaluator_is_used_again_and_equals_one_evaluation(run, tmp_path, monkeypatch):
    """Of other generators, against features of real images that are computed once."""
    trained, counted = run(), []
    extract = evaluation.report.extract_features
    monkeypatch.setattr(evaluation.report, "extract_features", lambda n, x: counted.append(len(x)) or extract(n, x))
    config = dataclasses.replace(trained.config, evaluation=settings(tmp_path))
    evaluator = evaluation.Evaluator(config, trained.data_spec)
    figures = [
        evaluator.evaluate(model) for model in (Model(), types.SimpleNamespace(seed=0, latent_dim=36, generate=raw))
    ]
    assert counted == [70, 70, 70]
    assert figures[0] == evaluation.evaluate(trained, settings(tmp_path))
    other = evaluation.evaluate(trained, settings(tmp_path), use_ema=False)
    assert figures[1] | {"generator": "raw"} == other and other != figures[0]


def raw(latent, use_ema):
    return Model().generate(latent, use_ema=False)
