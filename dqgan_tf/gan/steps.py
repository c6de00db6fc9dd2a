"""Splits the steps of a call into groups that use the same `tf.function` trace, and makes seeds."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import tensorflow as tf

from dqgan_tf.config import OptimizerConfig
from dqgan_tf.optimizers import Direction

LATENT, PENALTY, SAMPLE = range(3)


class StepKind(NamedTuple):
    """Steps of different kinds have traces of their own.

    average: the direction averages its second moment over all replicas.
    exact: a step before compression starts.
    generator: the generator moves, and not the discriminator alone.
    looks_ahead: the first half of an extragradient step.
    """

    average: bool = False
    exact: bool = False
    generator: bool = True
    looks_ahead: bool = False


def kind_of(step: int, optimizer: OptimizerConfig, direction: Direction, start_step: int) -> StepKind:
    """Returns the kind of step number `step`, from 1.

    The generator moves at every multiple of `discriminator_steps`. The periods of averages of the second moment count
    its moves and not the steps, because both players average at the same steps.
    """
    moves, rest = divmod(step, optimizer.discriminator_steps)
    return StepKind(
        average=not rest and direction.averages_at(moves),
        exact=step < start_step,
        generator=not rest,
        looks_ahead=optimizer.step_rule == "extragradient" and step % 2 == 1,
    )


def group_steps(step: int, num_steps: int, kind_at: Callable[[int], StepKind]) -> Iterable[tuple[int, StepKind]]:
    """Splits the steps after `step` into groups (length, kind) of equal `kind_at(t)`; a group is one call of a trace.

    Args:
      step: number of steps done before.
      num_steps: number of steps to split.
      kind_at: t -> kind. A step that averages is a group of its own.
    """
    length, kind = 0, StepKind()
    for t in range(step + 1, step + num_steps + 1):
        kind_t = kind_at(t)
        if length and (kind_t != kind or kind_t.average):
            yield length, kind
            length = 0
        length, kind = length + 1, kind_t
    if length:
        yield length, kind


def group_rounds(
    step: int, num_steps: int, local_steps: int, kind_at: Callable[[int], StepKind]
) -> Iterable[tuple[int, StepKind]]:
    """As `group_steps`, for rounds of several steps and one exchange.

    A round averages the second moment, once, if one of its steps does; it is uncompressed if its first step is. A
    length is a number of steps, not of rounds.
    """
    last = step + num_steps
    rounds = [range(first, min(first + local_steps, last + 1)) for first in range(step + 1, last + 1, local_steps)]
    kinds = [StepKind(average=any(kind_at(t).average for t in ts), exact=kind_at(ts[0]).exact) for ts in rounds]
    for length, kind in group_steps(0, len(rounds), lambda number: kinds[number - 1]):
        yield sum(map(len, rounds[:length])), kind
        rounds = rounds[length:]


def stream_seed(seed: int, purpose: int, step: tf.Tensor, replica: tf.Tensor, num_replicas: int) -> tf.Tensor:
    """Returns the seed of one stateless draw, int64 [2], a function of the arguments alone.

    Keras' random layers and `tf.random.normal` draw the same numbers on every replica under one global seed, so a GAN
    would use one latent batch everywhere. Here no two of (purpose, step, replica) share a seed, and no state of a
    generator has to be saved.

    Args:
      seed: seed of the run.
      purpose: `LATENT`, `PENALTY` or `SAMPLE`.
      step: integer scalar.
      replica: global rank, integer scalar.
      num_replicas: over all workers.
    """
    position = tf.cast(step, tf.int64) * num_replicas + tf.cast(replica, tf.int64)
    return tf.stack([tf.constant(seed * 8 + purpose, tf.int64), position])
