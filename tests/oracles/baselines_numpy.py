"""The methods DQGAN is compared with, on the mean gradient of M workers, float64: each yields w after every step."""

import dataclasses

import numpy as np

from tests.oracles.dqgan_numpy import Adam

ADAM = Adam()


@dataclasses.dataclass(frozen=True)
class Moments:
    """m, v [n] after `count` updates."""

    count: int
    first: np.ndarray
    second: np.ndarray


def adam_update(moments: Moments, g, adam: Adam):
    """Returns (u, new moments): u = (m / (1-b1^count)) / (sqrt(v / (1-b2^count)) + eps)."""
    count = moments.count + 1
    first = adam.beta_1 * moments.first + (1 - adam.beta_1) * g
    second = adam.beta_2 * moments.second + (1 - adam.beta_2) * g**2
    u = first / (1 - adam.beta_1**count) / (np.sqrt(second / (1 - adam.beta_2**count)) + adam.epsilon)
    return u, Moments(count, first, second)


def mean_gradient(game, w, t, workers, quantize=None):
    """(1/M) sum_m Q(F(w; m)) with nothing remembered of what Q dropped."""
    gradients = [game(w, t, m) for m in range(workers)]
    return np.mean([g if quantize is None else quantize(g) for g in gradients], axis=0)


def sgda(game, w0, workers, eta, steps):
    """w <- w - eta mean F(w)."""
    w = np.array(w0, np.float64)
    for t in range(1, steps + 1):
        w = w - eta * mean_gradient(game, w, t, workers)
        yield w


def sim_adam(game, w0, workers, eta, steps, adam=ADAM):
    """w <- w - eta u_t, u Adam's direction of the mean gradient at w."""
    w, moments = np.array(w0, np.float64), nothing(w0)
    for t in range(1, steps + 1):
        u, moments = adam_update(moments, mean_gradient(game, w, t, workers), adam)
        w = w - eta * u
        yield w


def cpo_adam(game, w0, workers, eta, steps, adam=ADAM, quantize=None):
    """w <- w - eta (2 u_t - u_{t-1}), u_0 = u_1: the first step is a plain one. With `quantize` it is CPOAdam-GQ."""
    w, moments, previous = np.array(w0, np.float64), nothing(w0), None
    for t in range(1, steps + 1):
        u, moments = adam_update(moments, mean_gradient(game, w, t, workers, quantize), adam)
        w = w - eta * (2 * u - (u if previous is None else previous))
        previous = u
        yield w


def feedback_adam(game, w0, workers, eta, steps, quantize, adam=ADAM):
    """Optimistic Adam after the average, error feedback in gradient units: what section 3 warns against.

    p^m = F(w; m) + e^m; e^m = p^m - Q(p^m); u = Adam(mean Q(p)); w <- w - eta (2 u_t - u_{t-1}).
    """
    w, moments, previous = np.array(w0, np.float64), nothing(w0), None
    residual = np.zeros((workers, len(w)))
    for t in range(1, steps + 1):
        update = residual + np.stack([game(w, t, m) for m in range(workers)])
        decoded = np.stack([quantize(p) for p in update])
        residual = update - decoded
        u, moments = adam_update(moments, decoded.mean(axis=0), adam)
        w = w - eta * (2 * u - (u if previous is None else previous))
        previous = u
        yield w


def extra_adam(game, w0, workers, eta, steps, adam=ADAM):
    """w_half = w - eta u(mean F(w)); w <- w - eta u(mean F(w_half)); moments updated at both, counts 2t-1 and 2t.

    The two gradients of step t are asked of the game as steps 2t-1 and 2t: two samples.
    """
    w, moments = np.array(w0, np.float64), nothing(w0)
    for t in range(1, steps + 1):
        u, moments = adam_update(moments, mean_gradient(game, w, 2 * t - 1, workers), adam)
        half = w - eta * u
        u, moments = adam_update(moments, mean_gradient(game, half, 2 * t, workers), adam)
        w = w - eta * u
        yield w


def nothing(w0):
    """Moments before the first update."""
    return Moments(0, np.zeros(len(w0)), np.zeros(len(w0)))
