"""Architectures of both players, as built Keras models.

**mlp**, for points and small images. Generator: z -> 3 hidden layers with ReLU -> sample; the last layer is linear for
points, and tanh for images, whose range is [-1, 1]. Discriminator: sample -> 3 hidden layers with LeakyReLU(.2) ->
logit. Hidden weights are He normal (He et al. 2015, arXiv:1502.01852), output weights Glorot uniform, biases 0.

**dcgan**, for images of 28, 32 or 64 pixels. Generator: z -> dense to `base x base x 2^(levels-1) width` -> one 4x4
transposed convolution of stride 2 per level, which halves the filters down to `width`, and the last one to the channels
-> tanh. ReLU, and optionally batch normalisation, stand between. Discriminator: one 4x4 convolution of stride 2 per
level, which doubles the filters from `width`, each with LeakyReLU(.2) -> dense to one logit. It never has batch
normalisation, because a gradient penalty needs D(x) to depend on x alone (Gulrajani et al. 2017, arXiv:1704.00028,
sec. 4). Its layers have biases instead.

| pixels | base | levels | filters at width 64 | latent_dim | source |
|---|---|---|---|---|---|
| 28 | 7 | 2 | 128, 64 | 128 | the network for 32 pixels without its 4x4 level |
| 32 | 4 | 3 | 256, 128, 64 | 128 | Gidel et al. 2019, arXiv:1802.10551, DCGAN of the WGAN-GP runs |
| 64 | 4 | 4 | 512, 256, 128, 64 | 100 | Radford et al. 2016, arXiv:1511.06434 |

**resnet** and **sn_resnet**, for images of 28 or 32 pixels: the residual networks of WGAN-GP (Gulrajani et al. 2017,
arXiv:1704.00028, app. F) and of SNGAN (Miyato et al. 2018, arXiv:1802.05957, table 4). Generator: z -> dense to
`base x base x filters` -> one block per doubling of the pixels -> ReLU -> 3x3 convolution to the channels -> tanh. A
block is ReLU, nearest-neighbour upsampling, 3x3 convolution, ReLU, 3x3 convolution, beside a 1x1 convolution of the
upsampled input; optionally batch normalisation stands in front of every ReLU. Discriminator: four blocks, of which the
first two halve the pixels by means of 2x2 -> ReLU -> pooling over the pixels -> dense to one logit. Convolutions are
Glorot uniform (Glorot and Bengio 2010), those of 3x3 in blocks times sqrt(2). Base, levels and latent_dim are those of
dcgan.

| | filters of generator, discriminator | pooling | spectral normalisation of the discriminator |
|---|---|---|---|
| resnet | width, width (128) | mean | no |
| sn_resnet | 2 width, width (256, 128) | sum | every layer: the kernel over its largest singular value |

**Labels** (`num_classes`). The generator gets the latent and, behind it, an embedding of the label of the same length,
which starts as N(0, 1). The discriminator has a projection (Miyato and Koyama 2018, arXiv:1802.05637): its logit is
psi(phi(x)) + <v_y, phi(x)>, with phi(x) the last hidden layer, pooled over the pixels of an image (dcgan: their sum),
and v_y an embedding of the label.

Weights of dcgan start as N(0, .02^2) (Radford et al. 2016). With 64 pixels, 3 channels and the defaults the generator
has 3,576,704 trainable parameters and the discriminator 2,764,737. The usual total for both, 6,342,272, counts 1,792
parameters of batch normalisation in the discriminator where this one has 961 biases.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from dqgan_tf.config import NetworkConfig
from dqgan_tf.errors import UsageError

MLP_POINTS = {"latent_dim": 16, "width": 128}
MLP_IMAGES = {"latent_dim": 64, "width": 512}
MLP_HIDDEN_LAYERS = 3
DCGAN_LEVELS = {28: 2, 32: 3, 64: 4}
DCGAN_LATENT_DIM = {28: 128, 32: 128, 64: 100}
DCGAN_WIDTH = 64
RESNET_WIDTH, RESNET_PIXELS = 128, (28, 32)


class Players(NamedTuple):
    """Both players, built.

    generator: f32 [batch, latent_dim] -> f32 [batch, *data_shape]; with labels i32 [batch], of [latents, labels].
    discriminator: f32 [batch, *data_shape] -> logits f32 [batch, 1]; with labels, of [samples, labels]. It uses no
      batch statistics, so that each logit depends on its own sample alone.
    latent_dim: dimension of the standard normal latent.
    """

    generator: keras.Model
    discriminator: keras.Model
    latent_dim: int


def build(config: NetworkConfig, data_shape: tuple[int, ...], seed: int, num_classes: int | None = None) -> Players:
    """Returns both players for samples of `data_shape`: (dimensions,) for points, (height, width, channels) for images.

    With `num_classes`, both also take labels 0 to num_classes - 1.

    >>> players = build(NetworkConfig(network="dcgan"), (28, 28, 1), seed=0)
    >>> players.generator.output_shape, players.discriminator.output_shape, players.latent_dim
    ((None, 28, 28, 1), (None, 1), 128)

    Two calls with equal arguments give equal weights. Call it where variables may be created: eagerly, or in the scope
    of a strategy.

    Raises:
      UsageError: the network does not draw samples of this shape.
    """
    make = {"mlp": _mlp, "dcgan": _dcgan, "resnet": _resnet, "sn_resnet": _resnet}[config.network]
    return make(config, tuple(data_shape), seed, num_classes)


def _mlp(config: NetworkConfig, data_shape: tuple[int, ...], seed: int, num_classes: int | None) -> Players:
    if len(data_shape) not in (1, 3):
        raise UsageError(
            f"`mlp` draws points [n] or images [height, width, channels]. Received: data_shape={data_shape}"
        )
    defaults = MLP_POINTS if len(data_shape) == 1 else MLP_IMAGES
    latent_dim = config.latent_dim or defaults["latent_dim"]
    width = config.width or defaults["width"]

    seeds = _layer_seeds(seed, "generator")
    inputs, x = _latent_input(latent_dim, num_classes, seed)
    for layer in range(MLP_HIDDEN_LAYERS):
        x = keras.layers.ReLU(name=f"relu_{layer}")(_hidden(width, layer, seeds)(x))
    x = _output(math.prod(data_shape), seeds)(x)
    if len(data_shape) == 3:
        x = keras.layers.Activation("tanh", name="tanh")(x)
        x = keras.layers.Reshape(data_shape, name="image")(x)
    generator = keras.Model(inputs, x, name="generator")

    seeds = _layer_seeds(seed, "discriminator")
    sample = x = keras.Input(data_shape, name="sample")
    if len(data_shape) == 3:
        x = keras.layers.Flatten(name="flat")(x)
    for layer in range(MLP_HIDDEN_LAYERS):
        x = keras.layers.LeakyReLU(0.2, name=f"leaky_relu_{layer}")(_hidden(width, layer, seeds)(x))
    logit = _output(1, seeds)(x)
    initializer = keras.initializers.GlorotUniform(next(seeds))
    return Players(generator, _discriminator(sample, logit, x, num_classes, initializer), latent_dim)


def _latent_input(latent_dim: int, num_classes: int | None, seed: int) -> tuple[Any, keras.KerasTensor]:
    """Returns the generator's inputs and the tensor that its first layer gets."""
    latent = keras.Input([latent_dim], name="latent")
    if num_classes is None:
        return latent, latent
    label = keras.Input([], dtype="int32", name="label")
    initializer = keras.initializers.RandomNormal(stddev=1.0, seed=next(_layer_seeds(seed, "label")))
    embedding = keras.layers.Embedding(num_classes, latent_dim, initializer, name="embedding")(label)
    return [latent, label], keras.layers.Concatenate(name="latent_and_label")([latent, embedding])


