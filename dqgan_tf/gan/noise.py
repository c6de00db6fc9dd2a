"""Randomness that is distinct on every replica and a function of (seed, step, replica) alone."""

import tensorflow as tf

LATENT, PENALTY, SAMPLE = range(3)


def stream_seed(seed: int, purpose: int, step: tf.Tensor, replica: tf.Tensor, num_replicas: int) -> tf.Tensor:
    """Returns the seed of one stateless draw, int64 [2].

    Keras' random layers and `tf.random.normal` draw the same numbers on every replica under one global seed, so a GAN
    would use one latent batch everywhere. Here no two of (purpose, step, replica) share a seed, and nothing has to be
    saved.

    Args:
      seed: of the run.
      purpose: `LATENT`, `PENALTY` or `SAMPLE`.
      step: integer scalar.
      replica: global rank, integer scalar.
      num_replicas: over all workers.
    """
    position = tf.cast(step, tf.int64) * num_replicas + tf.cast(replica, tf.int64)
    return tf.stack([tf.constant(seed * 8 + purpose, tf.int64), position])
