"""Evaluation of a trained generator: mode coverage of points; distances and scores of images."""

import dataclasses
import os
import pathlib

import numpy as np
import tensorflow as tf

from dqgan_tf.data import images
from dqgan_tf.errors import UsageError
from dqgan_tf.evaluation import features, report, small_classifier
from dqgan_tf.telemetry.json_lines import JsonLinesWriter
from dqgan_tf.telemetry.pictures import to_uint8
from dqgan_tf.training import samples
from dqgan_tf.training.restore import TrainedRun


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation.

    num_samples: number of generated images and, if the data set has as many, of real images to compare.
    inception_weights: frozen graph of the Inception network of 2015-12-05, or None.
    feature_network: npz of a CIFAR-10 ResNet, its folder, or a frozen graph; or None.
    cache_dir: folder of the small classifier that is trained if there are no weights.
    use_ema: evaluate the averaged generator rather than the raw one.
    """

    num_samples: int = 10000
    inception_weights: str | None = None
    feature_network: str | None = None
    cache_dir: str = os.path.join(os.path.expanduser("~"), ".cache", "dqgan_tf")
    use_ema: bool = True


def evaluate(run: TrainedRun, config: EvaluationConfig) -> report.Figures:
    """Returns figures by name: mode coverage of points; of images, distances and a score with a named network.

    Raises:
      UsageError: weights are given for points, given twice or unreadable; there are neither weights nor labels; or
        there are too few samples.
    """
    spec = run.data_spec
    weights = [path for path in (config.inception_weights, config.feature_network) if path]
    if weights and spec.kind == "points":
        raise UsageError(f"{spec.name!r} has points, which need no network; omit the weights. Received: {weights[0]!r}")
    if len(weights) > 1:
        raise UsageError(
            f"Give either Inception weights or a feature network. Received: {weights[0]!r} and {weights[1]!r}"
        )
    if (
        spec.modes is not None and spec.high_quality_radius is not None and spec.standard_deviation is not None
    ):  # points
        labels = samples.class_labels(spec, config.num_samples)
        points = samples.draw(run.model, config.num_samples, use_ema=config.use_ema, labels=labels)
        figures = report.evaluate_points(points, spec.modes, spec.high_quality_radius, spec.standard_deviation)
    else:
        real = images.load(run.config.data)
        network = feature_network(run, config, real)
        # Rows spread evenly over the set, which may be sorted by class.
        rows = np.linspace(0, len(real) - 1, min(config.num_samples, len(real))).astype(int)
        labels = None if spec.num_classes is None else images.load_labels(run.config.data)
        if labels is not None:  # the shares of the classes are those of the data
            labels = labels[np.linspace(0, len(labels) - 1, config.num_samples).astype(int)]
        fake = to_uint8(samples.draw(run.model, config.num_samples, use_ema=config.use_ema, labels=labels))
        figures = report.evaluate_images(network, real[rows], fake, seed=run.config.train.seed)
    return figures | {"generator": "averaged" if config.use_ema else "raw"}


def feature_network(run: TrainedRun, config: EvaluationConfig, real: np.ndarray) -> features.FeatureNetwork:
    """Returns the network of the given weights, or a small classifier trained on the data set and cached."""
    if config.inception_weights:
        return features.load_inception(config.inception_weights)
    if config.feature_network:
        return features.load(config.feature_network)
    labels = images.load_labels(run.config.data)
    if labels is None:
        name = run.data_spec.name
        raise UsageError(f"{name!r} has no labels to train a classifier with: give --feature_network.")
    return small_classifier.train_or_load(config.cache_dir, run.data_spec.name, real, labels)


def record(model_dir: str, step: int, figures: report.Figures) -> None:
    """Appends the figures to metrics.jsonl and to TensorBoard."""
    folder = pathlib.Path(model_dir)
    with JsonLinesWriter(folder / "metrics.jsonl", None) as metrics:
        metrics.write(step, figures)
    with tf.summary.create_file_writer(str(folder / "tensorboard")).as_default(step):
        for name, value in figures.items():
            if isinstance(value, int | float):
                tf.summary.scalar(f"evaluation/{name}", value)


def table(figures: report.Figures) -> str:
    """Returns the figures as lines of aligned text."""
    width = max(len(name) for name in figures)
    texts = {name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in figures.items()}
    return "\n".join(f"{name:<{width}}  {text}" for name, text in texts.items())
