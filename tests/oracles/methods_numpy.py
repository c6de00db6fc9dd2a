"""Further methods of M workers in float64, from their publications: each yields w [n] after every step.

As in `dqgan_numpy`, a game is F(w, step, worker) -> [n], and `quantize` is any function Q(vector [n]) -> decoded [n].
`baselines_numpy` has the methods without state on the workers.
"""

import numpy as np

from tests.oracles.baselines_numpy import adam_update, nothing


def ef21_sgdm(game, w0, workers, eta, steps, quantize, beta):
    """EF21-SGDM: Fatkhullin, Tyurin, Richtarik 2023, arXiv 2305.15155, algorithm 1.

    v^m = b v^m + (1-b) F(w; m);  c^m = Q(v^m - h^m);  h^m += c^m;  h += mean c;  w -= eta h. The publication starts
    from v = F(w_0); here v is divided by 1 - b^t, which gives the same first step.
    """
    w, momentum = np.array(w0, np.float64), np.zeros((workers, len(w0)))
    own, common = np.zeros((workers, len(w0))), np.zeros(len(w0))
    for t in range(1, steps + 1):
        momentum = beta * momentum + (1 - beta) * np.stack([game(w, t, m) for m in range(workers)])
        sent = np.stack([quantize(v / (1 - beta**t) - h) for v, h in zip(momentum, own, strict=True)])
        own, common = own + sent, common + sent.mean(axis=0)
        w = w - eta * common
        yield w


def shifted_feedback_adam(game, w0, workers, eta, steps, quantize, adam, rate):
    """`baselines_numpy.feedback_adam` with a learned shift s^m and its mean, rate a.

    p^m = e^m + F(w; m) - s^m;  c^m = Q(p^m);  e^m = p^m - c^m;  Adam's gradient is mean s + mean c;  s^m += a c^m.
    """
    w, moments, previous = np.array(w0, np.float64), nothing(w0), None
    residual, shift = np.zeros((workers, len(w))), np.zeros((workers, len(w)))
    for t in range(1, steps + 1):
        update = residual + np.stack([game(w, t, m) for m in range(workers)]) - shift
        decoded = np.stack([quantize(p) for p in update])
        residual, received = update - decoded, (shift + decoded).mean(axis=0)
        shift = shift + rate * decoded
        u, moments = adam_update(moments, received, adam)
        w = w - eta * (2 * u - (u if previous is None else previous))
        previous = u
        yield w


def two_step_feedback_adam(game, w0, workers, eta, steps, quantize, owners, adam):
    """`baselines_numpy.feedback_adam` with the exchange by shard owners: the owner encodes the mean once more.

    owners: [n], the worker that owns each value: its own update there is exact, and its residual there is M times the
      second error.
    """
    w, moments, previous = np.array(w0, np.float64), nothing(w0), None
    residual = np.zeros((workers, len(w)))
    for t in range(1, steps + 1):
        update = residual + np.stack([game(w, t, m) for m in range(workers)])
        decoded, own = np.stack([quantize(p) for p in update]), (owners, np.arange(len(w)))
        decoded[own] = update[own]
        mean = decoded.mean(axis=0)
        received = quantize(mean)
        residual = update - decoded
        residual[own] = workers * (mean - received)
        u, moments = adam_update(moments, received, adam)
        w = w - eta * (2 * u - (u if previous is None else previous))
        previous = u
        yield w


def discriminator_steps(game, w0, workers, eta, steps, quantize, adam, period, generator):
    """DQGAN with Adam, local second moment, in which the first `generator` values of w move at multiples of `period`.

    What rests is evaluated at its weights and has no gradient, no moment, no residual and no exchange.
    """
    n = len(w0)
    w, counts = np.array(w0, np.float64), np.zeros(n)
    residual, direction, first, second = (np.zeros((workers, n)) for _ in range(4))
    for t in range(1, steps + 1):
        moves = (np.arange(n) >= generator) | (t % period == 0)
        counts += moves
        half = np.where(moves, w - (eta * direction + residual), w)
        g = np.stack([game(half[m], t, m) for m in range(workers)])
        first = np.where(moves, adam.beta_1 * first + (1 - adam.beta_1) * g, first)
        second = np.where(moves, adam.beta_2 * second + (1 - adam.beta_2) * g**2, second)
        counted = np.maximum(counts, 1)
        scale = np.sqrt(second / (1 - adam.beta_2**counted)) + adam.epsilon
        direction = np.where(moves, first / (1 - adam.beta_1**counted) / scale, direction)
        update = eta * direction + residual
        decoded = np.stack([quantize(p) for p in update])
        residual = np.where(moves, update - decoded, residual)
        w = w - np.where(moves, decoded.mean(axis=0), 0.0)
        yield w
