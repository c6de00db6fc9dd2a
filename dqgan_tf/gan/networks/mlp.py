"""Fully connected players: for points, and for small images seen as flat vectors.

Generator: z [latent_dim] -> 3 hidden layers of ReLU -> sample; the last layer is linear for points and tanh for images,
whose range is [-1, 1]. Discriminator: sample -> 3 hidden layers of LeakyReLU(.2) -> logit.
Hidden weights are He normal (He et al. 2015, arXiv:1502.01852), output weights Glorot uniform, biases 0.
"""

import math

import keras

from dqgan_tf.config import NetworkConfig
from dqgan_tf.gan.networks.players import Players, layer_seeds

HIDDEN_LAYERS = 3
POINT_DEFAULTS = {"latent_dim": 16, "width": 128}
IMAGE_DEFAULTS = {"latent_dim": 64, "width": 512}


def build(config: NetworkConfig, data_shape: tuple[int, ...], seed: int) -> Players:
    """Returns MLP players for points (rank 1) or images (rank 3); see `dqgan_tf.gan.networks.build`."""
    if len(data_shape) not in (1, 3):
        raise ValueError(
            f"`mlp` draws points [n] or images [rows, columns, channels]. Received: data_shape={data_shape}"
        )
    defaults = POINT_DEFAULTS if len(data_shape) == 1 else IMAGE_DEFAULTS
    latent_dim = config.latent_dim or defaults["latent_dim"]
    width = config.width or defaults["width"]
    return Players(_generator(latent_dim, width, data_shape, seed), _discriminator(width, data_shape, seed), latent_dim)


def _generator(latent_dim, width, data_shape, seed):
    seeds = layer_seeds(seed, "generator")
    latent = x = keras.Input([latent_dim], name="latent")
    for layer in range(HIDDEN_LAYERS):
        x = keras.layers.ReLU(name=f"relu_{layer}")(_hidden(width, layer, seeds)(x))
    x = _output(math.prod(data_shape), seeds)(x)
    if len(data_shape) == 3:
        x = keras.layers.Activation("tanh", name="tanh")(x)
        x = keras.layers.Reshape(data_shape, name="image")(x)
    return keras.Model(latent, x, name="generator")


def _discriminator(width, data_shape, seed):
    seeds = layer_seeds(seed, "discriminator")
    sample = x = keras.Input(data_shape, name="sample")
    if len(data_shape) == 3:
        x = keras.layers.Flatten(name="flat")(x)
    for layer in range(HIDDEN_LAYERS):
        x = keras.layers.LeakyReLU(0.2, name=f"leaky_relu_{layer}")(_hidden(width, layer, seeds)(x))
    return keras.Model(sample, _output(1, seeds)(x), name="discriminator")


def _hidden(width, layer, seeds):
    initializer = keras.initializers.HeNormal(next(seeds))
    return keras.layers.Dense(width, kernel_initializer=initializer, name=f"hidden_{layer}")


def _output(units, seeds):
    initializer = keras.initializers.GlorotUniform(next(seeds))
    return keras.layers.Dense(units, kernel_initializer=initializer, name="output")
