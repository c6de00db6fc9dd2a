"""Losses of both players: logits -> scalars, and penalties on the discriminator's input gradient.

With real logits r = D(x) and fake logits f = D(G(z)), both float32 [batch, 1], means over the replica's batch:

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

Discriminate = Callable[[tf.Tensor], tf.Tensor]

_NORM_FLOOR = 1e-12  # Under the root: the derivative of a norm at 0 would be NaN. Below float32 resolution at norm 1.


@dataclasses.dataclass(frozen=True)
class Loss:
    """A two-player game. All functions are pure and work in `tf.function` under an outer `GradientTape`.

    name: the loss's name.
    generator: fake logits f32 [batch, 1] -> f32 [].
    discriminator: (real logits, fake logits), f32 [batch, 1] each -> f32 [].
    penalty: (discriminate, real, fake, seed) -> f32 []; `discriminate` maps f32 [batch, ...] to logits [batch, 1] and
      must treat samples separately (no batch statistics); real and fake are f32 [batch, ...]; seed is an integer [2].
    clip_value: bound on the absolute value of every discriminator weight after each step, or None.
    """

    name: str
    generator: Callable[[tf.Tensor], tf.Tensor]
    discriminator: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    penalty: Callable[[Discriminate, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
    clip_value: float | None = None


def get(config: LossConfig) -> Loss:
    """Returns the loss that `config` names.

    Raises:
      ValueError: unknown name, or a weight that the named loss uses is out of range.
    """
    if config.loss not in _LOSSES:
        raise ValueError(f"`loss` must be one of {', '.join(sorted(_LOSSES))}. Received: loss={config.loss!r}")
    return _LOSSES[config.loss](config)


def r1_penalty(gamma: float):
    """Returns P = gamma/2 E_real ||grad_x D(x)||^2 (Mescheder et al. 2018, arXiv:1801.04406)."""

    def penalty(discriminate, real, fake, seed):
        del fake, seed
        gradient = _input_gradient(discriminate, real)
        return 0.5 * gamma * tf.reduce_mean(_squared_norm(gradient))

    return penalty if gamma else no_penalty


def gradient_penalty(weight: float):
    """Returns P = weight E (||grad_x D(x)|| - 1)^2 at x = a real + (1 - a) fake, a uniform in [0, 1), one per sample.

    Gulrajani et al. 2017, arXiv:1704.00028, eq. 3.
    """

    def penalty(discriminate, real, fake, seed):
        between = interpolate(real, tf.stop_gradient(fake), seed)
        gradient = _input_gradient(discriminate, between)
        norm = tf.sqrt(_squared_norm(gradient) + _NORM_FLOOR)
        return weight * tf.reduce_mean(tf.square(norm - 1.0))

    return penalty


def no_penalty(discriminate, real, fake, seed) -> tf.Tensor:
    """Returns 0, f32 []."""
    del discriminate, real, fake, seed
    return tf.zeros([])


def interpolate(real: tf.Tensor, fake: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns a real + (1 - a) fake, f32 [batch, ...]; a ~ U[0, 1), one per sample, from `seed` (integer [2])."""
    shape = tf.concat([tf.shape(real)[:1], tf.ones([real.shape.rank - 1], tf.int32)], axis=0)
    share = tf.random.stateless_uniform(shape, seed)
    return fake + share * (real - fake)


def _input_gradient(discriminate, samples):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(samples)
        logits = discriminate(samples)
    return tape.gradient(logits, samples, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def _squared_norm(gradient):
    return tf.reduce_sum(tf.square(gradient), axis=list(range(1, gradient.shape.rank)))


def _logistic_discriminator(real_logits, fake_logits):
    return tf.reduce_mean(tf.nn.softplus(-real_logits)) + tf.reduce_mean(tf.nn.softplus(fake_logits))


def _logistic_generator(fake_logits):
    return tf.reduce_mean(tf.nn.softplus(-fake_logits))


def _hinge_discriminator(real_logits, fake_logits):
    return tf.reduce_mean(tf.nn.relu(1.0 - real_logits)) + tf.reduce_mean(tf.nn.relu(1.0 + fake_logits))


def _critic_discriminator(real_logits, fake_logits):
    return tf.reduce_mean(fake_logits) - tf.reduce_mean(real_logits)


def _critic_generator(fake_logits):
    return -tf.reduce_mean(fake_logits)


def _non_saturating(config):
    penalty = r1_penalty(_non_negative(config, "r1_gamma"))
    return Loss("non_saturating", _logistic_generator, _logistic_discriminator, penalty)


def _hinge(config):
    return Loss("hinge", _critic_generator, _hinge_discriminator, r1_penalty(_non_negative(config, "r1_gamma")))


def _wgan_gp(config):
    penalty = gradient_penalty(_positive(config, "gradient_penalty"))
    return Loss("wgan_gp", _critic_generator, _critic_discriminator, penalty)


def _wgan_clip(config):
    bound = _positive(config, "clip_value")
    logging.warning(
        "`wgan_clip` projects the discriminator's weights after every step, and the analysis of error feedback does "
        "not cover a projection (arXiv:2510.03507): what the residual holds can push at the bound. Prefer `wgan_gp`."
    )
    return Loss("wgan_clip", _critic_generator, _critic_discriminator, no_penalty, clip_value=bound)


def _positive(config, field):
    value = getattr(config, field)
    if not 0 < value < float("inf"):
        raise ValueError(f"`{field}` must be positive and finite. Received: {field}={value}")
    return value


def _non_negative(config, field):
    value = getattr(config, field)
    if not 0 <= value < float("inf"):
        raise ValueError(f"`{field}` must be 0 or more and finite. Received: {field}={value}")
    return value


_LOSSES = {"non_saturating": _non_saturating, "hinge": _hinge, "wgan_gp": _wgan_gp, "wgan_clip": _wgan_clip}
