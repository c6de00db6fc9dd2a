"""Learning rate as a function of the step."""

import math

import tensorflow as tf

SCHEDULES = ("constant", "linear", "cosine")


def learning_rate(
    step: tf.Tensor, base: float, *, schedule: str = "constant", warmup_steps: int = 0, total_steps: int = 0
) -> tf.Tensor:
    """Returns eta_t, float32 scalar: base * warm-up(t) * decay(t).

        warm-up(t) = min(1, t / warmup_steps)
        decay(t)   = 1 | 1 - (t-1)/T | (1 + cos(pi (t-1)/T)) / 2      for constant | linear | cosine

    Residuals are in units of parameters, so nothing is rescaled when eta changes. The half step of step t uses eta_t
    too.

    Args:
      step: t from 1, integer scalar.
      base: eta without schedule.
      schedule: one of `SCHEDULES`.
      warmup_steps: 0 for none.
      total_steps: T; needed unless constant.

    Raises:
      ValueError: unknown schedule, or one that needs `total_steps` without it.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"`schedule` must be one of {SCHEDULES}. Received: schedule={schedule!r}")
    if schedule != "constant" and total_steps < 1:
        raise ValueError(f"Schedule {schedule!r} needs the run's `total_steps`. Received: total_steps={total_steps}")
    t = tf.cast(step, tf.float32)
    rate = tf.constant(base, tf.float32)
    if warmup_steps:
        rate *= tf.minimum(1.0, t / warmup_steps)
    return rate * _decay(t, schedule, total_steps)


def _decay(t, schedule, total_steps):
    if schedule == "constant":
        return tf.constant(1.0)
    progress = tf.minimum(1.0, (t - 1.0) / total_steps)
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + tf.cos(math.pi * progress))
