"""DCGAN players for images of 28, 32 or 64 pixels.

Generator: z -> dense to `base x base x 2^(levels-1) width` -> one 4x4 transposed convolution of stride 2 per level,
halving the filters down to `width`, the last one to the channels -> tanh; ReLU (and batch normalisation, by option)
between. Discriminator: one 4x4 convolution of stride 2 per level, from `width` doubling the filters, LeakyReLU(.2)
after each -> dense to one logit. It never has batch normalisation: a gradient penalty needs D(x) to depend on x alone
(Gulrajani et al. 2017, arXiv:1704.00028, sec. 4); its layers carry biases instead.

| pixels | base | levels | filters at width 64 | latent_dim | source |
|---|---|---|---|---|---|
| 28 | 7 | 2 | 128, 64 | 128 | the 32-pixel network without its 4x4 level |
| 32 | 4 | 3 | 256, 128, 64 | 128 | Gidel et al. 2019, arXiv:1802.10551, DCGAN of the WGAN-GP runs |
| 64 | 4 | 4 | 512, 256, 128, 64 | 100 | Radford et al. 2016, arXiv:1511.06434 |

Weights start as N(0, .02^2) (Radford et al. 2016). At 64 pixels, 3 channels and the defaults the generator has
3,576,704 trainable parameters and the discriminator 2,764,737. The customary total for both, 6,342,272, counts 1,792
parameters of batch normalisation in the discriminator where this one has 961 biases.
"""

import keras

from dqgan_tf.config import NetworkConfig
from dqgan_tf.gan.networks.players import Players, layer_seeds

LEVELS = {28: 2, 32: 3, 64: 4}
LATENT_DIM = {28: 128, 32: 128, 64: 100}
WIDTH = 64
KERNEL_SIZE = 4
INITIAL_STDDEV = 0.02


def build(config: NetworkConfig, data_shape: tuple[int, ...], seed: int) -> Players:
    """Returns DCGAN players for images [pixels, pixels, channels]; see `dqgan_tf.gan.networks.build`."""
    if len(data_shape) != 3:
        raise ValueError(f"`dcgan` draws images; use `mlp` for points. Received: data_shape={data_shape}")
    pixels, columns, _ = data_shape
    if pixels != columns or pixels not in LEVELS:
        raise ValueError(f"`dcgan` draws images of 28, 32 or 64 pixels. Received: data_shape={data_shape}")
    latent_dim = config.latent_dim or LATENT_DIM[pixels]
    width = config.width or WIDTH
    generator = _generator(latent_dim, width, data_shape, config.batch_norm, seed)
    return Players(generator, _discriminator(width, data_shape, seed), latent_dim)


def _generator(latent_dim, width, data_shape, batch_norm, seed):
    pixels, _, channels = data_shape
    levels = LEVELS[pixels]
    base, filters = pixels >> levels, width << (levels - 1)
    seeds = layer_seeds(seed, "generator")
    # A bias before batch normalisation would have no effect; the output then has none either, as in Radford et al.
    options = {"use_bias": not batch_norm}
    latent = keras.Input([latent_dim], name="latent")
    x = keras.layers.Dense(base * base * filters, kernel_initializer=_normal(seeds), name="project", **options)(latent)
    x = keras.layers.Reshape([base, base, filters], name="reshape")(x)
    x = _activate(x, 0, batch_norm)
    for level in range(1, levels):
        x = _upsample(filters >> level, seeds, f"up_{level}", **options)(x)
        x = _activate(x, level, batch_norm)
    x = _upsample(channels, seeds, "output", **options)(x)
    return keras.Model(latent, keras.layers.Activation("tanh", name="tanh")(x), name="generator")


def _discriminator(width, data_shape, seed):
    seeds = layer_seeds(seed, "discriminator")
    image = x = keras.Input(data_shape, name="image")
    for level in range(LEVELS[data_shape[0]]):
        x = _downsample(width << level, seeds, f"down_{level}")(x)
        x = keras.layers.LeakyReLU(0.2, name=f"leaky_relu_{level}")(x)
    x = keras.layers.Flatten(name="flat")(x)
    logit = keras.layers.Dense(1, kernel_initializer=_normal(seeds), name="output")(x)
    return keras.Model(image, logit, name="discriminator")


def _activate(x, level, batch_norm):
    if batch_norm:
        x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"batch_norm_{level}")(x)
    return keras.layers.ReLU(name=f"relu_{level}")(x)


def _upsample(filters, seeds, name, use_bias):
    return keras.layers.Conv2DTranspose(
        filters,
        KERNEL_SIZE,
        strides=2,
        padding="same",
        use_bias=use_bias,
        kernel_initializer=_normal(seeds),
        name=name,
    )


def _downsample(filters, seeds, name):
    return keras.layers.Conv2D(
        filters, KERNEL_SIZE, strides=2, padding="same", kernel_initializer=_normal(seeds), name=name
    )


def _normal(seeds):
    return keras.initializers.RandomNormal(stddev=INITIAL_STDDEV, seed=next(seeds))
