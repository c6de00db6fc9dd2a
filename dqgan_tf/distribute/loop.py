"""Loops over the batches of a distributed data set, inside one compiled function."""

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


def fold_rounds(
    begin: Callable, step: Callable, end: Callable, iterator, num_steps: tf.Tensor, length: int
) -> tf.Tensor:
    """Takes rounds of `length` steps: `begin()`, `step(batch, k)` for k = 1, 2, ..., and `end(count)`.

    The last round has fewer steps if `num_steps` is no multiple of `length`, or if the data end.

    Returns:
      The number of steps, int32 scalar.
    """

    def has_batch(done, batch):
        return tf.logical_and(done < num_steps, batch.has_value())

    def one_round(start, batch):
        stop = tf.minimum(start + length, num_steps)

        def one_step(done, batch):
            done += 1
            step(batch.get_value(), done - start)
            return done, tf.cond(done < num_steps, iterator.get_next_as_optional, lambda: batch)

        begin()
        in_round = lambda done, batch: tf.logical_and(done < stop, batch.has_value())  # noqa: E731
        done, batch = tf.while_loop(in_round, one_step, (start, batch))
        end(done - start)
        return done, batch

    return tf.while_loop(has_batch, one_round, (tf.constant(0), iterator.get_next_as_optional()))[0]
