"""Evaluation of a trained generator: mode coverage of points; distances and scores of images."""

import dataclasses
import math
import os
import pathlib

import numpy as np
import tensorflow as tf

from dqgan_tf.config import BEST_OF_IMAGES, BEST_OF_POINTS, EvaluationConfig, RunConfig
from dqgan_tf.data import DataSpec, images
from dqgan_tf.errors import UsageError
from dqgan_tf.evaluation import features, report, small_classifier
from dqgan_tf.fields import warn_once
from dqgan_tf.telemetry import tensorboard
from dqgan_tf.telemetry.json_lines import JsonLinesWriter
from dqgan_tf.training import samples
from dqgan_tf.training.restore import TrainedRun

DEFAULT_CACHE = os.path.join("~", ".cache", "dqgan_tf")


class Evaluator:
    """Computes figures of generators. Images are compared with real images, whose features are computed once.

    Args:
      config: settings of the run; its `evaluation` says how.
      spec: description of the run's data.

    Raises:
      UsageError: weights are given for points, given twice or unreadable; there are neither weights nor labels;
        the data set cannot be read or has other images than the run's; or there are no more images than features.
    """

    def __init__(self, config: RunConfig, spec: DataSpec):
        check(config.evaluation, spec)
        samples.check_memory(spec, config.evaluation.eval_samples)
        self._config, self._spec = config.evaluation, spec
        self._seed = config.train.seed
        if spec.kind == "points":
            return
        count, (real, labels) = config.evaluation.eval_samples, images.load_with_labels(config.data)
        if real.shape != (spec.num_examples, *spec.shape):
            raise UsageError(
                f"The images of {config.data.dataset!r} are not those that the run was trained on, {spec.num_examples} "
                f"of shape {spec.shape}: give these by --data_dir, or by --dataset of trainers.evaluate. "
                f"Received: {len(real)} images of shape {real.shape[1:]}"
            )
        self._network = _load_network(config, spec, real, labels)
        # Rows spread evenly over the set, which may be sorted by class.
        rows = np.linspace(0, len(real) - 1, min(count, len(real))).astype(int)
        _check_counts(self._network.name, self._network.feature_size, count, len(real))
        self._real = report.extract_features(self._network, real[rows])
        self._labels = None
        if spec.num_classes is not None and labels is not None:
            # The shares of the classes among the generated images are those of the data. Their order is not: the
            # classifier score takes consecutive images for a sample of all classes, and data may be sorted by class.
            chosen = labels[np.linspace(0, len(labels) - 1, count).astype(int)]
            self._labels = np.random.default_rng(0).permutation(chosen)

    def evaluate(self, model, *, use_ema: bool = True) -> report.Figures:
        """Returns figures by name: mode coverage of points; of images, distances and a score with a named network.

        Args:
          model: a `DQGAN`, which does not change.
          use_ema: evaluate the averaged generator rather than the raw one.

        Raises:
          UsageError: there are too few samples for the network.
        """
        spec, count = self._spec, self._config.eval_samples
        if (
            spec.modes is not None and spec.high_quality_radius is not None and spec.standard_deviation is not None
        ):  # points
            labels = samples.class_labels(spec, count)
            points = samples.draw(model, count, use_ema=use_ema, labels=labels)
            figures = report.evaluate_points(points, spec.modes, spec.high_quality_radius, spec.standard_deviation)
        else:
            drawn = samples.draw(model, count, use_ema=use_ema, labels=self._labels, as_bytes=True)
            fake = report.extract_features(self._network, drawn)
            figures = report.compare_features(self._network, self._real, fake, self._seed)
        return figures | {"generator": "averaged" if use_ema else "raw"}


