"""What M replicas with one optimizer and a compressed mean compute, in float64, one replica after another.

Weights are one flat vector w [n]; arrays of replicas are [M, n]. A rule is any function (g [n], slots, t) -> (u [n],
slots): w <- w - u. A compressor is any function Q(x [n]) -> decoded.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class State:
    """After step t. w [n]; slots by name, [M, n], equal rows where the gradient is compressed; residual e, and what
    was encoded last, p, [M, n]; shift s [M, n] and its mean sbar [n]; points where the gradients were taken [M, n]."""

    t: int
    w: np.ndarray
    slots: dict[str, np.ndarray]
    residual: np.ndarray
    p: np.ndarray
    shift: np.ndarray
    mean_shift: np.ndarray
    points: np.ndarray


def sgd(learning_rate, momentum):
    """m <- b m - eta g;  w <- w + m."""

    def rule(g, slots, t):
        m = momentum * slots["momentum"] - learning_rate * g
        return -m, {"momentum": m}

    return rule, ("momentum",)


def adam(learning_rate, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  u = eta sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)."""

    def rule(g, slots, t):
        m = beta_1 * slots["momentum"] + (1 - beta_1) * g
        v = beta_2 * slots["velocity"] + (1 - beta_2) * g**2
        u = learning_rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (np.sqrt(v) + epsilon)
        return u, {"momentum": m, "velocity": v}

    return rule, ("momentum", "velocity")


def run(
    gradient: Callable,
    w0,
    workers: int,
    optimizer,
    quantizer: Callable,
    *,
    where: str,
    feedback: bool,
    steps: int,
    optimistic: bool = False,
    local_steps: int = 1,
    shift: float = 0.0,
) -> Iterator[State]:
    """Yields the state after every step; w, e, s and p change at every K-th one.

    Args:
      gradient: (w, t, replica) -> g [n] of that replica's own loss; t from 1.
      w0: [n].
      workers: M.
      optimizer: of `sgd` or `adam`.
      quantizer: Q.
      where: `gradient`: p = g + e - s, rule after the mean. `update`: p = sum of K u + e - s, rule before it.
      feedback: whether e is kept.
      steps: how many.
      optimistic: whether the gradients of replica m are taken u^m + e^m ahead, u^m its last update.
      local_steps: K.
      shift: a; s <- s + a Q(p), sbar <- sbar + a mean Q(p), w <- w - sbar - mean Q(p).
    """
    rule, names = optimizer
    zeros = np.zeros((workers, len(w0)))
    w, slots, e, s, mean_shift = np.array(w0, np.float64), dict.fromkeys(names, zeros), zeros, zeros, zeros[0]
    u = moved = p = zeros
    for t in range(1, steps + 1):
        points = w - moved - (u + e if optimistic else 0.0)
        x = np.stack([gradient(points[m], t, m) for m in range(workers)])
        if where == "update":
            results = [rule(x[m], {name: slot[m] for name, slot in slots.items()}, t) for m in range(workers)]
            u = np.stack([update for update, _ in results])
            slots = {name: np.stack([after[name] for _, after in results]) for name in names}
            x = moved = moved + u
        if t % local_steps == 0:
            p = x + e - s
            decoded = np.stack([quantizer(row) for row in p])
            mean = mean_shift + decoded.mean(0)
            e = p - decoded if feedback else zeros
            s, mean_shift, moved = s + shift * decoded, mean_shift + shift * decoded.mean(0), zeros
            if where == "gradient":
                mean, after = rule(mean, {name: slot[0] for name, slot in slots.items()}, t)
                slots = {name: np.tile(after[name], (workers, 1)) for name in names}
            w = w - mean
        yield State(t, w, slots, e, p, s, mean_shift, points)
