"""Shapes, parameter counts by formula, and weights as a function of the seed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.config import CompressionConfig, LossConfig, NetworkConfig, OptimizerConfig
from dqgan_tf.errors import UsageError
from dqgan_tf.gan import inputs, networks
from dqgan_tf.gan.model import DQGAN
from tests.gan.local_strategy import local_strategy

DCGAN_SHAPES = [(28, 28, 1), (32, 32, 3), (64, 64, 3)]
RESNETS = [("resnet", (28, 28, 1)), ("resnet", (32, 32, 3)), ("sn_resnet", (32, 32, 3))]
ALL = [("mlp", (2,)), ("mlp", (28, 28, 1)), *(("dcgan", shape) for shape in DCGAN_SHAPES), *RESNETS]


def small(network, shape, seed=0, **options):
    return networks.build(NetworkConfig(network=network, width=8, latent_dim=5, **options), shape, seed)


def count(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def layers(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


@pytest.mark.parametrize(("network", "shape"), ALL)
class TestEveryNetwork:
    def test_shapes(self, network, shape):
        generator, discriminator, latent_dim = small(network, shape)
        samples = generator(np.zeros([3, latent_dim], np.float32))
        assert latent_dim == 5
        assert tuple(samples.shape) == (3, *shape)
        assert tuple(discriminator(samples).shape) == (3, 1)
        assert generator.input_shape == (None, 5)
        assert generator.dtype == discriminator.dtype == "float32"

    def test_equal_seeds_give_equal_weights(self, network, shape):
        first, again, other = (small(network, shape, seed) for seed in (7, 7, 8))
        for player in ("generator", "discriminator"):
            weights = getattr(first, player).get_weights()
            for mine, same in zip(weights, getattr(again, player).get_weights(), strict=True):
                np.testing.assert_array_equal(mine, same)
            pairs = zip(weights, getattr(other, player).get_weights(), strict=True)
            assert all(np.any(mine != different) for mine, different in pairs if mine.ndim > 1)

    def test_no_two_kernels_begin_alike(self, network, shape):
        players = small(network, shape)
        models = (players.generator, players.discriminator)
        kernels = [v.numpy().ravel() for model in models for v in model.trainable_variables if len(v.shape) > 1]
        heads = {tuple(np.round(kernel[:4] / kernel.std(), 3)) for kernel in kernels}
        assert len(heads) == len(kernels)

    def test_discriminator_treats_samples_separately(self, network, shape):
        discriminator = small(network, shape).discriminator
        samples = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
        weights = discriminator.get_weights()
        together = discriminator(samples, training=True).numpy()[:1]
        discriminator.set_weights(weights)  # spectral normalisation changes them
        alone = discriminator(samples[:1], training=True).numpy()
        np.testing.assert_allclose(
            alone, together, rtol=1e-4, atol=1e-6
        )  # another batch, another order of float32 sums
        assert not layers(discriminator, keras.layers.BatchNormalization)

    def test_images_are_in_range(self, network, shape):
        generator = small(network, shape).generator
        samples = generator(1e3 * np.ones([2, 5], np.float32)).numpy()
        assert np.all(np.isfinite(samples))
        assert len(shape) == 1 or np.abs(samples).max() <= 1


class TestDcgan:
    def test_reference_size_at_64_pixels(self):
        """3,576,704 is the generator's count of Radford et al. 2016 at 64 filters, latent 100, 3 channels.

        Both players have 6,342,272 there; ours lack the discriminator's batch normalisation, 2 (128 + 256 + 512)
        parameters, and have a bias per filter, 64 + 128 + 256 + 512, and one for the logit.
        """
        players = networks.build(NetworkConfig(network="dcgan"), (64, 64, 3), 0)
        assert players.latent_dim == 100
        assert count(players.generator) == 3_576_704
        assert count(players.discriminator) == 6_342_272 - 3_576_704 - 2 * (128 + 256 + 512) + (
            64 + 128 + 256 + 512 + 1
        )

    @pytest.mark.parametrize("batch_norm", [True, False])
    def test_counts_at_32_pixels(self, batch_norm):
        """Gidel et al. 2019: 128 -> 4x4x256 -> 128 -> 64 -> 3 and 3 -> 64 -> 128 -> 256 -> 1, 4x4 kernels."""
        players = networks.build(NetworkConfig(network="dcgan", batch_norm=batch_norm), (32, 32, 3), 0)
        kernels = 128 * 4096 + 16 * (256 * 128 + 128 * 64 + 64 * 3)
        scale_and_offset, biases = 2 * (256 + 128 + 64), 4096 + 128 + 64 + 3
        assert players.latent_dim == 128
        assert count(players.generator) == kernels + (scale_and_offset if batch_norm else biases)
        kernels = 16 * (3 * 64 + 64 * 128 + 128 * 256) + 4096
        assert count(players.discriminator) == kernels + 64 + 128 + 256 + 1

    def test_counts_at_28_pixels(self):
        """128 -> 7x7x128 -> 64 -> 1 and 1 -> 64 -> 128 -> 1."""
        players = networks.build(NetworkConfig(network="dcgan"), (28, 28, 1), 0)
        assert count(players.generator) == 128 * 6272 + 16 * (128 * 64 + 64) + 2 * (128 + 64)
        assert count(players.discriminator) == 16 * (64 + 64 * 128) + 6272 + 64 + 128 + 1

    @pytest.mark.parametrize("shape", DCGAN_SHAPES)
    def test_batch_norm_is_an_option_of_the_generator(self, shape):
        assert layers(small("dcgan", shape).generator, keras.layers.BatchNormalization)
        assert not layers(small("dcgan", shape, batch_norm=False).generator, keras.layers.BatchNormalization)

    def test_initial_weights(self):
        """N(0, .02^2): four standard errors of the standard deviation of n values are 4 * .02 / sqrt(2 n)."""
        players = networks.build(NetworkConfig(network="dcgan"), (32, 32, 3), 0)
        for model in (players.generator, players.discriminator):
            for variable in model.trainable_variables:
                weight = variable.numpy()
                if weight.ndim > 1:
                    assert weight.std() == pytest.approx(0.02, abs=4 * 0.02 / np.sqrt(2 * weight.size))
                    assert weight.mean() == pytest.approx(0, abs=4 * 0.02 / np.sqrt(weight.size))


class TestResnet:
    def test_counts_of_sngan(self):
        """4,276,739 is the generator's usual count (Miyato et al. 2018, table 4); the discriminator's is by hand."""
        players = networks.build(NetworkConfig(network="sn_resnet"), (32, 32, 3), 0)
        assert players.latent_dim == 128 and count(players.generator) == 4_276_739
        convolution, shortcut = 9 * 128 * 128 + 128, 128 * 128 + 128
        first = 9 * 3 * 128 + 128 + convolution + 3 * 128 + 128
        assert count(players.discriminator) == first + 6 * convolution + shortcut + 128

    def test_counts_of_wgan_gp(self):
        """128 -> 4x4x128 -> three blocks -> 3, batch normalisation twice a block and at the end; biases everywhere."""
        players = networks.build(NetworkConfig(network="resnet"), (32, 32, 3), 0)
        convolution, shortcut = 9 * 128 * 128 + 128, 128 * 128 + 128
        block, last = 2 * convolution + shortcut + 4 * 128, 2 * 128 + 9 * 128 * 3 + 3
        assert count(players.generator) == 128 * 2048 + 2048 + 3 * block + last
        first = 9 * 3 * 128 + 128 + convolution + 3 * 128 + 128
        assert count(players.discriminator) == first + 6 * convolution + shortcut + 128 + 1

    @pytest.mark.parametrize(("network", "shape"), RESNETS)
    def test_the_generator_by_hand(self, network, shape):
        generator = small(network, shape, batch_norm=False).generator
        latent = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
        weights = {v.path: v.numpy() for v in generator.weights}
        base, levels = (7, 2) if shape[0] == 28 else (4, 3)
        x = (latent @ weights["project/kernel"] + weights["project/bias"]).reshape(2, base, base, -1)
        for level in range(levels):
            residual = convolved(weights, f"first_{level}", doubled(np.maximum(x, 0)))
            residual = convolved(weights, f"second_{level}", np.maximum(residual, 0))
            x = residual + convolved(weights, f"shortcut_{level}", doubled(x))
        expected = np.tanh(convolved(weights, "output", np.maximum(x, 0)))
        np.testing.assert_allclose(generator(latent).numpy(), expected, rtol=1e-4, atol=1e-5)
        assert expected.shape == (2, *shape) and expected.std() > 0.01

    @pytest.mark.parametrize(("network", "shape"), RESNETS)
    def test_the_discriminator_by_hand(self, network, shape):
        """While it is not trained, spectral normalisation takes the kernels as they are."""
        discriminator = small(network, shape).discriminator
        image = np.random.default_rng(1).uniform(-1, 1, (2, *shape)).astype(np.float32)
        weights = {v.path.split("/", v.path.count("/") - 1)[-1]: v.numpy() for v in discriminator.trainable_variables}
        x = convolved(weights, "first_0", image)
        x = halved(convolved(weights, "second_0", np.maximum(x, 0))) + convolved(weights, "shortcut_0", halved(image))
        for block in (1, 2, 3):
            residual = convolved(weights, f"first_{block}", np.maximum(x, 0))
            residual = convolved(weights, f"second_{block}", np.maximum(residual, 0))
            x = halved(residual) + halved(convolved(weights, "shortcut_1", x)) if block == 1 else residual + x
        pooled = (np.sum if network == "sn_resnet" else np.mean)(np.maximum(x, 0), axis=(1, 2))
        expected = pooled @ weights["output/kernel"] + weights.get("output/bias", 0)
        np.testing.assert_allclose(discriminator(image).numpy(), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    def test_every_kernel_of_sn_resnet_is_normalised(self):
        """Each step of the power iteration assigns the kernel over its largest singular value."""
        discriminator = networks.build(
            NetworkConfig(network="sn_resnet", width=4), (32, 32, 3), 0, num_classes=3
        ).discriminator
        image, labels = np.ones([1, 32, 32, 3], np.float32), np.array([0])
        for _ in range(60):
            discriminator([image, labels], training=True)
        matrices = [w.numpy().reshape(-1, w.shape[-1]) for w in discriminator.trainable_variables if len(w.shape) > 1]
        largest = [np.linalg.svd(matrix, compute_uv=False)[0] for matrix in matrices]
        assert len(largest) == 2 * 4 + 2 + 2  # two a block, two shortcuts, the logit and the projection
        np.testing.assert_allclose(largest, 1, atol=0.02)

    def test_initial_weights(self):
        """Variance 2 gain / (inputs + outputs), uniform: within sqrt(3) standard deviations."""
        weights = {v.path: v.numpy() for v in networks.build(NetworkConfig("resnet"), (32, 32, 3), 0).generator.weights}
        for name, gain in (("first_0", 2), ("second_1", 2), ("shortcut_0", 1), ("output", 1), ("project", 1)):
            kernel = weights[f"{name}/kernel"]
            patch = np.prod(kernel.shape[:-2])
            expected = np.sqrt(2 * gain / (patch * (kernel.shape[-2] + kernel.shape[-1])))
            assert kernel.std() == pytest.approx(expected, rel=4 / np.sqrt(2 * kernel.size))
            assert np.abs(kernel).max() < 1.001 * np.sqrt(3) * expected

    @pytest.mark.parametrize("shape", [(64, 64, 3), (32, 28, 1)])
    def test_size(self, shape):
        with pytest.raises(UsageError, match=r"`sn_resnet` draws images of 28 or 32 pixels; .* data_shape="):
            networks.build(NetworkConfig(network="sn_resnet"), shape, 0)


def convolved(weights, name, x):
    return tf.nn.conv2d(x, weights[f"{name}/kernel"], 1, "SAME").numpy() + weights[f"{name}/bias"]


def doubled(x):
    """Nearest neighbour: every pixel four times."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def halved(x):
    """Means of 2x2 pixels."""
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


