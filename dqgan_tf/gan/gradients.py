"""Gradients of both players at one point: F(w; xi)."""

from typing import NamedTuple

import keras
import tensorflow as tf

from dqgan_tf.errors import UsageError
from dqgan_tf.gan.losses import Loss


class Evaluation(NamedTuple):
    """Gradients and losses over the batch of one replica.

    gradients: (generator's, discriminator's), each a list of float32 tensors shaped like the weights of that player.
    non_trainable: (generator's, discriminator's) non-trainable values after the evaluation, such as batch statistics.
    generator_loss, discriminator_loss, penalty: float32 scalars. The discriminator's loss contains the penalty.
    real_logit, fake_logit: mean logits, float32 scalars.
    """

    gradients: tuple
    non_trainable: tuple
    generator_loss: tf.Tensor
    discriminator_loss: tf.Tensor
    penalty: tf.Tensor
    real_logit: tf.Tensor
    fake_logit: tf.Tensor


def simultaneous_gradients(
    generator,
    discriminator,
    loss: Loss,
    weights,
    non_trainable,
    real: tf.Tensor,
    latent: tf.Tensor,
    penalty_seed,
    *,
    in_turn: bool = False,
) -> Evaluation:
    """Returns the gradients of both players' losses at the SAME point, each with respect to its own weights.

        F(w; xi) = (d L_G / d w_G, d L_D / d w_D)(w_G, w_D; xi)

    The networks are evaluated at `weights`, which are plain tensors: no variable is read or written. The networks' own
    losses (regularizers, `add_loss`) are added to the loss of their player; the discriminator's are the mean of those
    of the real and of the fake samples.

    Args:
      generator, discriminator: built Keras models, of which only the structure is used.
      loss: the game.
      weights: (generator's, discriminator's) lists of float32 tensors.
      non_trainable: (generator's, discriminator's) lists of non-trainable values. The discriminator updates them on the
        real samples first, then on the fake ones.
      real: float32 [batch, *shape].
      latent: float32 [batch, latent_dim].
      penalty_seed: int64 [2], seed of the interpolation in the gradient penalty.
      in_turn: compute the generator's gradients first, so that its update is sent while the discriminator's gradients
        are computed. Otherwise TensorFlow computes both at the same time if it has enough threads.
    """
    weights_g, weights_d = weights
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(weights_g)
        tape.watch(weights_d)
        fake, state_g, own_g = _call(generator, weights_g, non_trainable[0], latent)
        # Two tapes, so that one evaluation of D(real) suffices: R1 differentiates it with respect to the samples (inner
        # tape), then with respect to the weights (outer tape).
        with tf.GradientTape(watch_accessed_variables=False) as input_tape:
            input_tape.watch(real)
            real_logits, state_d, own_real = _call(discriminator, weights_d, non_trainable[1], real)
        fake_logits, state_d, own_fake = _call(discriminator, weights_d, state_d, fake)

        # `loss.penalty` calls one of these two: R1 (losses.r1_penalty) the first, the gradient penalty
        # (losses.gradient_penalty) the second.
        def real_gradient():
            return input_tape.gradient(real_logits, real, unconnected_gradients="zero")

        def discriminate(images):
            return _call(discriminator, weights_d, state_d, images)[0]

        generator_loss = loss.generator(fake_logits)
        if own_g:
            generator_loss += tf.add_n(own_g)
        penalty = loss.penalty(real_gradient, discriminate, real, tf.stop_gradient(fake), penalty_seed)
        discriminator_loss = loss.discriminator(real_logits, fake_logits) + penalty
        if own_losses := [*own_real, *own_fake]:
            discriminator_loss += 0.5 * tf.add_n(own_losses)
    gradients_g = tape.gradient(generator_loss, weights_g, unconnected_gradients="zero")
    with tf.control_dependencies(gradients_g if in_turn else []):
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


def _call(network, weights, non_trainable, inputs):
    """Returns (outputs, float32; non-trainable values; the network's own losses, float32 scalars)."""
    outputs, values, own = network.stateless_call(weights, non_trainable, inputs, return_losses=True, training=True)
    return tf.cast(outputs, tf.float32), values, [tf.cast(value, tf.float32) for value in own]


def check_keeps_weights(network: keras.Model, weights, non_trainable, inputs: tf.Tensor) -> None:
    """Refuses a generator that assigns its own weights while it runs: samples would come from another network.

    Args:
      network: the generator.
      weights, non_trainable: its values.
      inputs: a batch of latents.

    Raises:
      UsageError: names the weight.
    """
    variables = [*network.trainable_variables, *network.non_trainable_variables]
    with keras.StatelessScope(state_mapping=list(zip(variables, [*weights, *non_trainable], strict=True))) as scope:
        network.call(inputs, training=True)
        for variable, value in zip(network.trainable_variables, weights, strict=True):
            if scope.get_current_value(variable) is not value:
                raise UsageError(
                    f"The generator assigns its weight {variable.path} while it trains, as SpectralNormalization does. "
                    "Its samples would come from another network than the one that is trained: remove that layer from "
                    "the generator. The discriminator may have it."
                )
