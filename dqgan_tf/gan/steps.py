"""How steps follow each other: which of them share a trace, and what a step reads from a data set's element."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import tensorflow as tf


class StepKind(NamedTuple):
    """Steps of different kinds have traces of their own.

    average: the direction averages its second moment over all replicas.
    exact: a step before compression starts.
    """

    average: bool
    exact: bool

    @property
    def alone(self) -> bool:
        """Whether such steps never share a call."""
        return self.average


def runs(step: int, num_steps: int, kind_at: Callable[[int], StepKind]) -> Iterable[tuple[int, StepKind]]:
    """Cuts the steps after `step` into runs (length, kind) of equal `kind_at(t)`; each run is one call of its trace.

    Args:
      step: steps done before.
      num_steps: how many follow.
      kind_at: t -> kind; a run of a kind with `alone` is one step.
    """
    length, kind = 0, None
    for t in range(step + 1, step + num_steps + 1):
        now = kind_at(t)
        if length and (now != kind or now.alone):
            yield length, kind
            length = 0
        length, kind = length + 1, now
    if length:
        yield length, kind


def real_samples(data) -> tf.Tensor:
    """Returns the real samples of a data set's element: a tensor, or a tuple that begins with it."""
    return data[0] if isinstance(data, (tuple, list)) else data


def one_sample_at_least(real: tf.Tensor) -> tf.Tensor:
    """Returns `real`, or one sample of NaN if it is empty: convolutions fail on none, and all replicas skip a NaN."""
    if real.shape[0]:
        return real
    shape = tf.concat([[1], tf.shape(real)[1:]], 0)
    return tf.cond(tf.shape(real)[0] > 0, lambda: real, lambda: tf.fill(shape, tf.constant(float("nan"), real.dtype)))