class TestMlp:
    def test_counts_for_points(self):
        """16 -> 128 -> 128 -> 128 -> 2 and 2 -> 128 -> 128 -> 128 -> 1, with biases."""
        players = networks.build(NetworkConfig(), (2,), 0)
        assert players.latent_dim == 16
        assert count(players.generator) == 16 * 128 + 2 * 128 * 128 + 128 * 2 + 3 * 128 + 2
        assert count(players.discriminator) == 2 * 128 + 2 * 128 * 128 + 128 + 3 * 128 + 1

    def test_points_are_not_squashed(self):
        generator = small("mlp", (2,)).generator
        assert np.abs(generator(1e3 * np.ones([1, 5], np.float32)).numpy()).max() > 1


class TestErrors:
    def test_unknown_network(self):
        with pytest.raises(UsageError, match="one of mlp, dcgan, resnet, sn_resnet. Received: network='vgg'"):
            networks.build(NetworkConfig(network="vgg"), (32, 32, 3), 0)

    @pytest.mark.parametrize("shape", [(48, 48, 3), (32, 64, 3)])
    def test_dcgan_size(self, shape):
        with pytest.raises(UsageError, match=r"images of 28, 32 or 64 pixels; .* data_shape=\(\d+, \d+, 3\)"):
            networks.build(NetworkConfig(network="dcgan"), shape, 0)

    def test_dcgan_of_points(self):
        with pytest.raises(UsageError, match=r"use `mlp` for points. Received: data_shape=\(2,\)"):
            networks.build(NetworkConfig(network="dcgan"), (2,), 0)

    def test_mlp_of_a_matrix(self):
        with pytest.raises(UsageError, match=r"Received: data_shape=\(4, 4\)"):
            networks.build(NetworkConfig(), (4, 4), 0)

    @pytest.mark.parametrize("field", ["width", "latent_dim"])
    def test_size_below_one(self, field):
        with pytest.raises(UsageError, match=f"`{field}` must be a whole number of at least 1. Received: {field}=0"):
            networks.build(NetworkConfig(**{field: 0}), (2,), 0)


