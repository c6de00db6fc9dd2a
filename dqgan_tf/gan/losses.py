"""Losses of both players (logits -> scalars) and penalties on the input gradient of the discriminator.

With real logits r = D(x) and fake logits f = D(G(z)), both float32 [batch, 1], and means over the batch of a replica:

| name | discriminator minimises | generator minimises | penalty P, added to the discriminator's loss |
|---|---|---|---|
| `non_saturating` | E softplus(-r) + E softplus(f) | E softplus(-f) | R1 |
| `hinge` | E max(0, 1 - r) + E max(0, 1 + f) | -E f | R1 |
| `wgan_gp` | E f - E r | -E f | gradient penalty |
| `wgan_clip` | E f - E r | -E f | none; weights are clipped |

Sources: Goodfellow et al. 2014, arXiv:1406.2661; Lim and Ye 2017, arXiv:1705.02894 (hinge);
Arjovsky et al. 2017, arXiv:1701.07875 (Wasserstein, clipping); Gulrajani et al. 2017, arXiv:1704.00028
(gradient penalty); Mescheder et al. 2018, arXiv:1801.04406 (R1).
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf
from absl import logging

from dqgan_tf.config import LossConfig

RealGradient = Callable[[], tf.Tensor]
Discriminate = Callable[[tf.Tensor], tf.Tensor]
Penalty = Callable[[RealGradient, Discriminate, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]

# Added to a squared norm before its square root, whose derivative at 0 is infinite. In float32, 1 + 1e-12 is 1.
_NORM_FLOOR = 1e-12


@dataclasses.dataclass(frozen=True)
class Loss:
    """A two-player game. All functions are pure and work in a `tf.function` under an outer `GradientTape`.

    name: name of the loss.
    generator: fake logits f32 [batch, 1] -> f32 [].
    discriminator: (real logits, fake logits), f32 [batch, 1] each -> f32 [].
    penalty: (real_gradient, discriminate, real, fake, seed) -> f32 [].
      real_gradient: function that returns grad_x D(x) at the real samples, f32 [batch, ...]. It reuses the evaluation
        of D that gave the real logits.
      discriminate: function that evaluates D at other samples, f32 [batch, ...] -> logits f32 [batch, 1]. D must not
        use batch statistics.
      real, fake: samples f32 [batch, ...].
      seed: integer [2].
    clip_value: bound on the absolute value of every discriminator weight after each step, or None.
    """

    name: str
    generator: Callable[[tf.Tensor], tf.Tensor]
    discriminator: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    penalty: Penalty
    clip_value: float | None = None


def get(config: LossConfig) -> Loss:
    """Returns the loss that `config` names.

    >>> hinge = get(LossConfig(loss="hinge"))
    >>> hinge.discriminator(tf.constant([[2.0]]), tf.constant([[-0.5]])).numpy()  # max(0, 1 - 2) + max(0, 1 - 0.5)
    np.float32(0.5)
    """
    generator, discriminator = _LOGIT_LOSSES[config.loss]
    if config.loss == "wgan_gp":
        return Loss(config.loss, generator, discriminator, gradient_penalty(config.gradient_penalty))
    if config.loss == "wgan_clip":
        logging.warning(
            "`wgan_clip` projects the discriminator's weights after every step. The analysis of error feedback does "
            "not cover a projection (arXiv:2510.03507): the residual can push against the bound. Prefer `wgan_gp`."
        )
        return Loss(config.loss, generator, discriminator, no_penalty, clip_value=config.clip_value)
    return Loss(config.loss, generator, discriminator, r1_penalty(config.r1_gamma))


def r1_penalty(gamma: float) -> Penalty:
    """Returns the `Loss.penalty` P = gamma/2 E_real ||grad_x D(x)||^2 (Mescheder et al. 2018, arXiv:1801.04406)."""

    def penalty(
        real_gradient: RealGradient, discriminate: Discriminate, real: tf.Tensor, fake: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        del discriminate, real, fake, seed
        return 0.5 * gamma * tf.reduce_mean(_squared_norm(real_gradient()))

    return penalty if gamma else no_penalty


def gradient_penalty(weight: float) -> Penalty:
    """Returns the `Loss.penalty` P = weight E (||grad_x D(x)|| - 1)^2 at x = a real + (1 - a) fake, one a ~ U[0, 1) per
    sample. No gradient reaches `fake`. Gulrajani et al. 2017, arXiv:1704.00028, eq. 3.
    """

    def penalty(
        real_gradient: RealGradient, discriminate: Discriminate, real: tf.Tensor, fake: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        del real_gradient
        between = interpolate(real, tf.stop_gradient(fake), seed)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(between)
            logits = discriminate(between)
        gradient = tape.gradient(logits, between, unconnected_gradients="zero")
        norm = tf.sqrt(_squared_norm(gradient) + _NORM_FLOOR)
        return weight * tf.reduce_mean(tf.square(norm - 1.0))

    return penalty


def no_penalty(
    real_gradient: RealGradient, discriminate: Discriminate, real: tf.Tensor, fake: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Returns 0, f32 []."""
    del real_gradient, discriminate, real, fake, seed
    return tf.zeros([])


def interpolate(real: tf.Tensor, fake: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns a real + (1 - a) fake, f32 [batch, ...]; a ~ U[0, 1), one per sample, from `seed` (integer [2])."""
    shape = tf.concat([tf.shape(real)[:1], tf.ones([real.shape.rank - 1], tf.int32)], axis=0)
    share = tf.random.stateless_uniform(shape, seed)
    return fake + share * (real - fake)


def _squared_norm(gradient: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.square(gradient), axis=list(range(1, gradient.shape.rank)))


def _logistic_discriminator(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.nn.softplus(-real_logits)) + tf.reduce_mean(tf.nn.softplus(fake_logits))


def _logistic_generator(fake_logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.nn.softplus(-fake_logits))


def _hinge_discriminator(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.nn.relu(1.0 - real_logits)) + tf.reduce_mean(tf.nn.relu(1.0 + fake_logits))


def _critic_discriminator(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(fake_logits) - tf.reduce_mean(real_logits)


def _critic_generator(fake_logits: tf.Tensor) -> tf.Tensor:
    return -tf.reduce_mean(fake_logits)


_LOGIT_LOSSES = {  # (generator's, discriminator's)
    "non_saturating": (_logistic_generator, _logistic_discriminator),
    "hinge": (_critic_generator, _hinge_discriminator),
    "wgan_gp": (_critic_generator, _critic_discriminator),
    "wgan_clip": (_critic_generator, _critic_discriminator),
}
