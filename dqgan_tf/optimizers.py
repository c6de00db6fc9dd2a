"""From gradients to updates: half-step point, direction and learning rate, as pure functions on one replica."""

import abc
import dataclasses
import math

import tensorflow as tf

from dqgan_tf import config as config_lib
from dqgan_tf.config import OptimizerConfig
from dqgan_tf.errors import UsageError

_EARLY_STEPS = frozenset({1, 2, 4, 8, 16, 32, 64})


def half_step_point(
    weights: tf.Tensor, direction: tf.Tensor, residual: tf.Tensor, learning_rate: tf.Tensor
) -> tf.Tensor:
    """Returns w_half = w_{t-1} - (eta u_{t-1} + e_{t-1}), the point at which DQGAN takes its gradient.

    The point includes the residual, so that mean(w_half) = z_{t-1} - eta mean(u_{t-1}) with z = w - mean(e); see
    docs/algorithm.md. Chen et al. 2020, arXiv 2010.13359.

    Args:
      weights: w_{t-1}, float32 of any shape, equal on all replicas.
      direction: u_{t-1} of this replica, of that shape; zeros before the first step.
      residual: e_{t-1} of this replica, of that shape, in units of parameters.
      learning_rate: eta, float32 scalar.
    """
    return weights - (learning_rate * direction + residual)


