"""F(w; xi): both players' gradients at one point."""

from typing import NamedTuple

import tensorflow as tf

from dqgan_tf.gan.losses import Loss


class Evaluation(NamedTuple):
    """What one gradient evaluation gives.

    gradients: (generator's, discriminator's), each a list of float32 tensors shaped like that player's weights.
    non_trainable: (generator's, discriminator's) values after the evaluation, e.g. batch-norm statistics.
    generator_loss, discriminator_loss, penalty, real_logit, fake_logit: float32 scalars over the replica's batch; the
      discriminator's loss contains the penalty; the logits are means.
    """

    gradients: tuple
    non_trainable: tuple
    generator_loss: tf.Tensor
    discriminator_loss: tf.Tensor
    penalty: tf.Tensor
    real_logit: tf.Tensor
    fake_logit: tf.Tensor


def simultaneous_gradients(
    generator, discriminator, loss: Loss, weights, non_trainable, real: tf.Tensor, latent: tf.Tensor, penalty_seed
) -> Evaluation:
    """Returns the gradients of both players' losses at the SAME point, each with respect to its own weights.

        F(w; xi) = (d L_G / d w_G, d L_D / d w_D)(w_G, w_D; xi)

    The networks are evaluated at `weights`, which are plain tensors: no variable is read or touched.

    Args:
      generator, discriminator: built Keras models; only their structure is used.
      loss: the game.
      weights: (generator's, discriminator's) lists of float32 tensors.
      non_trainable: the same for what training does not differentiate.
      real: float32 [batch, *shape].
      latent: float32 [batch, latent_dim].
      penalty_seed: int64 [2], of the penalty's interpolation.
    """
    weights_g, weights_d = weights
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(weights_g)
        tape.watch(weights_d)
        fake, state_g = generator.stateless_call(weights_g, non_trainable[0], latent, training=True)
        real_logits, state_d = discriminator.stateless_call(weights_d, non_trainable[1], real, training=True)
        fake_logits, state_d = discriminator.stateless_call(weights_d, state_d, fake, training=True)

        def discriminate(images):
            return discriminator.stateless_call(weights_d, state_d, images, training=True)[0]

        generator_loss = loss.generator(fake_logits)
        penalty = loss.penalty(discriminate, real, tf.stop_gradient(fake), penalty_seed)
        discriminator_loss = loss.discriminator(real_logits, fake_logits) + penalty
    gradients_g = tape.gradient(generator_loss, weights_g, unconnected_gradients="zero")
    # The generator's update can travel while the discriminator's is computed.
    with tf.control_dependencies(gradients_g):
        gradients_d = tape.gradient(discriminator_loss, weights_d, unconnected_gradients="zero")
    return Evaluation(
        (gradients_g, gradients_d),
        (state_g, state_d),
        generator_loss,
        discriminator_loss,
        penalty,
        tf.reduce_mean(real_logits),
        tf.reduce_mean(fake_logits),
    )