def _as_it_is(layer: keras.layers.Layer) -> keras.layers.Layer:
    return layer


def _discriminator(
    sample: keras.KerasTensor,
    logit: keras.KerasTensor,
    features: keras.KerasTensor,
    num_classes: int | None,
    initializer: keras.initializers.Initializer,
    normalise: Callable[[keras.layers.Layer], Callable] = _as_it_is,
) -> keras.Model:
    """Returns the discriminator; with labels, its logit has the projection of the features [batch, n] added.

    `normalise` is applied to the layer of v_y.
    """
    if num_classes is None:
        return keras.Model(sample, logit, name="discriminator")
    label = keras.Input([], dtype="int32", name="label")
    if normalise is _as_it_is:
        vectors = keras.layers.Embedding(num_classes, features.shape[-1], initializer, name="projection")(label)
    else:
        # SpectralNormalization (Keras 3.15.1) casts the vectors to the dtype of its input: integers would make them 0.
        layer = keras.layers.Dense(
            features.shape[-1], use_bias=False, kernel_initializer=initializer, name="projection"
        )
        vectors = normalise(layer)(keras.ops.one_hot(label, num_classes))
    projection = keras.layers.Dot(1, name="product")([vectors, features])
    return keras.Model([sample, label], keras.layers.Add(name="logit")([logit, projection]), name="discriminator")


def _hidden(width: int, layer: int, seeds: Iterator[int]) -> keras.layers.Layer:
    initializer = keras.initializers.HeNormal(next(seeds))
    return keras.layers.Dense(width, kernel_initializer=initializer, name=f"hidden_{layer}")


