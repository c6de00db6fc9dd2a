"""From a gradient to an update direction u: pure functions of one float32 tensor of any shape, on one replica."""

import abc
import dataclasses

import tensorflow as tf

from dqgan_tf.config import OptimizerConfig
from dqgan_tf.errors import UsageError

SECOND_MOMENTS = ("local", "averaged", "guarded")
_EARLY_STEPS = frozenset({1, 2, 4, 8, 16, 32, 64})


class Direction(abc.ABC):
    """Contract: u_t = direction(g_t, slots_t, t) with slots_t = accumulate(g_t, slots_{t-1}).

    Directions know neither compression nor workers. They work value by value: cut into pieces, a tensor gives the
    pieces of its direction.
    """

    @property
    @abc.abstractmethod
    def slots(self) -> tuple[str, ...]:
        """Names of the state tensors, shaped like the gradient and zero at the start."""

    @property
    def averaged_slot(self) -> str | None:
        """The slot that holds an exact average of `corrected` over the workers; None if there is none."""
        return None

    def averages_at(self, step: int) -> bool:
        """Whether step `step`, from 1, averages over the workers."""
        return False

    @abc.abstractmethod
    def accumulate(self, gradient: tf.Tensor, slots: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the slots after this gradient."""

    def corrected(self, slots: dict[str, tf.Tensor], count: tf.Tensor) -> tf.Tensor:
        """Returns what is averaged over the workers, shaped like the gradient; only with an `averaged_slot`."""
        raise TypeError(f"{type(self).__name__} averages nothing over the workers.")

    @abc.abstractmethod
    def direction(self, gradient: tf.Tensor, slots: dict[str, tf.Tensor], count: tf.Tensor) -> tf.Tensor:
        """Returns u_t.

        Args:
          gradient: g_t.
          slots: returned by `accumulate`, with the average in its slot.
          count: t, the number of steps taken including this one, float32 scalar >= 1.
        """


@dataclasses.dataclass(frozen=True)
class Sgd(Direction):
    """u_t = g_t: with the half step, optimistic mirror descent (OMD) in Euclidean geometry.

    Chen et al. 2020, arXiv 2010.13359 (DQGAN); Daskalakis et al. 2018, arXiv 1711.00141 (OMD).
    """

    @property
    def slots(self):
        return ()

    def accumulate(self, gradient, slots):
        return dict(slots)

    def direction(self, gradient, slots, count):
        return gradient


@dataclasses.dataclass(frozen=True)
class Adam(Direction):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) with per-worker moments and a choice of second moment V.

        m_t = beta_1 m_{t-1} + (1 - beta_1) g_t;   v_t = beta_2 v_{t-1} + (1 - beta_2) g_t^2
        u_t = (m_t / (1 - beta_1^t)) / (sqrt(V_t) + epsilon)

    second_moment:
      local: V_t = v_t / (1 - beta_2^t), this worker's own.
      averaged: V_t = mean over workers of v_s / (1 - beta_2^s), s the latest averaging step; removes the bias that
        heterogeneous shards give `local`.
      guarded: the elementwise maximum of `averaged` and `local`, since an old average can be far too small.
    Averaging steps are t = 1, 2, 4, ..., 64 and every multiple of `second_moment_period`. Where the average is exactly
    0, as before the first accepted averaging step, V is this worker's own: dividing by epsilon alone would throw the
    weight away.

    Preconditioning before compression keeps residuals in units of parameters and never divides by the second moment of
    a value that was compressed to zero. A coordinate without gradient stays where it is: 0 / (0 + epsilon) = 0.

    Raises:
      UsageError: beta outside [0, 1), epsilon not positive, unknown second_moment, period below 1.
    """

    beta_1: float = 0.5
    beta_2: float = 0.9
    epsilon: float = 1e-8
    second_moment: str = "local"
    second_moment_period: int = 100

    def __post_init__(self):
        for name in ("beta_1", "beta_2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UsageError(f"`{name}` must lie in [0, 1). Received: {name}={getattr(self, name)}")
        if not self.epsilon > 0:
            raise UsageError(f"`epsilon` must be positive. Received: epsilon={self.epsilon}")
        if self.second_moment not in SECOND_MOMENTS:
            raise UsageError(
                f"`second_moment` must be one of {SECOND_MOMENTS}. Received: second_moment={self.second_moment!r}"
            )
        if self.second_moment_period < 1:
            raise UsageError(
                f"`second_moment_period` must be at least 1. Received: second_moment_period={self.second_moment_period}"
            )

    @property
    def slots(self):
        return ("m", "v") if self.second_moment == "local" else ("m", "v", "averaged")

    @property
    def averaged_slot(self):
        return None if self.second_moment == "local" else "averaged"

    def averages_at(self, step):
        if self.second_moment == "local":
            return False
        return step in _EARLY_STEPS or step % self.second_moment_period == 0

    def accumulate(self, gradient, slots):
        first = self.beta_1 * slots["m"] + (1.0 - self.beta_1) * gradient
        second = self.beta_2 * slots["v"] + (1.0 - self.beta_2) * gradient * gradient
        return dict(slots, m=first, v=second)

    def corrected(self, slots, count):
        """Returns v_t / (1 - beta_2^t)."""
        return slots["v"] * _correction(self.beta_2, count)

    def direction(self, gradient, slots, count):
        scale = {
            "local": lambda: self.corrected(slots, count),
            "averaged": lambda: tf.where(slots["averaged"] > 0, slots["averaged"], self.corrected(slots, count)),
            "guarded": lambda: tf.maximum(slots["averaged"], self.corrected(slots, count)),
        }[self.second_moment]()
        return slots["m"] * _correction(self.beta_1, count) / (tf.sqrt(scale) + self.epsilon)


def _correction(beta, count):
    """1 / (1 - beta^t), float32 scalar; computed in float64, since 1 - beta^t cancels for beta near 1."""
    return tf.cast(1.0 / (1.0 - tf.pow(tf.constant(beta, tf.float64), tf.cast(count, tf.float64))), tf.float32)


def get(config: OptimizerConfig) -> Direction:
    """Returns the direction that `config` names.

    Raises:
      UsageError: unknown direction, or a setting that the direction refuses.
    """
    if config.direction == "sgd":
        return Sgd()
    if config.direction == "adam":
        names = [field.name for field in dataclasses.fields(Adam)]
        return Adam(**{name: getattr(config, name) for name in names})
    raise UsageError(f"`direction` must be sgd or adam. Received: direction={config.direction!r}")
