"""Figures by name, as an evaluation records them.

Only figures computed with the published Inception graph are called FID, KID and IS. The name of any other network is
part of the figure's name: `frechet_distance(resnet20)`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dqgan_tf.evaluation import distances, scores
from dqgan_tf.evaluation.features import FeatureNetwork

INCEPTION_NAMES = {"frechet_distance": "FID", "kernel_distance": "KID", "classifier_score": "IS"}
Figures = dict[str, float | int | str]

KERNEL_SUBSET_SIZE = 1000
NUM_SPLITS = 10


class ImageFeatures(NamedTuple):
    """Features of a set of images.

    pool: float32 [n, d].
    logits: float32 [n, classes] or None.
    moments: mean and covariance of pool.
    """

    pool: np.ndarray
    logits: np.ndarray | None
    moments: distances.Moments


def extract_features(network: FeatureNetwork, batches: Iterable) -> ImageFeatures:
    """Runs a network over batches of images, uint8 [b, h, w, c]. The result takes 4 (d + classes) bytes per image.

    Raises:
      UsageError: the images do not fit the network, or there are not more images than features.
    """
    accumulator, pools, logits = distances.FeatureMoments(network.feature_size), [], []
    for batch in batches:
        features = network(batch)
        accumulator.update(features.pool)
        pools.append(features.pool)
        logits.append(features.logits)
    moments = accumulator.result()
    return ImageFeatures(np.concatenate(pools), None if logits[0] is None else np.concatenate(logits), moments)


def evaluate_images(network: FeatureNetwork, real: ImageFeatures, fake: ImageFeatures, seed: int = 0) -> Figures:
    """Compares generated images with real ones.

    By convention FID compares 50,000 images with 50,000, and KID uses subsets of 1,000. With fewer images the subsets
    are smaller; see `kernel_subset_size` in the result.

    Args:
      network: the network that the features come from.
      real, fake: results of `extract_features`.
      seed: seed of the kernel distance's subsets.

    Returns:
      Numbers by name: `FID`, `KID`, `KID_std`, `IS`, `IS_std` for Inception; for any other network
      `frechet_distance(<name>)`, `kernel_distance(<name>)`, `kernel_distance_std(<name>)`, `classifier_score(<name>)`
      and `classifier_score_std(<name>)`. Scores are those of the generated images and need a classifier. Further
      entries are `feature_network`, `feature_network_sha256`, `num_real`, `num_fake` and `kernel_subset_size`.
    """
    subset_size = min(KERNEL_SUBSET_SIZE, len(real.pool), len(fake.pool))
    mean, deviation = distances.kernel_distance(real.pool, fake.pool, subset_size=subset_size, seed=seed)
    figures = {
        "frechet_distance": distances.frechet_distance(*real.moments, *fake.moments),
        "kernel_distance": mean,
        "kernel_distance_std": deviation,
    }
    if fake.logits is not None:
        score, score_deviation = scores.classifier_score(fake.logits, NUM_SPLITS)
        figures |= {"classifier_score": score, "classifier_score_std": score_deviation}
    return {_figure_name(figure, network): value for figure, value in figures.items()} | {
        "feature_network": network.name,
        "feature_network_sha256": network.fingerprint,
        "num_real": len(real.pool),
        "num_fake": len(fake.pool),
        "kernel_subset_size": subset_size,
    }


def evaluate_points(points, mode_centres, radius: float) -> Figures:
    """Returns `modes_found`, `modes_touched`, `num_modes`, `high_quality_fraction` and `num_fake` of generated points.

    Arguments and errors are those of `scores.mode_coverage`.
    """
    figures = scores.mode_coverage(points, mode_centres, radius)._asdict()
    del figures["counts"]
    return figures | {"num_fake": len(points)}


def _figure_name(figure, network):
    if not network.is_inception:
        return f"{figure}({network.name})"
    stem = figure.removesuffix("_std")
    return INCEPTION_NAMES[stem] + figure[len(stem) :]