def _output(units: int, seeds: Iterator[int]) -> keras.layers.Layer:
    initializer = keras.initializers.GlorotUniform(next(seeds))
    return keras.layers.Dense(units, kernel_initializer=initializer, name="output")


def _dcgan(config: NetworkConfig, data_shape: tuple[int, ...], seed: int, num_classes: int | None) -> Players:
    if len(data_shape) != 3:
        raise UsageError(f"`dcgan` draws images; use `mlp` for points. Received: data_shape={data_shape}")
    pixels, columns, channels = data_shape
    if pixels != columns or pixels not in DCGAN_LEVELS:
        raise UsageError(
            "`dcgan` draws images of 28, 32 or 64 pixels; set image_size=32, for example, or use `mlp`. "
            f"Received: data_shape={data_shape}"
        )
    latent_dim, width = config.latent_dim or DCGAN_LATENT_DIM[pixels], config.width or DCGAN_WIDTH
    levels = DCGAN_LEVELS[pixels]
    base, filters = pixels >> levels, width << (levels - 1)

    seeds = _layer_seeds(seed, "generator")
    # A bias in front of batch normalisation has no effect. The output layer then has none either (Radford et al. 2016).
    use_bias = not config.batch_norm
    inputs, x = _latent_input(latent_dim, num_classes, seed)
    x = keras.layers.Dense(base * base * filters, kernel_initializer=_normal(seeds), name="project", use_bias=use_bias)(
        x
    )
    x = keras.layers.Reshape([base, base, filters], name="reshape")(x)
    x = _activate(x, 0, config.batch_norm)
    for level in range(1, levels):
        x = _upsample(filters >> level, seeds, f"up_{level}", use_bias)(x)
        x = _activate(x, level, config.batch_norm)
    x = _upsample(channels, seeds, "output", use_bias)(x)
    generator = keras.Model(inputs, keras.layers.Activation("tanh", name="tanh")(x), name="generator")

    seeds = _layer_seeds(seed, "discriminator")
    image = x = keras.Input(data_shape, name="image")
    for level in range(levels):
        options = {"strides": 2, "padding": "same", "kernel_initializer": _normal(seeds), "name": f"down_{level}"}
        x = keras.layers.Conv2D(width << level, 4, **options)(x)
        x = keras.layers.LeakyReLU(0.2, name=f"leaky_relu_{level}")(x)
    logit = keras.layers.Dense(1, kernel_initializer=_normal(seeds), name="output")(
        keras.layers.Flatten(name="flat")(x)
    )
    features = x if num_classes is None else keras.ops.sum(x, axis=(1, 2))
    return Players(generator, _discriminator(image, logit, features, num_classes, _normal(seeds)), latent_dim)


def _resnet(config: NetworkConfig, data_shape: tuple[int, ...], seed: int, num_classes: int | None) -> Players:
    """Both residual networks."""
    if len(data_shape) != 3:
        raise UsageError(f"`{config.network}` draws images; use `mlp` for points. Received: data_shape={data_shape}")
    pixels, columns, channels = data_shape
    if pixels != columns or pixels not in RESNET_PIXELS:
        raise UsageError(
            f"`{config.network}` draws images of 28 or 32 pixels; set image_size=32, or use `dcgan`. "
            f"Received: data_shape={data_shape}"
        )
    is_normalised = config.network == "sn_resnet"
    latent_dim, width = config.latent_dim or DCGAN_LATENT_DIM[pixels], config.width or RESNET_WIDTH
    levels, filters = DCGAN_LEVELS[pixels], width << is_normalised
    base = pixels >> levels

    seeds = _layer_seeds(seed, "generator")
    inputs, x = _latent_input(latent_dim, num_classes, seed)
    x = keras.layers.Dense(base * base * filters, kernel_initializer=_glorot(seeds), name="project")(x)
    x = keras.layers.Reshape([base, base, filters], name="reshape")(x)
    for level in range(levels):
        x = _up_block(x, filters, seeds, level, config.batch_norm)
    x = _activate(x, 2 * levels, config.batch_norm)
    x = _convolution(channels, 3, _glorot(seeds), "output")(x)
    generator = keras.Model(inputs, keras.layers.Activation("tanh", name="tanh")(x), name="generator")

    seeds = _layer_seeds(seed, "discriminator")
    normalise = _spectral_normalisation(_layer_seeds(seed, "vectors")) if is_normalised else _as_it_is
    image = x = keras.Input(data_shape, name="image")
    for block in range(4):
        x = _down_block(x, width, seeds, block, normalise)
    x = keras.layers.ReLU(name="relu")(x)
    x = (keras.ops.sum if is_normalised else keras.ops.mean)(x, axis=(1, 2))
    output = keras.layers.Dense(1, use_bias=not is_normalised, kernel_initializer=_glorot(seeds), name="output")
    discriminator = _discriminator(image, normalise(output)(x), x, num_classes, _glorot(seeds), normalise)
    return Players(generator, discriminator, latent_dim)


