"""How good a trained generator is, by the measures that fit its data."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from dqgan_tf.data import images, labels
from dqgan_tf.evaluation import report
from dqgan_tf.evaluation.features import base, inception, resnet_cifar, small_classifier
from dqgan_tf.telemetry import image_grid
from dqgan_tf.telemetry.json_lines import JsonLinesWriter
from dqgan_tf.telemetry.tensorboard import TensorBoardWriter
from dqgan_tf.training import samples
from dqgan_tf.training.errors import UsageError
from dqgan_tf.training.restore import Trained

_BATCH = 500


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What to measure with.

    num_samples: generated and, where there are as many, real images that are compared.
    inception_weights: frozen graph of the Inception network of 2015-12-05; None for another judge.
    resnet_weights: npz of a CIFAR-10 ResNet; None for another judge.
    cache_dir: where the small classifier is kept that is trained when no weights are given.
    use_ema: judge the averaged generator rather than the raw one.
    """

    num_samples: int = 10000
    inception_weights: str | None = None
    resnet_weights: str | None = None
    cache_dir: str = os.path.join(os.path.expanduser("~"), ".cache", "dqgan_tf")
    use_ema: bool = True


def evaluate(trained: Trained, config: EvaluationConfig) -> report.Figures:
    """Returns named figures: mode coverage for points; distances and a score over a named network for images.

    Raises:
      UsageError: images without labels and without given weights.
      ValueError: weights that cannot be read, or too few samples.
    """
    if trained.data_spec.kind == "points":
        spec = trained.data_spec
        points = samples.draw(trained.model, config.num_samples, use_ema=config.use_ema)
        figures = report.evaluate_points(points, spec.modes, spec.high_quality_radius)
        return figures | {"generator": "averaged" if config.use_ema else "raw"}
    real = images.load(trained.config.data)
    network = feature_network(trained, config, real)
    chosen = _spread(real, config.num_samples)
    fake = image_grid.to_uint8(samples.draw(trained.model, config.num_samples, use_ema=config.use_ema))
    figures = report.evaluate_images(network, _batches(chosen), _batches(fake), seed=trained.config.train.seed)
    return figures | {"generator": "averaged" if config.use_ema else "raw"}


def feature_network(trained: Trained, config: EvaluationConfig, real: np.ndarray) -> base.FeatureNetwork:
    """Returns the judge: the given weights, or a small classifier trained on the data set and cached."""
    if config.inception_weights:
        return inception.load(config.inception_weights)
    if config.resnet_weights:
        return resnet_cifar.load(config.resnet_weights)
    classes = labels.load(trained.config.data)
    if classes is None:
        raise UsageError(f"{trained.data_spec.name!r} has no labels to train a judge on: give --inception_weights.")
    return small_classifier.train_or_load(config.cache_dir, trained.data_spec.name, real, classes)


def record(model_dir: str, step: int, figures: report.Figures) -> None:
    """Appends the figures to metrics.jsonl and to TensorBoard."""
    folder = pathlib.Path(model_dir)
    with JsonLinesWriter(folder / "metrics.jsonl", None) as metrics:
        metrics.write(step, figures)
    board = TensorBoardWriter(folder / "tensorboard")
    board.scalars(step, {f"evaluation/{k}": v for k, v in figures.items() if isinstance(v, int | float)})
    board.close()


def table(figures: report.Figures) -> str:
    """Returns the figures as lines of aligned text."""
    width = max(len(name) for name in figures)
    shown = {k: f"{v:.4f}" if isinstance(v, float) else str(v) for k, v in figures.items()}
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items())


def _spread(real, count):
    """`count` of the images, evenly spread over the set; all where there are fewer."""
    return real[np.linspace(0, len(real) - 1, min(count, len(real))).astype(int)]


def _batches(array) -> Iterator[np.ndarray]:
    for first in range(0, len(array), _BATCH):
        yield array[first : first + _BATCH]
