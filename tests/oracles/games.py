"""Two small games with known equilibria, F(w, step, worker) in float64."""

import numpy as np


def bilinear(matrix):
    """min_x max_y x'Ay: F = (A y, -A' x). Equilibrium 0; plain simultaneous descent spirals outwards."""
    d = len(matrix)
    return lambda w, step, worker: np.concatenate([matrix @ w[d:], -matrix.T @ w[:d]])


def weakly_monotone(matrix, mu, noise=None, offsets=None):
    """Bilinear game plus mu w, plus noise[step - 1, worker], plus offsets[worker].

    noise: [T, M, n], drawn before, so that every method meets the same samples; or None.
    offsets: [M, n] whose mean over workers is 0 (heterogeneous shards), or None.
    """
    game = bilinear(matrix)

    def gradient(w, step, worker):
        drawn = 0.0 if noise is None else noise[step - 1, worker]
        shift = 0.0 if offsets is None else offsets[worker]
        return game(w, step, worker) + mu * w + drawn + shift

    return gradient


def gaussian_matrix(d, seed, scale=1.0):
    """A [d, d] with entries N(0, scale^2 / d): singular values between 0 and about 2 scale."""
    return scale * np.random.default_rng(seed).standard_normal((d, d)) / np.sqrt(d)


def centred_offsets(workers, n, scale, seed):
    """[M, n] of N(0, scale^2) with the mean over workers taken out."""
    offsets = scale * np.random.default_rng(seed).standard_normal((workers, n))
    return offsets - offsets.mean(axis=0)
