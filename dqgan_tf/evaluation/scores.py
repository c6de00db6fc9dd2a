"""Scores of generated samples: the classifier score of images, and the modes that points cover."""

from typing import NamedTuple

import numpy as np

MINIMUM_SHARE = 0.25


class ModeCoverage(NamedTuple):
    """Result of `mode_coverage`.

    modes_found: number of modes that hold at least a quarter of their fair share of all samples.
    modes_touched: number of modes with at least one high-quality sample (the rule of VEEGAN and PacGAN).
    num_modes: number of modes, k.
    high_quality_fraction: fraction of all samples that have high quality, 0 to 1.
    counts: int64 [k], high-quality samples by their nearest mode.
    """

    modes_found: int
    modes_touched: int
    num_modes: int
    high_quality_fraction: float
    counts: np.ndarray


def mode_coverage(points, modes, radius: float) -> ModeCoverage:
    """Counts high-quality samples by mode.

    ```
    near(x)    = argmin_j |x - mode_j|
    counts_j   = #{x : near(x) = j, |x - mode_j| <= radius}
    found_j    = counts_j >= MINIMUM_SHARE * n / k
    touched_j  = counts_j >= 1
    ```

    `touched` is the rule of Srivastava et al. 2017 (VEEGAN, arXiv:1705.07761, sec. 4.1) and Lin et al. 2018 (PacGAN,
    arXiv:1712.04086), with radius = 3 standard deviations of a mode. One stray point among ten thousand satisfies it.
    The count to report is therefore `found`: a mode must hold a quarter of what a balanced generator would put on it,
    n / k. The share is taken of all samples, so that a generator that has collapsed to noise finds no mode.

    >>> coverage = mode_coverage([[0.1, 0.0], [0.0, 0.2], [2.0, 0.0]], modes=[[0.0, 0.0], [4.0, 0.0]], radius=0.5)
    >>> coverage.modes_found, coverage.num_modes, round(coverage.high_quality_fraction, 3)
    (1, 2, 0.667)

    Args:
      points: float [n, d], generated samples. A sample that is not finite never has high quality.
      modes: float [k, d], centres of the modes.
      radius: largest distance of a high-quality sample from its mode, in units of the data.

    Raises:
      ValueError: the shapes disagree, there is no sample, or the radius is not positive.
    """
    distances = _distances(points, modes)
    if not radius > 0:
        raise ValueError(f"`radius` must be positive. Received: radius={radius}")
    nearest = np.argmin(distances, axis=1)
    high_quality = np.min(distances, axis=1) <= radius
    counts = np.bincount(nearest[high_quality], minlength=len(modes))
    num_found = np.count_nonzero(counts >= MINIMUM_SHARE * distances.shape[0] / distances.shape[1])
    return ModeCoverage(
        int(num_found), int(np.count_nonzero(counts)), distances.shape[1], float(np.mean(high_quality)), counts
    )


def mode_distance(points, modes) -> float:
    """Returns the total variation between the shares of the modes among the samples and equal shares, 0 to 1 - 1/k.

    ```
    1/2 sum_j | #{x : near(x) = j} / n - 1/k |        near(x) = argmin_j |x - mode_j|
    ```

    Every sample counts for its nearest mode, however far away it is. A perfect generator does not reach 0: n samples of
    k equal shares give about sqrt(k / (2 pi n)), which is .011 for 8 modes and 10,000 samples, and .020 for 25.

    Args:
      points: float [n, d], generated samples. Those that are not finite count for no mode.
      modes: float [k, d], centres of the modes.

    Raises:
      ValueError: the shapes disagree, or there is no sample.
    """
    distances = _distances(points, modes)
    finite = np.isfinite(distances).all(axis=1)
    shares = np.bincount(np.argmin(distances[finite], axis=1), minlength=distances.shape[1]) / len(distances)
    return float(0.5 * np.sum(np.abs(shares - 1 / distances.shape[1])))


def _distances(points, modes):
    """Returns |x_i - mode_j|, float64 [n, k]."""
    points, modes = np.asarray(points, np.float64), np.asarray(modes, np.float64)
    if points.ndim != 2 or modes.ndim != 2 or points.shape[1] != modes.shape[1] or not (len(points) and len(modes)):
        raise ValueError(
            "`points` and `modes` must be [n, d] and [k, d] with n, k >= 1. "
            f"Received: points.shape={points.shape}, modes.shape={modes.shape}"
        )
    return np.linalg.norm(points[:, None, :] - modes[None, :, :], axis=-1)


def classifier_score(logits, num_splits: int = 10) -> tuple[float, float]:
    """Returns exp of the mean KL divergence between the classes of each image and the classes of its split.

    It is the Inception score (IS) if the classifier is Inception. Salimans et al. 2016, arXiv:1606.03498, sec. 4.

    ```
    log p_i = log_softmax(logits_i);   q = mean_{i in split} p_i
    score(split) = exp( mean_{i in split} sum_c p_ic (log p_ic - log q_c) )
    ```

    Split s holds the rows s n // splits to (s + 1) n // splits. Everything is computed in float64.

    Args:
      logits: float [n, classes] with n >= num_splits. The order of the images must not depend on their class.
      num_splits: number of splits (by convention 10).

    Returns:
      (mean, population standard deviation) over the splits. A score lies between 1 and the number of classes.

    Raises:
      ValueError: the shape is another one, or num_splits is below 1 or above n.
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or not logits.shape[1]:
        raise ValueError(f"`logits` must be [n, classes]. Received: shape={logits.shape}")
    if not 1 <= num_splits <= len(logits):
        raise ValueError(
            f"`num_splits` must be at least 1 and at most the number of rows ({len(logits)}). "
            f"Received: num_splits={num_splits}"
        )
    shifted = logits - np.max(logits, axis=1, keepdims=True)
    log_p = shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True))
    bounds = [split * len(logits) // num_splits for split in range(num_splits + 1)]
    scores = [_score(log_p[start:end]) for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(log_p):
    # log q is computed from logarithms alone: a class that has no weight in any image would give 0 * log 0.
    highest = np.max(log_p, axis=0)
    log_q = highest + np.log(np.mean(np.exp(log_p - highest), axis=0))
    return np.exp(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1)))