class Direction(abc.ABC):
    """Contract: u_t = direction(g_t, slots_t, t) with slots_t = accumulate(g_t, slots_{t-1}).

    Directions know neither compression nor replicas. They are elementwise: the direction of a part of a tensor is that
    part of the direction.
    """

    @property
    @abc.abstractmethod
    def slots(self) -> tuple[str, ...]:
        """Names of the state tensors, shaped like the gradient and zero at the start."""

    @property
    def averaged_slot(self) -> str | None:
        """The slot that holds an exact average of `corrected` over the replicas; None if there is none."""
        return None

    def averages_at(self, step: int) -> bool:
        """Whether step `step`, from 1, averages over the replicas."""
        return False

    @abc.abstractmethod
    def accumulate(self, gradient: tf.Tensor, slots: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the slots after this gradient."""

    def corrected(self, slots: dict[str, tf.Tensor], t: tf.Tensor) -> tf.Tensor:
        """Returns what is averaged over the replicas, shaped like the gradient; only with an `averaged_slot`."""
        raise TypeError(f"{type(self).__name__} averages nothing over the replicas.")

    @abc.abstractmethod
    def direction(self, gradient: tf.Tensor, slots: dict[str, tf.Tensor], t: tf.Tensor) -> tf.Tensor:
        """Returns u_t.

        Args:
          gradient: g_t.
          slots: returned by `accumulate`, with the average in its slot.
          t: number of accepted steps including this one, float32 scalar >= 1.
        """


@dataclasses.dataclass(frozen=True)
class Sgd(Direction):
    """u_t = g_t: with the half step, optimistic mirror descent (OMD) in Euclidean geometry.

    Chen et al. 2020, arXiv 2010.13359 (DQGAN); Daskalakis et al. 2018, arXiv 1711.00141 (OMD).
    """

    @property
    def slots(self) -> tuple[str, ...]:
        return ()

    def accumulate(self, gradient: tf.Tensor, slots: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return dict(slots)

    def direction(self, gradient: tf.Tensor, slots: dict[str, tf.Tensor], t: tf.Tensor) -> tf.Tensor:
        return gradient


@dataclasses.dataclass(frozen=True)
class Momentum(Direction):
    """u_t = m_t / (1 - beta_1^t) with m_t = beta_1 m_{t-1} + (1 - beta_1) g_t, m_0 = 0; hence u_1 = g_1.

    With EF21 it is EF21-SGDM (Fatkhullin, Tyurin, Richtarik 2023, arXiv 2305.15155), with one difference: the
    publication sets m_1 = g_1 and does not divide by 1 - beta_1^t. At beta_1 = 0.5 the factor 1 / (1 - beta_1^t) is
    below 1.01 from t = 7 on.

    Raises:
      UsageError: a setting that `OptimizerConfig` refuses.
    """

    beta_1: float = OptimizerConfig.beta_1

    def __post_init__(self) -> None:
        config_lib.check_setting("optimizer.beta_1", self.beta_1)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("m",)

    def accumulate(self, gradient: tf.Tensor, slots: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return dict(slots, m=self.beta_1 * slots["m"] + (1.0 - self.beta_1) * gradient)

    def direction(self, gradient: tf.Tensor, slots: dict[str, tf.Tensor], t: tf.Tensor) -> tf.Tensor:
        return _correction(self.beta_1, t) * slots["m"]


@dataclasses.dataclass(frozen=True)
class Adam(Direction):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) with per-replica moments and a choice of second moment V.

        m_t = beta_1 m_{t-1} + (1 - beta_1) g_t;   v_t = beta_2 v_{t-1} + (1 - beta_2) g_t^2
        u_t = (m_t / (1 - beta_1^t)) / (sqrt(V_t) + epsilon)

    second_moment:
      local: V_t = v_t / (1 - beta_2^t), this replica's own.
      averaged: V_t = mean over replicas of v_s / (1 - beta_2^s), s the latest averaging step; removes the bias that
        heterogeneous shards of the data give `local`.
      guarded: the elementwise maximum of `averaged` and `local`, since an old average can be far too small.
    The average is taken at the player's steps number 1, 2, 4, ..., 64 and at every multiple of `second_moment_period`;
    unlike t, these numbers count skipped steps. Where the average is 0 (e.g.
    before the first accepted averaging step), V is this replica's own. Otherwise the update would be divided by epsilon
    alone and destroy the weight.

    Preconditioning before compression keeps residuals in units of parameters and never divides by the second moment of
    a value that was compressed to zero. A coordinate without gradient does not move: 0 / (0 + epsilon) = 0.

    Raises:
      UsageError: a setting that `OptimizerConfig` refuses.
    """

    beta_1: float = OptimizerConfig.beta_1
    beta_2: float = OptimizerConfig.beta_2
    epsilon: float = OptimizerConfig.epsilon
    second_moment: str = OptimizerConfig.second_moment
    second_moment_period: int = OptimizerConfig.second_moment_period

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            config_lib.check_setting(f"optimizer.{name}", value)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("m", "v") if self.second_moment == "local" else ("m", "v", "averaged")

    @property
    def averaged_slot(self) -> str | None:
        return None if self.second_moment == "local" else "averaged"

    def averages_at(self, step: int) -> bool:
        if self.second_moment == "local":
            return False
        return step in _EARLY_STEPS or step % self.second_moment_period == 0

    def accumulate(self, gradient: tf.Tensor, slots: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        first = self.beta_1 * slots["m"] + (1.0 - self.beta_1) * gradient
        second = self.beta_2 * slots["v"] + (1.0 - self.beta_2) * gradient * gradient
        return dict(slots, m=first, v=second)

    def corrected(self, slots: dict[str, tf.Tensor], t: tf.Tensor) -> tf.Tensor:
        """Returns v_t / (1 - beta_2^t)."""
        return slots["v"] * _correction(self.beta_2, t)

    def direction(self, gradient: tf.Tensor, slots: dict[str, tf.Tensor], t: tf.Tensor) -> tf.Tensor:
        second = self.corrected(slots, t)
        if self.second_moment == "averaged":
            second = tf.where(slots["averaged"] > 0, slots["averaged"], second)
        elif self.second_moment == "guarded":
            second = tf.maximum(slots["averaged"], second)
        return slots["m"] * _correction(self.beta_1, t) / (tf.sqrt(second) + self.epsilon)


def _correction(beta: float, t: tf.Tensor) -> tf.Tensor:
    """1 / (1 - beta^t), float32 scalar; computed in float64, since 1 - beta^t cancels for beta near 1."""
    return tf.cast(1.0 / (1.0 - tf.pow(tf.constant(beta, tf.float64), tf.cast(t, tf.float64))), tf.float32)


def get(config: OptimizerConfig) -> Direction:
    """Returns the direction that `config` names."""
    if config.direction == "sgd":
        return Sgd()
    if config.direction == "momentum":
        return Momentum(config.beta_1)
    return Adam(**{field.name: getattr(config, field.name) for field in dataclasses.fields(Adam)})


def learning_rate(
    step: tf.Tensor, base: float | tf.Tensor, *, schedule: str = "constant", warmup_steps: int = 0, total_steps: int = 0
) -> tf.Tensor:
    """Returns eta_t, float32 scalar: base * warm-up(t) * decay(t).

        warm-up(t) = min(1, t / warmup_steps)
        decay(t)   = 1 | 1 - (t-1)/T | (1 + cos(pi (t-1)/T)) / 2      for constant | linear | cosine

    Residuals are in units of parameters, so nothing is rescaled when eta changes. The half step of step t uses eta_t
    too.

    Args:
      step: t from 1, integer scalar.
      base: eta without schedule.
      schedule: constant, linear or cosine.
      warmup_steps: 0 for none.
      total_steps: T; needed unless constant.

    Raises:
      UsageError: unknown schedule, or one that needs `total_steps` without it.
    """
    config_lib.check_setting("optimizer.learning_rate_schedule", schedule)
    if schedule != "constant" and total_steps < 1:
        raise UsageError(
            f"Schedule {schedule!r} needs the length of the run, such as total_steps=4000. "
            f"Received: total_steps={total_steps}"
        )
    t = tf.cast(step, tf.float32)
    rate = tf.convert_to_tensor(base, tf.float32)
    if warmup_steps:
        rate *= tf.minimum(1.0, t / warmup_steps)
    if schedule == "constant":
        return rate
    progress = tf.minimum(1.0, (t - 1.0) / total_steps)
    return rate * (1.0 - progress if schedule == "linear" else 0.5 * (1.0 + tf.cos(math.pi * progress)))