def check(config: EvaluationConfig, spec: DataSpec) -> None:
    """Raises UsageError if the settings do not fit each other or the data."""
    weights = [path for path in (config.inception_weights, config.feature_network) if path]
    if weights and spec.kind == "points":
        raise UsageError(f"{spec.name!r} has points, which need no network; omit the weights. Received: {weights[0]!r}")
    if len(weights) > 1:
        raise UsageError(
            f"Give either Inception weights or a feature network. Received: {weights[0]!r} and {weights[1]!r}"
        )
    if config.cache_dir and (weights or spec.kind == "points"):
        warn_once(
            "No small classifier is used, so that nothing is cached: omit --cache_dir. "
            f"Received: cache_dir={config.cache_dir!r}"
        )
    figures = BEST_OF_POINTS if spec.kind == "points" else BEST_OF_IMAGES
    if config.best_figure not in ("none", *figures):
        raise UsageError(
            f"`best_figure` of {spec.kind} must be none or one of {', '.join(figures)}. "
            f"Received: best_figure={config.best_figure!r} with {spec.name!r}"
        )


def best_value(name: str, figures: report.Figures) -> tuple[str, float] | None:
    """Returns full name and value of the figure that --best_figure=`name` means.

    >>> best_value("frechet_distance", {"FID(n=10000)": 12.5, "FID_std": 0.5, "recall(resnet20,n=70)": 0.25})
    ('FID(n=10000)', 12.5)

    None if there is none, or its value is not finite.
    """
    for full_name, value in figures.items():
        stem = full_name.partition("(")[0]
        if stem in (name, report.INCEPTION_NAMES.get(name)) and isinstance(value, int | float) and math.isfinite(value):
            return full_name, float(value)
    return None


def evaluate(run: TrainedRun, config: EvaluationConfig, *, use_ema: bool = True) -> report.Figures:
    """Returns the figures of a run's generator; see `Evaluator`."""
    run_config = dataclasses.replace(run.config, evaluation=config)
    return Evaluator(run_config, run.data_spec).evaluate(run.model, use_ema=use_ema)


def _load_network(run_config, spec, real, labels):
    config = run_config.evaluation
    if config.inception_weights:
        return features.load_inception(config.inception_weights)
    if config.feature_network:
        return features.load(config.feature_network)
    if labels is None:
        raise UsageError(f"{spec.name!r} has no labels to train a classifier with: give --feature_network.")
    cache = config.cache_dir or os.path.expanduser(DEFAULT_CACHE)
    _check_counts("The small classifier", small_classifier.FEATURE_SIZE, config.eval_samples, len(real))
    return small_classifier.train_or_load(cache, spec.name, real, labels)


def _check_counts(name, size, count, available):
    """Raises UsageError if the covariance of features would lack rank, of generated or of real images."""
    needed = f"{name} has {size} features: an evaluation needs more images than that, real ones and generated ones."
    if available <= size:
        raise UsageError(f"{needed} Received: a data set of {available} images")
    if count <= size:
        raise UsageError(
            f"{needed} Give --eval_samples={max(1000, 2 * size)}, which is --num_samples of trainers.evaluate. "
            f"Received: {count} samples"
        )


def record(model_dir: str, step: int, figures: report.Figures, *, is_newest: bool = True) -> None:
    """Appends the figures to metrics.jsonl and, if they are of the newest checkpoint, to TensorBoard.

    TensorBoard would drop the points of a curve behind an older step. Figures of the raw generator have curves of their
    own.
    """
    folder = pathlib.Path(model_dir)
    with JsonLinesWriter(folder / "metrics.jsonl", None) as metrics:
        metrics.write(step, figures)
    if not is_newest:
        return
    with tf.summary.create_file_writer(str(folder / "tensorboard")).as_default(step):
        is_raw = figures.get("generator") == "raw"
        tensorboard.write_evaluation({f"raw_{name}": value for name, value in figures.items()} if is_raw else figures)


def table(figures: report.Figures) -> str:
    """Returns the figures as lines of aligned text."""
    width = max(len(name) for name in figures)
    texts = {name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in figures.items()}
    return "\n".join(f"{name:<{width}}  {text}" for name, text in texts.items())
