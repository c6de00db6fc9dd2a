"""How many modes of a known mixture a generator reaches, and how many of its samples lie on one."""

from typing import NamedTuple

import numpy as np

MINIMUM_SHARE = 0.25


class ModeCoverage(NamedTuple):
    """What `mode_coverage` returns.

    modes_found: modes that hold at least a quarter of their fair share of all samples, by samples of high quality.
    modes_touched: modes with at least one sample of high quality (the rule of VEEGAN and PacGAN).
    num_modes: k, the modes there are.
    high_quality_fraction: share of all samples that are of high quality, 0 to 1.
    counts: int64 [k], samples of high quality by their nearest mode.
    """

    modes_found: int
    modes_touched: int
    num_modes: int
    high_quality_fraction: float
    counts: np.ndarray


def mode_coverage(points, modes, radius: float) -> ModeCoverage:
    """Counts samples of high quality by mode.

    ```
    near(x)    = argmin_j |x - mode_j|
    counts_j   = #{x : near(x) = j, |x - mode_j| <= radius}
    found_j    = counts_j >= MINIMUM_SHARE * n / k
    touched_j  = counts_j >= 1
    ```

    `touched` is the rule of Srivastava et al. 2017 (VEEGAN, arXiv:1705.07761, sec. 4.1) and Lin et al. 2018 (PacGAN,
    arXiv:1712.04086), with radius = 3 standard deviations of a component. Of ten thousand samples one stray point
    satisfies it, so the count to report is `found`: a mode must hold a quarter of what a balanced generator would
    put on it, n / k. The share is of all samples, not of those of high quality: a generator that has collapsed to noise
    finds no mode.

    Args:
      points: float [n, d], generated samples. A non-finite sample is never of high quality.
      modes: float [k, d], centres of the modes.
      radius: distance of high quality, in units of the data.

    Returns:
      `ModeCoverage`.

    Raises:
      ValueError: shapes disagree, there is no sample, or a number is out of range.
    """
    points, modes = np.asarray(points, np.float64), np.asarray(modes, np.float64)
    _check(points, modes, radius)
    distances = np.linalg.norm(points[:, None, :] - modes[None, :, :], axis=-1)
    nearest = np.argmin(distances, axis=1)
    good = np.min(distances, axis=1) <= radius
    counts = np.bincount(nearest[good], minlength=len(modes))
    found = np.count_nonzero(counts >= MINIMUM_SHARE * len(points) / len(modes))
    return ModeCoverage(int(found), int(np.count_nonzero(counts)), len(modes), float(np.mean(good)), counts)


def _check(points, modes, radius):
    if points.ndim != 2 or modes.ndim != 2 or points.shape[1] != modes.shape[1] or not (len(points) and len(modes)):
        raise ValueError(
            "`points` and `modes` must be [n, d] and [k, d] with n, k >= 1. "
            f"Received: points.shape={points.shape}, modes.shape={modes.shape}"
        )
    if not radius > 0:
        raise ValueError(f"`radius` must be positive. Received: radius={radius}")
