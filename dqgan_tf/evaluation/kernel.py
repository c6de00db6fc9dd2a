"""Kernel distance between two sets of features: KID when the features are Inception's.

Bińkowski et al. 2018, arXiv:1801.01401, sec. 4.
"""

import numpy as np


def polynomial_mmd2(x, y) -> float:
    """Unbiased squared maximum mean discrepancy under k(a, b) = (a.b / d + 1)^3.

    ```
    sum_{i != j} k(x_i, x_j) / (m (m - 1)) + sum_{i != j} k(y_i, y_j) / (n (n - 1)) - 2 mean_{ij} k(x_i, y_j)
    ```

    Args:
      x, y: float [m, d] and [n, d] with m, n >= 2; computed in float64.

    Returns:
      The estimate, float64. It is unbiased, so it can be below 0.

    Raises:
      ValueError: shapes disagree or fewer than two rows.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    _check_pair(x, y)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"`x` and `y` must have at least 2 rows. Received: rows={len(x)}, {len(y)}")
    return float(_mean_off_diagonal(x) + _mean_off_diagonal(y) - 2.0 * np.mean(_kernel(x, y)))


def kernel_distance(real, fake, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Mean and population standard deviation of `polynomial_mmd2` over random subsets.

    Each subset draws `subset_size` rows without replacement from either side.

    Args:
      real, fake: float [n, d] and [m, d], features with n, m >= subset_size.
      num_subsets: how many subsets (the convention is 100).
      subset_size: rows of each (the convention is 1000).
      seed: of the draws, at least 0.

    Returns:
      (mean, standard deviation), float64.

    Raises:
      ValueError: shapes disagree, too few rows, or a number is out of range.
    """
    real, fake = np.asarray(real), np.asarray(fake)
    _check_pair(real, fake)
    if num_subsets < 1:
        raise ValueError(f"`num_subsets` must be at least 1. Received: num_subsets={num_subsets}")
    if not 2 <= subset_size <= min(len(real), len(fake)):
        raise ValueError(
            f"`subset_size` must be at least 2 and at most the rows there are ({len(real)} real, {len(fake)} fake). "
            f"Received: subset_size={subset_size}"
        )
    generator = np.random.default_rng(seed)
    values = [_on_subset(real, fake, subset_size, generator) for _ in range(num_subsets)]
    return float(np.mean(values)), float(np.std(values))


def _on_subset(real, fake, size, generator):
    chosen_real = generator.choice(len(real), size, replace=False)
    chosen_fake = generator.choice(len(fake), size, replace=False)
    return polynomial_mmd2(real[chosen_real], fake[chosen_fake])


def _kernel(x, y):
    linear = x @ y.T / x.shape[1] + 1.0
    return linear * linear * linear  # a power is ten times slower


def _mean_off_diagonal(x):
    kernel = _kernel(x, x)
    return (np.sum(kernel) - np.trace(kernel)) / (len(x) * (len(x) - 1))


def _check_pair(x, y):
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"Both sets of features must be [n, d]. Received: shapes={x.shape}, {y.shape}")
