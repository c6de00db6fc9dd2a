"""Fréchet distance, kernel distance and classifier score written from the equations, slowly and plainly."""

import numpy as np
from scipy import linalg


def frechet_distance(mu1, sigma1, mu2, sigma2):
    """Heusel et al. 2017, arXiv:1706.08500, eq. 6, with a general matrix root of S1 S2."""
    root = linalg.sqrtm(np.asarray(sigma1, np.complex128) @ sigma2)
    return float(np.sum((mu1 - mu2) ** 2) + np.trace(sigma1 + sigma2 - 2.0 * root.real))


def polynomial_mmd2(x, y):
    """Bińkowski et al. 2018, arXiv:1801.01401, eq. 4, one pair at a time."""

    def kernel(a, b):
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / len(a) + 1.0) ** 3

    def within(z):
        return sum(kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) / (len(z) * (len(z) - 1))

    return within(x) + within(y) - 2.0 * sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))


def classifier_score(logits):
    """Salimans et al. 2016, arXiv:1606.03498, sec. 4: exp(H(mean p) - mean H(p)), of one split."""
    p = np.exp(logits) / np.sum(np.exp(logits), axis=1, keepdims=True)

    def entropy(distribution):
        return -np.sum(distribution * np.log(distribution), axis=-1)

    return float(np.exp(entropy(np.mean(p, axis=0)) - np.mean(entropy(p))))
