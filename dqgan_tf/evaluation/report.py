"""Figures by name, as an evaluation records them.

A figure's name contains its network and its number of images: `frechet_distance(resnet20,n=10000)`, or
`frechet_distance(resnet20,real=1000,fake=10000)`, because figures of other networks or numbers are not comparable. Only
figures computed with the published Inception graph are called FID, KID and IS: `FID(n=10000)`, and `FID` for the 50,000
real and generated images of the literature.
"""

import numpy as np

from dqgan_tf.evaluation import distances, scores
from dqgan_tf.evaluation.features import FeatureNetwork, Features

INCEPTION_NAMES = {"frechet_distance": "FID", "kernel_distance": "KID", "classifier_score": "IS"}
Figures = dict[str, float | int | str]

BATCH_SIZE = 500
CONVENTIONAL_NUMBER = 50_000  # usual number of images for FID, KID and IS
KERNEL_SUBSET_SIZE = 1000
NUM_NEIGHBOURS = 3
NUM_SPLITS = 10


def extract_features(network: FeatureNetwork, images) -> Features:
    """Returns the `Features` of images, uint8 [n, h, w, c], which the network takes in batches.

    Raises:
      UsageError: the images do not fit the network.
    """
    batches = [network(images[first : first + BATCH_SIZE]) for first in range(0, len(images), BATCH_SIZE)]
    pools, logits = zip(*batches, strict=True)
    return Features(np.concatenate(pools), None if logits[0] is None else np.concatenate(logits))


def compare_features(network: FeatureNetwork, real: Features, fake: Features, seed: int = 0) -> Figures:
    """Compares generated images with real ones by the features that a network has computed of them.

    KID uses subsets of 1,000 images by convention. With fewer images the subsets are smaller; see `kernel_subset_size`
    in the result. Precision and recall take the 3 nearest neighbours.

    Args:
      network: the network that the features are computed with.
      real, fake: what `extract_features` returns. The number of images of either must exceed `network.feature_size`.
      seed: seed of the kernel distance's subsets.

    Returns:
      Numbers by name: `FID`, `KID`, `KID_std`, `IS`, `IS_std` for Inception, for any other network
      `frechet_distance`, `kernel_distance`, `kernel_distance_std`, `classifier_score` and `classifier_score_std`; for
      each network `precision` and `recall`; each with network and number of images as above. Scores are those of the
      generated images and need a classifier. Further entries are `feature_network`, `feature_network_sha256`,
      `num_real`, `num_fake`, `kernel_subset_size`, and `feature_network_accuracy` if it is known.

    Raises:
      UsageError: there are too few images.
    """
    frechet = distances.frechet_distance(*distances.moments(real.pool), *distances.moments(fake.pool))
    subset_size = min(KERNEL_SUBSET_SIZE, len(real.pool), len(fake.pool))
    kernel, deviation = distances.kernel_distance(real.pool, fake.pool, subset_size=subset_size, seed=seed)
    precision, recall = distances.precision_recall(real.pool, fake.pool, NUM_NEIGHBOURS)
    figures: Figures = {"frechet_distance": frechet, "kernel_distance": kernel, "kernel_distance_std": deviation}
    figures |= {"precision": precision, "recall": recall}
    if fake.logits is not None:
        score, score_deviation = scores.classifier_score(fake.logits, NUM_SPLITS)
        figures |= {"classifier_score": score, "classifier_score_std": score_deviation}
    numbers = len(real.pool), len(fake.pool)
    accuracy = {} if network.accuracy is None else {"feature_network_accuracy": network.accuracy}
    return (
        {_figure_name(figure, network, *numbers): value for figure, value in figures.items()}
        | accuracy
        | {
            "feature_network": network.name,
            "feature_network_sha256": network.fingerprint,
            "num_real": len(real.pool),
            "num_fake": len(fake.pool),
            "kernel_subset_size": subset_size,
        }
    )


def evaluate_points(points, mode_centres, radius: float, standard_deviation: float) -> Figures:
    """Counts generated points near the modes of a mixture, within two radii.

    The literature counts within 3 standard deviations of a mode (Srivastava et al. 2017, arXiv:1705.07761). A wider
    radius also distinguishes short runs.

    Args:
      points, mode_centres: see `scores.mode_coverage`.
      radius: the wide radius, in units of the data.
      standard_deviation: standard deviation of a mode along each axis.

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


def _figure_name(figure, network, num_real, num_fake):
    is_score = figure.startswith("classifier_score")  # of the generated images alone
    number = f"n={num_fake}" if is_score or num_real == num_fake else f"real={num_real},fake={num_fake}"
    stem = figure.removesuffix("_std")
    if not network.is_inception or stem not in INCEPTION_NAMES:
        return f"{figure}({network.name},{number})"
    name = INCEPTION_NAMES[stem] + figure[len(stem) :]
    return name if number == f"n={CONVENTIONAL_NUMBER}" else f"{name}({number})"