def model(*layers):
    return keras.Sequential([keras.Input([4]), *layers])


def functional(end):
    x = keras.Input([4])
    return keras.Model(x, end(keras.layers.Dense(2)(x)))


L = keras.layers


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (model(L.Dense(2, "sigmoid")), "sigmoid"),
        (model(L.Dense(2), L.Activation("sigmoid")), "sigmoid"),
        (model(L.Dense(2, "tanh"), L.Reshape([2, 1]), L.Flatten()), "tanh"),
        (model(L.Dense(2), L.Softmax()), "softmax"),
        (model(model(L.Dense(4, "sigmoid")), L.Flatten()), "sigmoid"),
        (functional(keras.ops.sigmoid), "sigmoid"),
        (functional(lambda x: keras.ops.expand_dims(keras.ops.tanh(x), 1)), "tanh"),
        (functional(lambda x: L.Flatten()(functional(L.Activation("sigmoid"))(L.Dense(4)(x)))), "sigmoid"),
        (model(L.Dense(2, "sigmoid"), L.Dense(2)), "linear"),
        (functional(lambda x: 2.0 * keras.ops.tanh(x)), "Multiply"),
    ],
)
def test_last_activation(network, expected):
    assert inputs.last_activation(network) == expected


class TestRange:
    @pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
    def test_images_of_the_networks_fit(self, shape, caplog):
        inputs.check_range(small("dcgan", shape).generator, np.array([[-1.0, 1.0], [-1.04, 0.3]]))
        inputs.check_range(small("mlp", (2,)).generator, np.array([[-100.0, 100.0]]))  # linear
        assert not caplog.text

    @pytest.mark.parametrize(
        ("end", "ranges", "message"),
        [
            ("tanh", [[-1, 1], [0, 255]], r"draws values in \[-1, 1\], .* from -1 to 255. .* or give bytes"),
            ("tanh", [[-2.1, 2.6]], "from -2.1 to 2.6"),
            ("sigmoid", [[-1, 1]], r"draws values in \[0, 1\], .* from -1 to 1. .* or end it in tanh"),
        ],
    )
    def test_samples_that_it_cannot_draw(self, end, ranges, message):
        with pytest.raises(UsageError, match=message):
            inputs.check_range(model(L.Dense(2, end)), np.array(ranges, np.float32))

    @pytest.mark.parametrize(("end", "warned"), [("tanh", True), ("sigmoid", False)])
    def test_samples_without_a_negative_value(self, end, warned, caplog):
        with caplog.at_level("WARNING"):
            inputs.check_range(model(L.Dense(2, end)), np.array([[0.0, 1.0]]))
        assert ("scale them by 2 x - 1" in caplog.text) == warned

    def test_ranges_that_say_nothing(self, caplog):
        inputs.check_range(model(L.Dense(2, "tanh")), np.array([[np.nan, np.nan], [0.0, 0.0], [-np.inf, 300.0]]))
        assert not caplog.text


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.embedding = keras.layers.Embedding(7, 5)

    def call(self, inputs):
        return inputs[0] * self.embedding(inputs[1])