def _up_block(
    x: keras.KerasTensor, filters: int, seeds: Iterator[int], level: int, batch_norm: bool
) -> keras.KerasTensor:
    """Returns the output of a generator's block, with twice the pixels of x."""
    residual = _activate(x, 2 * level, batch_norm)
    residual = keras.layers.UpSampling2D(name=f"up_{level}")(residual)
    residual = _convolution(filters, 3, _glorot(seeds, 2.0), f"first_{level}")(residual)
    residual = _activate(residual, 2 * level + 1, batch_norm)
    residual = _convolution(filters, 3, _glorot(seeds, 2.0), f"second_{level}")(residual)
    shortcut = keras.layers.UpSampling2D(name=f"shortcut_up_{level}")(x)
    shortcut = _convolution(filters, 1, _glorot(seeds), f"shortcut_{level}")(shortcut)
    return keras.layers.Add(name=f"block_{level}")([residual, shortcut])


def _down_block(
    x: keras.KerasTensor,
    filters: int,
    seeds: Iterator[int],
    block: int,
    normalise: Callable[[keras.layers.Layer], Callable],
) -> keras.KerasTensor:
    """Returns the output of a discriminator's block: half the pixels of x for blocks 0 and 1, as many for 2 and 3.

    Block 0 gets the image, so no ReLU stands in front of it, and its shortcut halves the pixels before it convolves.
    """
    residual = x if block == 0 else keras.layers.ReLU(name=f"relu_{block}_first")(x)
    residual = normalise(_convolution(filters, 3, _glorot(seeds, 2.0), f"first_{block}"))(residual)
    residual = keras.layers.ReLU(name=f"relu_{block}_second")(residual)
    residual = normalise(_convolution(filters, 3, _glorot(seeds, 2.0), f"second_{block}"))(residual)
    shortcut = x
    if block < 2:
        residual = keras.layers.AveragePooling2D(2, name=f"down_{block}")(residual)
        halve = keras.layers.AveragePooling2D(2, name=f"shortcut_down_{block}")
        convolve = normalise(_convolution(filters, 1, _glorot(seeds), f"shortcut_{block}"))
        shortcut = convolve(halve(x)) if block == 0 else halve(convolve(x))
    return keras.layers.Add(name=f"block_{block}")([residual, shortcut])


def _convolution(filters: int, size: int, initializer: keras.initializers.Initializer, name: str) -> keras.layers.Layer:
    return keras.layers.Conv2D(filters, size, padding="same", kernel_initializer=initializer, name=name)


def _spectral_normalisation(seeds: Iterator[int]) -> Callable[[keras.layers.Layer], Callable]:
    """Returns a function that wraps a layer; seeds also give the start of its power iteration."""

    def normalise(layer: keras.layers.Layer) -> Callable:
        wrapped = keras.layers.SpectralNormalization(layer, name=f"{layer.name}_normalised")

        def call(x: keras.KerasTensor) -> keras.KerasTensor:
            y = wrapped(x)
            wrapped.vector_u.assign(_normal(seeds)(wrapped.vector_u.shape))
            return y

        return call

    return normalise


def _glorot(seeds: Iterator[int], gain: float = 1.0) -> keras.initializers.Initializer:
    """Uniform with variance 2 gain / (inputs + outputs)."""
    return keras.initializers.VarianceScaling(gain, "fan_avg", "uniform", next(seeds))


def _activate(x: keras.KerasTensor, level: int, batch_norm: bool) -> keras.KerasTensor:
    if batch_norm:
        x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"batch_norm_{level}")(x)
    return keras.layers.ReLU(name=f"relu_{level}")(x)


def _upsample(filters: int, seeds: Iterator[int], name: str, use_bias: bool) -> keras.layers.Layer:
    options = {"strides": 2, "padding": "same", "kernel_initializer": _normal(seeds), "name": name}
    return keras.layers.Conv2DTranspose(filters, 4, use_bias=use_bias, **options)


def _normal(seeds: Iterator[int]) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.02, seed=next(seeds))


def _layer_seeds(seed: int, player: str) -> Iterator[int]:
    """Yields one 32-bit seed per layer, a function of (seed, player, index of the layer)."""
    entropy = [seed % 2**64, *player.encode()]
    layer = 0
    while True:
        yield int(np.random.SeedSequence([*entropy, layer]).generate_state(1)[0])
        layer += 1
