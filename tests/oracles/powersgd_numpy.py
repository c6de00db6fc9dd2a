"""PowerSGD with error feedback and random directions over M workers, numpy float64, by QR instead of Gram-Schmidt."""

import numpy as np


def step(matrices, queries, random):
    """One matrix of every worker. Returns (decoded of each worker, their mean, the next queries).

    Args:
      matrices: [workers, rows, cols].
      queries: [cols, rank].
      random: [rows, explore].
    """
    mean_projection = np.mean(matrices @ queries, axis=0)
    basis, _ = np.linalg.qr(np.concatenate([mean_projection, random], axis=1))
    coefficients = matrices.transpose(0, 2, 1) @ basis
    decoded = basis @ coefficients.transpose(0, 2, 1)
    mean = coefficients.mean(axis=0)
    norms = np.linalg.norm(mean, axis=0)
    chosen = np.argsort(-norms, kind="stable")[: queries.shape[1]]
    return decoded, basis @ mean.T, mean[:, chosen] / norms[chosen]


def best(matrix, rank):
    """The approximation of least squared error of that rank (Eckart and Young)."""
    u, s, v = np.linalg.svd(matrix)
    return (u[:, :rank] * s[:rank]) @ v[:rank]
