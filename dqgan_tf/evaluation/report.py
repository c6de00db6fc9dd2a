"""Figures by name, as an evaluation records them.

Only figures computed with the published Inception graph are called FID, KID and IS. The name of any other network is
part of the figure's name, and so is the number of generated images, because the Frechet distance falls with it:
`frechet_distance(resnet20, 10000)`, `FID(10000)`. `FID` alone is that of 50,000 images or more.
"""

import numpy as np

from dqgan_tf.evaluation import distances, scores
from dqgan_tf.evaluation.features import FeatureNetwork, Features

INCEPTION_NAMES = {"frechet_distance": "FID", "kernel_distance": "KID", "classifier_score": "IS"}
Figures = dict[str, float | int | str]

CONVENTION = 50_000
"""Number of generated images that FID, KID and IS stand for in the literature."""
BATCH_SIZE = 500
KERNEL_SUBSET_SIZE = 1000
NUM_SPLITS = 10


def extract_features(network: FeatureNetwork, images) -> Features:
    """Returns the `Features` of images, uint8 [n, h, w, c], which the network takes in batches.

    Raises:
      UsageError: the images do not fit the network.
    """
    batches = [network(images[first : first + BATCH_SIZE]) for first in range(0, len(images), BATCH_SIZE)]
    pools, logits = zip(*batches, strict=True)
    return Features(np.concatenate(pools), None if logits[0] is None else np.concatenate(logits))


def evaluate_images(network: FeatureNetwork, real_images, fake_images, seed: int = 0) -> Figures:
    """Compares generated images with real ones, uint8 [n, h, w, c]; see `evaluate_features`.

    Raises:
      UsageError: the images do not fit the network, or there are too few.
    """
    real, fake = extract_features(network, real_images), extract_features(network, fake_images)
    return evaluate_features(network, real, fake, seed)


def evaluate_features(network: FeatureNetwork, real: Features, fake: Features, seed: int = 0) -> Figures:
    """Compares the features of generated images with those of real ones.

    By convention FID compares 50,000 images with 50,000, and KID uses subsets of 1,000. With fewer images the subsets
    are smaller; see `kernel_subset_size` in the result. Precision and recall: `distances.precision_and_recall`.

    Args:
      network: the network that features are computed with.
      real, fake: its features. Either number of images must exceed `network.feature_size`.
      seed: seed of the kernel distance's subsets.

    Returns:
      Numbers by name. With n generated images: `FID(n)`, `KID(n)`, `KID_std(n)`, `IS(n)`, `IS_std(n)`, `precision(n)`,
      `recall(n)` for Inception, without `(n)` from 50,000 on; for any other network `frechet_distance(<name>, n)`,
      `kernel_distance(<name>, n)`, `kernel_distance_std(<name>, n)`, `classifier_score(<name>, n)`,
      `classifier_score_std(<name>, n)`, `precision(<name>, n)` and `recall(<name>, n)`. Scores are those of the
      generated images and need a classifier. Further entries are `feature_network`, `feature_network_sha256`,
      `num_real`, `num_fake` and `kernel_subset_size`.

    Raises:
      UsageError: there are too few images.
    """
    frechet = distances.frechet_distance(*distances.moments(real.pool), *distances.moments(fake.pool))
    subset_size = min(KERNEL_SUBSET_SIZE, len(real.pool), len(fake.pool))
    kernel, deviation = distances.kernel_distance(real.pool, fake.pool, subset_size=subset_size, seed=seed)
    figures: Figures = {"frechet_distance": frechet, "kernel_distance": kernel, "kernel_distance_std": deviation}
    if fake.logits is not None:
        score, score_deviation = scores.classifier_score(fake.logits, NUM_SPLITS)
        figures |= {"classifier_score": score, "classifier_score_std": score_deviation}
    figures["precision"], figures["recall"] = distances.precision_and_recall(real.pool, fake.pool)
    return {figure_name(figure, network, len(fake.pool)): value for figure, value in figures.items()} | {
        "feature_network": network.name,
        "feature_network_sha256": network.fingerprint,
        "num_real": len(real.pool),
        "num_fake": len(fake.pool),
        "kernel_subset_size": subset_size,
    }


def evaluate_points(points, mode_centres, radius: float, standard_deviation: float) -> Figures:
    """Counts generated points near the modes of a mixture, within two radii.

    The literature counts within 3 standard deviations of a mode (Srivastava et al. 2017, arXiv:1705.07761). A wider
    radius also distinguishes short runs.

    Args:
      points, mode_centres: see `scores.mode_coverage`.
      radius: the wide radius, in units of the data.
      standard_deviation: of a mode along each axis.

    Returns:
      `modes_found`, `modes_touched`, `high_quality_fraction` within `high_quality_radius`; `modes_found_3_sd`,
      `modes_touched_3_sd`, `high_quality_fraction_3_sd` within `radius_3_sd`; `mode_distance`; `num_modes`; `num_fake`.

    Raises:
      ValueError: see `scores.mode_coverage`.
    """
    figures: Figures = {"num_modes": len(mode_centres), "num_fake": len(points)}
    for end, within in (("", radius), ("_3_sd", 3 * standard_deviation)):
        coverage = scores.mode_coverage(points, mode_centres, within)
        figures[f"modes_found{end}"] = coverage.modes_found
        figures[f"modes_touched{end}"] = coverage.modes_touched
        figures[f"high_quality_fraction{end}"] = coverage.high_quality_fraction
    figures |= {"high_quality_radius": float(radius), "radius_3_sd": 3 * float(standard_deviation)}
    return figures | {"mode_distance": scores.mode_distance(points, mode_centres)}


def figure_name(figure: str, network: FeatureNetwork, count: int) -> str:
    """Returns the name of a figure, such as `frechet_distance`, with its network and number of generated images."""
    if not network.is_inception:
        return f"{figure}({network.name}, {count})"
    stem = figure.removesuffix("_std")
    name = INCEPTION_NAMES.get(stem, stem) + figure[len(stem) :]
    return name if count >= CONVENTION else f"{name}({count})"
