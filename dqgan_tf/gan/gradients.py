"""Gradients of both players at one point: F(w; xi)."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from dqgan_tf.gan.inputs import network_inputs
from dqgan_tf.gan.losses import Loss


class PointGradients(NamedTuple):
    """Gradients and losses at one point, over the batch of one replica.

    gradients: (generator's, discriminator's), each a list of float32 tensors shaped like the weights of that player.
    non_trainable: (generator's, discriminator's) non-trainable values afterwards, such as batch statistics.
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
    labels: tf.Tensor | None = None,
    in_turn: bool = False,
    training: bool = True,
) -> PointGradients:
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
      labels: [batch, ...] for networks that take [x, labels]; fake samples get the labels of the real ones. None for
        networks that take x alone.
      in_turn: compute the generator's gradients first, so that its update is sent while the discriminator's gradients
        are computed. Otherwise TensorFlow computes both at the same time if it has enough threads.
      training: whether the layers train, as for `keras.Model.__call__`.
    """
    weights_g, weights_d = weights

    def evaluate(network, values, non_trainable, samples):
        return call(network, values, non_trainable, network_inputs(samples, labels), training=training)

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(weights_g)
        tape.watch(weights_d)
        fake, values_g, losses_g = evaluate(generator, weights_g, non_trainable[0], latent)
        # Two tapes, so that one evaluation of D(real) suffices: R1 differentiates it with respect to the samples (inner
        # tape), then with respect to the weights (outer tape).
        with tf.GradientTape(watch_accessed_variables=False) as input_tape:
            input_tape.watch(real)
            real_logits, values_d, losses_real = evaluate(discriminator, weights_d, non_trainable[1], real)
        fake_logits, values_d, losses_fake = evaluate(discriminator, weights_d, values_d, fake)

        # `loss.penalty` calls one of these two: R1 (losses.r1_penalty) the first, the gradient penalty
        # (losses.gradient_penalty) the second.
        def real_gradient():
            return input_tape.gradient(real_logits, real, unconnected_gradients="zero")

        def discriminate(images):
            return evaluate(discriminator, weights_d, values_d, images)[0]

        generator_loss = loss.generator(fake_logits)
        if losses_g:
            generator_loss += tf.add_n(losses_g)
        penalty = loss.penalty(real_gradient, discriminate, real, tf.stop_gradient(fake), penalty_seed)
        discriminator_loss = loss.discriminator(real_logits, fake_logits) + penalty
        if losses_d := [*losses_real, *losses_fake]:
            discriminator_loss += 0.5 * tf.add_n(losses_d)
    gradients_g = _dense(tape.gradient(generator_loss, weights_g, unconnected_gradients="zero"), weights_g)
    with tf.control_dependencies(gradients_g if in_turn else []):
        gradients_d = _dense(tape.gradient(discriminator_loss, weights_d, unconnected_gradients="zero"), weights_d)
    return PointGradients(
        (gradients_g, gradients_d),
        (values_g, values_d),
        generator_loss,
        discriminator_loss,
        penalty,
        tf.reduce_mean(real_logits),
        tf.reduce_mean(fake_logits),
    )


def in_micro_batches(
    gradients_of: Callable, count: int, weights, non_trainable, batch: list[tf.Tensor | None], penalty_seed
) -> PointGradients:
    """Returns the gradients over a batch that is cut into parts, which are evaluated one after another.

        F(w; xi) = sum_i (b_i / b) F(w; xi_i)        b_i of the b samples are in part i

    Memory is that of one part. The result is that of the whole batch up to rounding, if samples do not interact: batch
    statistics are those of the parts, and interpolated samples of a gradient penalty are others.

    Args:
      gradients_of: (non-trainable values, tensors of a part, penalty seed) -> PointGradients.
      count: number of parts; a batch of fewer samples has that many parts.
      weights, non_trainable: (generator's, discriminator's) lists. A part begins with the values that the one before
        it has left.
      batch: tensors [b, ...] that are cut alike, or None.
      penalty_seed: int64 [2].
    """
    samples = next(tensor for tensor in batch if tensor is not None)
    size = tf.shape(samples)[0]
    parts = tf.minimum(count, size)
    # Layers need no dynamic shapes if all parts are known to be equal.
    length = samples.shape[0] // count if samples.shape[0] and samples.shape[0] % count == 0 else None

    def part_of(tensor, start, end):
        if tensor is None:
            return None
        part = tensor[start:end]
        part.set_shape([length, *tensor.shape[1:]])
        return part

    def body(index, sums, non_trainable):
        start, end = index * size // parts, (index + 1) * size // parts
        tensors = [part_of(tensor, start, end) for tensor in batch]
        seed = tf.random.experimental.stateless_fold_in(penalty_seed, index)
        at_point = gradients_of(non_trainable, tensors, seed)
        share = tf.cast(end - start, tf.float32) / tf.cast(size, tf.float32)
        values = at_point._replace(non_trainable=())
        sums = tf.nest.map_structure(lambda total, value: total + share * value, sums, values)
        return index + 1, sums, at_point.non_trainable

    zeros = tuple([tf.zeros(weight.shape) for weight in of_player] for of_player in weights)
    values = tuple([tf.convert_to_tensor(value) for value in of_player] for of_player in non_trainable)
    first = (tf.constant(0), PointGradients(zeros, (), *[tf.zeros([])] * 5), values)
    _, sums, values = tf.while_loop(lambda index, *_: index < parts, body, first, parallel_iterations=1)
    return sums._replace(non_trainable=values)


def _dense(gradients, weights):
    """Returns gradients as tensors of the weights' shapes; those of embeddings are tf.IndexedSlices."""
    dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
    for gradient, weight in zip(dense, weights, strict=True):
        gradient.set_shape(weight.shape)  # unknown of, for example, a Dense layer on sequences (TensorFlow 2.21)
    return dense


def call(
    network: keras.Model, weights, non_trainable, inputs, *, training: bool
) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
    """Returns (outputs, float32; non-trainable values after the call; the network's own losses, float32 scalars).

    `network.stateless_call` calls `network.call`, which gives `training` to layers inside only if a subclass hands it
    on (Keras 3.15.1). This is `network(inputs, training=training)`, of values in the place of its variables.

    Args:
      network: built.
      weights, non_trainable: values of its trainable and of its other variables, in their order.
      inputs: tensor, or the list of the samples and their labels.
      training: whether the layers train.
    """
    variables = [*network.trainable_variables, *network.non_trainable_variables]
    mapping = list(zip(variables, [*weights, *non_trainable], strict=True))
    with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
        outputs = network(inputs, training=training)
        losses = network.losses
    values = [scope.get_current_value(variable) for variable in network.non_trainable_variables]
    return tf.cast(outputs, tf.float32), values, [tf.cast(loss, tf.float32) for loss in losses]