class TestLabels:
    def test_the_number_of_labels_of_networks_with_and_without_symbolic_inputs(self):
        built = networks.build(NetworkConfig(network="mlp", width=8, latent_dim=5), (2,), 3, num_classes=4)
        assert inputs.num_labels(built.generator, built.discriminator) == 4
        own = Subclassed()
        own([np.ones([2, 5], np.float32), np.array([0, 6])])
        assert inputs.num_labels(own, own) is None
        assert inputs.num_labels(own, built.discriminator) == 4

    @pytest.mark.parametrize(
        ("network", "shape"), [("mlp", (2,)), ("mlp", (28, 28, 1)), ("dcgan", (28, 28, 1)), *RESNETS]
    )
    def test_the_logit_has_a_projection(self, network, shape):
        """D(x, y) - D(x, z) = <v_y - v_z, phi(x)>, and D(x, y) = psi(phi(x)) where v_y = 0."""
        config = NetworkConfig(network=network, width=8, latent_dim=5)
        discriminator = networks.build(config, shape, 3, num_classes=4).discriminator
        plain = networks.build(config, shape, 3).discriminator
        last = {"mlp": "leaky_relu_2", "dcgan": "leaky_relu_1"}.get(network, "relu")
        hidden = keras.Model(discriminator.inputs[0], discriminator.get_layer(last).output)
        samples = np.random.default_rng(0).uniform(-1, 1, (4, *shape)).astype(np.float32)
        features = hidden(samples).numpy()
        if features.ndim == 4:
            features = (np.mean if network == "resnet" else np.sum)(features, axis=(1, 2))
        [vectors] = [w.numpy() for w in discriminator.trainable_variables if "projection" in w.path]
        assert vectors.shape == (4, features.shape[1])
        logits = discriminator([samples, np.array([2, 0, 1, 3])]).numpy()[:, 0]
        expected = plain(samples).numpy()[:, 0] + np.sum(vectors[[2, 0, 1, 3]] * features, 1)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        assert np.std(np.sum(vectors[[2, 0, 1, 3]] * features, 1)) > 1e-4

    @pytest.mark.parametrize(("network", "shape"), [("mlp", (2,)), ("dcgan", (28, 28, 1)), *RESNETS])
    def test_the_generator_draws_another_sample_for_another_label(self, network, shape):
        config = NetworkConfig(network=network, width=8, latent_dim=5)
        generator = networks.build(config, shape, 3, num_classes=4).generator
        latent = np.ones([3, 5], np.float32)
        drawn = generator([latent, np.array([0, 1, 0])]).numpy()
        assert drawn.shape == (3, *shape)
        np.testing.assert_allclose(drawn[0], drawn[2], rtol=1e-5, atol=1e-6)
        assert np.abs(drawn[0] - drawn[1]).max() > 1e-4

    def test_both_networks_take_labels_or_none(self):
        config = NetworkConfig(width=8)
        labelled, plain = (networks.build(config, (2,), 0, num_classes=count) for count in (4, None))
        assert inputs.takes_labels(*labelled[:2]) and not inputs.takes_labels(*plain[:2])
        with pytest.raises(UsageError, match="Received: 2 and 1 inputs"):
            inputs.takes_labels(labelled.generator, plain.discriminator)
        x, y = keras.Input([2]), keras.Input([3])
        named = keras.Model({"x": x, "label": y}, L.Concatenate()([x, y]))
        with pytest.raises(UsageError, match=r"must take one tensor, or a list \[latents, labels\]"):
            inputs.takes_labels(named, labelled.discriminator)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "loss"), [("resnet", "wgan_gp"), ("sn_resnet", "hinge")])
def test_residual_networks_take_steps(network, loss):
    """Two replicas take two steps, second derivatives included; both have the same weights, which have moved."""
    strategy = local_strategy(2)
    with strategy.scope():
        players = networks.build(NetworkConfig(network, width=4, latent_dim=5), (28, 28, 1), 0)
        model = DQGAN(players.generator, players.discriminator, loss=LossConfig(loss, r1_gamma=0.0))
    model.compile(OptimizerConfig(), CompressionConfig("sign:bucket=512"))
    before = players.discriminator.get_weights()
    images = np.random.default_rng(0).uniform(-1, 1, (2, 4, 28, 28, 1)).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices(images).repeat()
    model.train_steps(iter(strategy.distribute_datasets_from_function(lambda context: data)), 2)
    assert int(model.local_value(model.skipped)) == 0
    digests = model.weight_digests()
    np.testing.assert_array_equal(digests[0], digests[1])
    moved = [np.abs(a - b).max() for a, b in zip(players.discriminator.get_weights(), before, strict=True)]
    assert min(moved) > 0 and np.isfinite(max(moved))
