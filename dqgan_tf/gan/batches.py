"""Batches inside a replica's step, and loops over them."""

import tensorflow as tf


def real(data) -> tf.Tensor:
    """Returns the real samples of what a data set yields: a tensor, or a tuple that begins with it."""
    return data[0] if isinstance(data, (tuple, list)) else data


def one_sample_at_least(real: tf.Tensor) -> tf.Tensor:
    """Returns `real`, or one sample of NaN in place of none: convolutions fail on none, and all replicas skip a NaN."""
    if real.shape[0]:
        return real
    one = tf.concat([[1], tf.shape(real)[1:]], 0)
    return tf.cond(tf.shape(real)[0] > 0, lambda: real, lambda: tf.fill(one, tf.constant(float("nan"), real.dtype)))


def fold(step, iterator, num_steps: tf.Tensor, state) -> tuple:
    """Returns (n, state) after `state = step(batch, state)` for n batches: `num_steps`, or fewer when the data end.

    Whether there is a batch is known before a step begins. An iterator that ends inside a step would leave counters,
    which do not wait for data, one ahead on some replicas.
    """

    def more(done, batch, state):
        del state
        return tf.logical_and(done < num_steps, batch.has_value())

    def body(done, batch, state):
        state, done = step(batch.get_value(), state), done + 1
        return done, tf.cond(done < num_steps, iterator.get_next_as_optional, lambda: batch), state

    done, _, state = tf.while_loop(more, body, (tf.constant(0), iterator.get_next_as_optional(), state))
    return done, state
