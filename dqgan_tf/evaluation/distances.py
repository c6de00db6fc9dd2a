"""Distances between the features of real and generated images.

Fréchet distance of two Gaussians: FID if the features are Inception's. Heusel et al. 2017, arXiv:1706.08500, eq. 6;
Dowson and Landau 1982. Kernel distance: KID if the features are Inception's. Bińkowski et al. 2018, arXiv:1801.01401,
sec. 4. Precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991. Everything is computed in float64.
"""

import numpy as np

from dqgan_tf.errors import UsageError

_ROWS = 1000  # rows that are converted to float64 at a time
_DISTANCE_ROWS = 200  # rows whose distances are in memory at a time; a cache holds them


def moments(features) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean float64 [d] and covariance float64 [d, d] (divided by n - 1) of features, float [n, d] with n > d.

    Raises:
      UsageError: n <= d, so that the covariance would be singular.
      ValueError: the shape is another one, or a value is not finite.
    """
    features = np.asarray(features)
    if features.ndim != 2:
        raise ValueError(f"`features` must be [n, d]. Received: shape={features.shape}")
    if not np.all(np.isfinite(features)):
        raise ValueError("`features` must be finite. Received: a NaN or an infinity")
    count, size = features.shape
    if count <= size:
        raise UsageError(
            f"The number of images must exceed the feature size; {size + 1} images work. "
            f"Received: images={count}, feature size={size}"
        )
    mean = np.asarray(np.mean(features, axis=0, dtype=np.float64))
    scatter = np.zeros((size, size))
    for first in range(0, count, _ROWS):
        # Centred first: a sum of x x^T would lose digits if the mean is large beside the spread.
        centred = features[first : first + _ROWS] - mean
        scatter += centred.T @ centred
    return mean, scatter / (count - 1)


def frechet_distance(mu1, sigma1, mu2, sigma2) -> float:
    """Returns the squared Fréchet (Wasserstein-2) distance of two Gaussians.

    ```
    |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1^{1/2} S2 S1^{1/2})^{1/2}
    ```

    The last trace is the sum of the roots of the eigenvalues of a symmetric matrix. It stays real where a general
    matrix root of S1 S2 becomes complex. Eigenvalues that rounding makes negative count as zero; so does the result.

    Args:
      mu1, mu2: float [d].
      sigma1, sigma2: float [d, d], symmetric positive semi-definite.

    Returns:
      The distance, at least 0, in squared units of the features.

    Raises:
      ValueError: the shapes disagree.
    """
    mu1, sigma1, mu2, sigma2 = (np.asarray(value, np.float64) for value in (mu1, sigma1, mu2, sigma2))
    if mu1.ndim != 1 or mu1.shape != mu2.shape or not sigma1.shape == sigma2.shape == 2 * mu1.shape:
        shapes = [value.shape for value in (mu1, sigma1, mu2, sigma2)]
        raise ValueError(f"`mu1, sigma1, mu2, sigma2` must be [d], [d, d], [d], [d, d]. Received: shapes={shapes}")
    eigenvalues, vectors = np.linalg.eigh(_symmetric(sigma1))
    root = (vectors * np.sqrt(np.maximum(eigenvalues, 0.0))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(_symmetric(root @ sigma2 @ root))
    cross = np.sum(np.sqrt(np.maximum(eigenvalues, 0.0)))
    distance = np.sum((mu1 - mu2) ** 2) + np.trace(sigma1) + np.trace(sigma2) - 2.0 * cross
    return float(max(distance, 0.0))


def polynomial_mmd2(x, y) -> float:
    """Returns the unbiased squared maximum mean discrepancy under k(a, b) = (a.b / d + 1)^3.

    ```
    sum_{i != j} k(x_i, x_j) / (m (m - 1)) + sum_{i != j} k(y_i, y_j) / (n (n - 1)) - 2 mean_{ij} k(x_i, y_j)
    ```

    Args:
      x, y: float [m, d] and [n, d] with m, n >= 2.

    Returns:
      The estimate. It is unbiased and can therefore be below 0.

    Raises:
      ValueError: the shapes disagree, or there are fewer than two rows.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"Both sets of features must be [n, d]. Received: shapes={x.shape}, {y.shape}")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"`x` and `y` must have at least 2 rows. Received: rows={len(x)}, {len(y)}")
    cross = _cubes(_linear_kernel(x, y)) / (len(x) * len(y))
    return float(_mean_off_diagonal(x) + _mean_off_diagonal(y) - 2.0 * cross)


