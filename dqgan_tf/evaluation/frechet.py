"""Fréchet distance between two Gaussians fitted to features: FID when the features are Inception's.

Heusel et al. 2017, arXiv:1706.08500, eq. 6; Dowson and Landau 1982.
"""

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Mean float64 [d] and covariance float64 [d, d] (ddof 1) of features."""

    mu: np.ndarray
    sigma: np.ndarray


class FeatureMoments:
    """Mean and covariance over batches, in float64, without keeping the features.

    With a batch of size m, mean c and scatter S = sum (x - c)(x - c)^T beside n, mu and M so far (Chan et al. 1979):

    ```
    delta = c - mu
    M  <- M + S + delta delta^T n m / (n + m)
    mu <- mu + delta m / (n + m)
    n  <- n + m
    ```

    Centring each batch keeps the digits that a sum of x x^T loses when the mean is large beside the spread.
    """

    def __init__(self, feature_size: int):
        """Starts empty.

        Args:
          feature_size: d, at least 1.

        Raises:
          ValueError: feature_size < 1.
        """
        if feature_size < 1:
            raise ValueError(f"`feature_size` must be at least 1. Received: feature_size={feature_size}")
        self.count = 0
        self._mean = np.zeros(feature_size)
        self._scatter = np.zeros((feature_size, feature_size))

    def update(self, features) -> None:
        """Adds features, float [b, d]; b = 0 changes nothing.

        Raises:
          ValueError: another shape, or a value that is not finite.
        """
        features = self._checked(features)
        if not len(features):
            return
        mean = np.mean(features, axis=0)
        centred, delta, total = features - mean, mean - self._mean, self.count + len(features)
        self._scatter += centred.T @ centred + np.outer(delta, delta) * (self.count * len(features) / total)
        self._mean += delta * (len(features) / total)
        self.count = total

    def result(self) -> Moments:
        """Returns the moments of everything added.

        Raises:
          ValueError: not more features than their size: the covariance would be singular.
        """
        if self.count <= len(self._mean):
            raise ValueError(
                "The number of images must exceed the feature size. "
                f"Received: images={self.count}, feature size={len(self._mean)}"
            )
        return Moments(self._mean.copy(), self._scatter / (self.count - 1))

    def _checked(self, features):
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or features.shape[1] != len(self._mean):
            raise ValueError(f"`features` must be [b, {len(self._mean)}]. Received: shape={features.shape}")
        if not np.all(np.isfinite(features)):
            raise ValueError("`features` must be finite. Received: a NaN or an infinity")
        return features


def moments(features) -> Moments:
    """Returns mean and covariance (ddof 1, float64) of float [n, d], n > d.

    Raises:
      ValueError: see `FeatureMoments`.
    """
    features = np.asarray(features)
    if features.ndim != 2:
        raise ValueError(f"`features` must be [n, d]. Received: shape={features.shape}")
    accumulator = FeatureMoments(features.shape[1])
    accumulator.update(features)
    return accumulator.result()


def frechet_distance(mu1, sigma1, mu2, sigma2) -> float:
    """Squared Fréchet (Wasserstein-2) distance of two Gaussians.

    ```
    |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1^{1/2} S2 S1^{1/2})^{1/2}
    ```

    The last trace is the sum of the roots of the eigenvalues of a symmetric matrix, which stays real where a general
    matrix root of S1 S2 turns complex. Eigenvalues below zero by rounding count as zero, and so does the result.

    Args:
      mu1, mu2: float [d].
      sigma1, sigma2: float [d, d], symmetric positive semi-definite.

    Returns:
      The distance, float64, at least 0, in squared units of the features.

    Raises:
      ValueError: shapes disagree.
    """
    mu1, sigma1, mu2, sigma2 = (np.asarray(value, np.float64) for value in (mu1, sigma1, mu2, sigma2))
    if mu1.ndim != 1 or mu1.shape != mu2.shape or not sigma1.shape == sigma2.shape == 2 * mu1.shape:
        shapes = [value.shape for value in (mu1, sigma1, mu2, sigma2)]
        raise ValueError(f"`mu1, sigma1, mu2, sigma2` must be [d], [d, d], [d], [d, d]. Received: shapes={shapes}")
    root = _symmetric_root(sigma1)
    eigenvalues = np.linalg.eigvalsh(_symmetric(root @ sigma2 @ root))
    cross = np.sum(np.sqrt(np.maximum(eigenvalues, 0.0)))
    distance = np.sum((mu1 - mu2) ** 2) + np.trace(sigma1) + np.trace(sigma2) - 2.0 * cross
    return float(max(distance, 0.0))


def _symmetric(matrix):
    return (matrix + matrix.T) / 2.0


def _symmetric_root(matrix):
    eigenvalues, vectors = np.linalg.eigh(_symmetric(matrix))
    return (vectors * np.sqrt(np.maximum(eigenvalues, 0.0))) @ vectors.T
