"""A loop over the batches of a distributed data set, inside one compiled function."""

from collections.abc import Callable

import tensorflow as tf


def fold(step: Callable, iterator, num_steps: tf.Tensor, state) -> tuple:
    """Returns (n, state) after `state = step(batch, state)` for n batches: `num_steps`, or fewer when the data end.

    The loop tests for a batch before each step. If the data ended inside a step, some replicas would already have
    incremented their counters.
    """

    def has_batch(done, batch, state):
        del state
        return tf.logical_and(done < num_steps, batch.has_value())

    def body(done, batch, state):
        state, done = step(batch.get_value(), state), done + 1
        return done, tf.cond(done < num_steps, iterator.get_next_as_optional, lambda: batch), state

    done, _, state = tf.while_loop(has_batch, body, (tf.constant(0), iterator.get_next_as_optional(), state))
    return done, state
