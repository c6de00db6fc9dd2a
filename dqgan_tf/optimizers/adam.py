"""Adam's preconditioned momentum as direction, taken on the worker before compression."""

import dataclasses

import tensorflow as tf

SECOND_MOMENTS = ("local", "averaged", "guarded")
_EARLY_STEPS = frozenset({1, 2, 4, 8, 16, 32, 64})


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) with per-worker moments and a choice of second moment V.

        m_t = beta_1 m_{t-1} + (1 - beta_1) g_t;   v_t = beta_2 v_{t-1} + (1 - beta_2) g_t^2
        u_t = (m_t / (1 - beta_1^t)) / (sqrt(V_t) + epsilon)

    second_moment:
      local: V_t = v_t / (1 - beta_2^t), this worker's own.
      averaged: V_t = mean over workers of v_s / (1 - beta_2^s), s the latest averaging step; removes the bias that
        heterogeneous shards give `local`.
      guarded: the elementwise maximum of `averaged` and `local`, since an old average can be far too small.
    Averaging steps are t = 1, 2, 4, ..., 64 and every multiple of `second_moment_period`. Where the average is exactly
    0, as before the first one that was accepted, V is this worker's own: dividing by epsilon alone would throw the
    weight away.

    Preconditioning before compression keeps residuals in parameter units and never divides by the second moment of a
    value that was compressed to zero. The same division protects a coordinate without gradient: 0 / (0 + epsilon) = 0.

    Raises:
      ValueError: beta outside [0, 1), epsilon not positive, unknown second_moment, period below 1.
    """

    beta_1: float = 0.5
    beta_2: float = 0.9
    epsilon: float = 1e-8
    second_moment: str = "local"
    second_moment_period: int = 100

    def __post_init__(self):
        for name in ("beta_1", "beta_2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"`{name}` must lie in [0, 1). Received: {name}={getattr(self, name)}")
        if not self.epsilon > 0:
            raise ValueError(f"`epsilon` must be positive. Received: epsilon={self.epsilon}")
        if self.second_moment not in SECOND_MOMENTS:
            raise ValueError(
                f"`second_moment` must be one of {SECOND_MOMENTS}. Received: second_moment={self.second_moment!r}"
            )
        if self.second_moment_period < 1:
            raise ValueError(
                f"`second_moment_period` must be at least 1. Received: second_moment_period={self.second_moment_period}"
            )

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the state vectors, each float32 [n] and zero at the start."""
        return ("m", "v") if self.second_moment == "local" else ("m", "v", "averaged")

    @property
    def averaged_slot(self) -> str | None:
        """The slot that holds an exact average over the workers, if any."""
        return None if self.second_moment == "local" else "averaged"

    def accumulate(self, gradient: tf.Tensor, slots: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the slots with m_t and v_t in place of m_{t-1} and v_{t-1}."""
        first = self.beta_1 * slots["m"] + (1.0 - self.beta_1) * gradient
        second = self.beta_2 * slots["v"] + (1.0 - self.beta_2) * gradient * gradient
        return dict(slots, m=first, v=second)

    def corrected(self, slots: dict[str, tf.Tensor], count: tf.Tensor) -> tf.Tensor:
        """Returns v_t / (1 - beta_2^t), float32 [n]: what is averaged at an averaging step."""
        return slots["v"] * _correction(self.beta_2, count)

    def direction(self, gradient: tf.Tensor, slots: dict[str, tf.Tensor], count: tf.Tensor) -> tf.Tensor:
        """Returns u_t, float32 [n], from the slots that `accumulate` returned.

        Args:
          gradient: unused; Adam reads the slots.
          slots: m_t, v_t and, unless `local`, the average.
          count: t, the number of steps taken including this one, float32 scalar >= 1.
        """
        del gradient
        scale = {
            "local": lambda: self.corrected(slots, count),
            "averaged": lambda: tf.where(slots["averaged"] > 0, slots["averaged"], self.corrected(slots, count)),
            "guarded": lambda: tf.maximum(slots["averaged"], self.corrected(slots, count)),
        }[self.second_moment]()
        return slots["m"] * _correction(self.beta_1, count) / (tf.sqrt(scale) + self.epsilon)

    def averages_at(self, step: int) -> bool:
        """Whether step `step` (from 1) averages v over the workers."""
        if self.second_moment == "local":
            return False
        return step in _EARLY_STEPS or step % self.second_moment_period == 0


def _correction(beta, count):
    """1 / (1 - beta^t), float32 scalar; in float64 on the way, since 1 - beta^t cancels for beta near 1."""
    return tf.cast(1.0 / (1.0 - tf.pow(tf.constant(beta, tf.float64), tf.cast(count, tf.float64))), tf.float32)