def kernel_distance(real, fake, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Returns mean and standard deviation of `polynomial_mmd2` over random subsets.

    Args:
      real, fake: features float [n, d] and [m, d] with n, m >= subset_size.
      num_subsets: number of subsets (by convention 100).
      subset_size: rows of each subset, drawn without replacement (by convention 1000).
      seed: seed of the draws, at least 0.

    Returns:
      (mean, population standard deviation).

    Raises:
      ValueError: the shapes disagree, there are too few rows, or a number is out of range.
    """
    real, fake = np.asarray(real), np.asarray(fake)
    if num_subsets < 1:
        raise ValueError(f"`num_subsets` must be at least 1. Received: num_subsets={num_subsets}")
    if not 2 <= subset_size <= min(len(real), len(fake)):
        raise ValueError(
            f"`subset_size` must be at least 2 and at most the number of rows ({len(real)} real, {len(fake)} fake). "
            f"Received: subset_size={subset_size}"
        )
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(num_subsets):
        real_rows = generator.choice(len(real), subset_size, replace=False)
        fake_rows = generator.choice(len(fake), subset_size, replace=False)
        values.append(polynomial_mmd2(real[real_rows], fake[fake_rows]))
    return float(np.mean(values)), float(np.std(values))


def precision_recall(real, fake, k: int = 3) -> tuple[float, float]:
    """Returns the share of fake features near real ones (precision), and of real features near fake ones (recall).

    Kynkäänniemi et al. 2019, eq. 1 and 2. A feature f is near a set if some member s has |f - s| <= r(s), with r(s) the
    distance of s to its k-th nearest neighbour among the other members. Both shares depend on the numbers of features.

    Args:
      real, fake: float [n, d] and [m, d] with n, m > k.
      k: number of neighbours (3 in the paper).

    Raises:
      ValueError: the shapes disagree, or there are too few rows.
    """
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(f"Both sets of features must be [n, d]. Received: shapes={real.shape}, {fake.shape}")
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(f"`k` must be 1 or more and below the rows, {len(real)} and {len(fake)}. Received: k={k}")
    centre = np.mean(real, axis=0)  # Smaller numbers lose fewer digits in |a|^2 + |b|^2 - 2 a.b.
    real, fake = real - centre, fake - centre
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)
    is_precise, is_recalled = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    for first in range(0, len(real), _DISTANCE_ROWS):
        rows = slice(first, first + _DISTANCE_ROWS)
        squares = _squared_distances(real[rows], fake)
        is_precise |= np.any(squares <= real_radii[rows, np.newaxis], axis=0)
        is_recalled[rows] = np.any(squares <= fake_radii, axis=1)
    return float(np.mean(is_precise)), float(np.mean(is_recalled))


def _squared_radii(x, k):
    """Returns the squared distance of each row of x to its k-th nearest neighbour among the other rows."""
    radii = []
    for first in range(0, len(x), _DISTANCE_ROWS):
        squares = _squared_distances(x[first : first + _DISTANCE_ROWS], x)
        rows = np.arange(len(squares))
        squares[rows, first + rows] = np.inf
        squares.partition(k - 1, axis=1)
        radii.append(squares[:, k - 1].copy())
    return np.concatenate(radii)


def _squared_distances(a, b):
    squares = a @ b.T  # changed in place: new matrices take most of the time
    squares *= -2.0
    squares += np.sum(a * a, axis=1)[:, np.newaxis]
    squares += np.sum(b * b, axis=1)
    return np.maximum(squares, 0.0, out=squares)


def _symmetric(matrix):
    return (matrix + matrix.T) / 2.0


def _linear_kernel(x, y):
    linear = x @ y.T
    linear /= x.shape[1]
    linear += 1.0
    return linear


def _cubes(values):
    """Returns the sum of the cubes."""
    return np.vdot(values * values, values)  # `values**3` takes ten times as long


def _mean_off_diagonal(x):
    linear = _linear_kernel(x, x)
    return (_cubes(linear) - _cubes(np.diagonal(linear))) / (len(x) * (len(x) - 1))
