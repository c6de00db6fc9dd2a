"""Figures by name: what an evaluation writes down.

Only figures taken with the published Inception graph are called FID, KID and IS. Any other network's name is part of
the figure's name: `frechet_distance(resnet20)`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dqgan_tf.evaluation import classifier_score, frechet, kernel, modes
from dqgan_tf.evaluation.features import base

INCEPTION_NAMES = {"frechet_distance": "FID", "kernel_distance": "KID", "classifier_score": "IS"}
Figures = dict[str, float | int | str]

KERNEL_SUBSET_SIZE = 1000
NUM_SPLITS = 10


class ImageFeatures(NamedTuple):
    """Features of a set of images.

    pool: float32 [n, d].
    logits: float32 [n, classes] or None.
    moments: of pool.
    """

    pool: np.ndarray
    logits: np.ndarray | None
    moments: frechet.Moments


def figure_name(figure: str, network: base.FeatureNetwork) -> str:
    """Returns what a figure taken with a network is called.

    Args:
      figure: `frechet_distance`, `kernel_distance` or `classifier_score`, with `_std` behind it for its deviation.
      network: that it is taken with.
    """
    stem = figure.removesuffix("_std")
    if network.is_inception:
        return INCEPTION_NAMES[stem] + figure[len(stem) :]
    return f"{figure}({network.name})"


def extract_features(network: base.FeatureNetwork, batches: Iterable) -> ImageFeatures:
    """Runs a network over batches of images, uint8 [b, h, w, c].

    Keeps 4 (d + classes) bytes an image in memory. To score many sets against one, extract the real ones once and use
    `score_features`.

    Raises:
      ValueError: the images do not fit the network, or there are not more of them than features.
    """
    accumulator, pools, logits = frechet.FeatureMoments(network.feature_size), [], []
    for batch in batches:
        features = network(batch)
        accumulator.update(features.pool)
        pools.append(features.pool)
        logits.append(features.logits)
    moments = accumulator.result()
    joined = None if logits[0] is None else np.concatenate(logits)
    return ImageFeatures(np.concatenate(pools), joined, moments)


def score_features(network: base.FeatureNetwork, real: ImageFeatures, fake: ImageFeatures, seed: int = 0) -> Figures:
    """Returns the figures of `evaluate_images` from features that were extracted before."""
    subset_size = min(KERNEL_SUBSET_SIZE, len(real.pool), len(fake.pool))
    mean, deviation = kernel.kernel_distance(real.pool, fake.pool, subset_size=subset_size, seed=seed)
    figures = {
        "frechet_distance": frechet.frechet_distance(*real.moments, *fake.moments),
        "kernel_distance": mean,
        "kernel_distance_std": deviation,
    }
    if fake.logits is not None:
        score, score_deviation = classifier_score.classifier_score(fake.logits, NUM_SPLITS)
        figures |= {"classifier_score": score, "classifier_score_std": score_deviation}
    named = {figure_name(figure, network): value for figure, value in figures.items()}
    return named | {
        "feature_network": network.name,
        "feature_network_sha256": network.fingerprint,
        "num_real": len(real.pool),
        "num_fake": len(fake.pool),
        "kernel_subset_size": subset_size,
    }


def evaluate_images(
    network: base.FeatureNetwork, real_batches: Iterable, fake_batches: Iterable, seed: int = 0
) -> Figures:
    """Compares generated images with real ones.

    Args:
      network: that features are taken with.
      real_batches, fake_batches: uint8 [b, h, w, c] each, b may differ; more images than `network.feature_size` on
        either side. Conventions: 50,000 against 50,000 for FID; 1,000 or more for KID's subsets, which are smaller
        (see `kernel_subset_size` in the result) when there are fewer images.
      seed: of the kernel distance's subsets.

    Returns:
      Numbers by name: `FID`, `KID`, `KID_std`, `IS`, `IS_std` for Inception; for any other network
      `frechet_distance(<name>)`, `kernel_distance(<name>)`, `kernel_distance_std(<name>)`, `classifier_score(<name>)`
      and `classifier_score_std(<name>)` (scores only from a classifier, of the generated images). Beside them
      `feature_network`, `feature_network_sha256`, `num_real`, `num_fake` and `kernel_subset_size`.

    Raises:
      ValueError: the images do not fit the network, or there are too few.
    """
    real = extract_features(network, real_batches)
    return score_features(network, real, extract_features(network, fake_batches), seed)


def evaluate_points(points, mode_centres, radius: float) -> Figures:
    """Returns `modes_found`, `modes_touched`, `num_modes`, `high_quality_fraction` and `num_fake` of generated points.

    Arguments and errors are those of `modes.mode_coverage`.
    """
    coverage = modes.mode_coverage(points, mode_centres, radius)
    figures = coverage._asdict()
    del figures["counts"]
    return figures | {"num_fake": len(points)}
