"""Both gradients at one point: one evaluation of D(real) against two, order of state updates, number of evaluations."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.config import LossConfig, NetworkConfig
from dqgan_tf.gan import losses, networks
from dqgan_tf.gan.gradients import in_micro_batches, simultaneous_gradients

BATCH, LATENT_DIM = 6, 5
SEED = tf.constant([3, 4], tf.int64)
SHAPES = {"mlp": (2,), "dcgan": (28, 28, 1)}


def batch(shape):
    random = np.random.default_rng(0)
    real, latent = random.uniform(-1, 1, (BATCH, *shape)), random.standard_normal((BATCH, LATENT_DIM))
    return tf.constant(real, tf.float32), tf.constant(latent, tf.float32)


def evaluate(generator, discriminator, loss, real, latent):
    """Returns the evaluation at the networks' own weights, from a `tf.function` as in training."""
    weights = [[v.value for v in model.trainable_variables] for model in (generator, discriminator)]
    states = [[v.value for v in model.non_trainable_variables] for model in (generator, discriminator)]

    @tf.function(autograph=False)
    def compute():
        return simultaneous_gradients(generator, discriminator, loss, weights, states, real, latent, SEED)

    return compute()


def r1_by_a_second_evaluation(gamma):
    """Returns the R1 penalty from another evaluation of D at the real samples."""

    def penalty(real_gradient, discriminate, real, fake, seed):
        del real_gradient, fake, seed
        with tf.GradientTape() as tape:
            tape.watch(real)
            logits = discriminate(real)
        slope = tf.reshape(tape.gradient(logits, real), [BATCH, -1])
        return gamma / 2 * tf.reduce_mean(tf.reduce_sum(slope**2, axis=1))

    return penalty


@pytest.mark.parametrize("name", ["non_saturating", "hinge"])
@pytest.mark.parametrize("network", SHAPES)
def test_one_evaluation_equals_two_up_to_rounding(network, name):
    """The sums run in another order, which costs float32 a few units of 6e-8."""
    gamma = 10.0
    loss = losses.get(LossConfig(loss=name, r1_gamma=gamma))
    twice = dataclasses.replace(loss, penalty=r1_by_a_second_evaluation(gamma))
    generator, discriminator, _ = networks.build(
        NetworkConfig(network, width=8, latent_dim=LATENT_DIM), SHAPES[network], 0
    )
    results = [evaluate(generator, discriminator, game, *batch(SHAPES[network])) for game in (loss, twice)]
    assert results[0].penalty > 0
    for once, again in zip(*(tf.nest.flatten(result) for result in results), strict=True):
        scale = max(np.abs(again).max(), 1e-30)
        assert np.abs(once - again).max() <= 1e-6 * scale


@pytest.mark.parametrize(
    ("loss", "evaluations"),
    [
        (LossConfig("non_saturating"), 2),
        (LossConfig("hinge"), 2),
        (LossConfig("wgan_gp"), 3),
        (LossConfig("wgan_clip"), 2),
        (LossConfig("non_saturating", r1_gamma=0.0), 2),
    ],
)
def test_the_discriminator_is_evaluated_once_per_kind_of_sample(monkeypatch, loss, evaluations):
    generator, discriminator, _ = networks.build(NetworkConfig(width=8, latent_dim=LATENT_DIM), (2,), 0)
    calls, own = [], discriminator.call
    monkeypatch.setattr(discriminator, "call", lambda *args, **named: (calls.append(1), own(*args, **named))[1])
    evaluate(generator, discriminator, losses.get(loss), *batch((2,)))
    assert len(calls) == evaluations


@pytest.mark.parametrize("name", ["non_saturating", "wgan_gp"])
def test_state_is_updated_by_the_real_samples_then_by_the_fake_ones(name):
    """A discriminator with batch statistics, of which the penalty leaves no trace: bit for bit two calls in a row."""
    generator = networks.build(NetworkConfig(width=8, latent_dim=LATENT_DIM), (2,), 0).generator
    layers = [
        keras.Input((2,)),
        keras.layers.Dense(4, "tanh"),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(1),
    ]
    discriminator = keras.Sequential(layers)
    real, latent = batch((2,))
    evaluation = evaluate(generator, discriminator, losses.get(LossConfig(name)), real, latent)
    weights = [v.value for v in discriminator.trainable_variables]
    state = [v.value for v in discriminator.non_trainable_variables]

    @tf.function(autograph=False)
    def in_a_row(state):
        for samples in (real, generator(latent, training=True)):
            _, state = discriminator.stateless_call(weights, state, samples, training=True)
        return state

    for value, expected in zip(evaluation.non_trainable[1], in_a_row(state), strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize(("count", "fixed"), [(2, True), (4, True), (4, False), (50, False)])
def test_micro_batches_equal_the_whole_batch(count, fixed):
    """6 samples in parts of 3; of 1, 2, 1, 2; and of 1 each. Means of means would weigh samples unequally.

    With R1, which looks at every sample alone; float32 sums run in another order.
    """
    generator, discriminator, _ = networks.build(NetworkConfig(width=8, latent_dim=LATENT_DIM), (2,), 0)
    game, (real, latent) = losses.get(LossConfig(r1_gamma=10.0)), batch((2,))
    weights = tuple([v.value for v in model.trainable_variables] for model in (generator, discriminator))

    def evaluate_part(states, tensors, seed):
        assert tensors[0].shape[0] == (3 if fixed and count == 2 else None)
        real, latent, labels = tensors
        assert labels is None
        return simultaneous_gradients(generator, discriminator, game, weights, states, real, latent, seed)

    @tf.function(autograph=False)
    def in_parts(real, latent):
        return in_micro_batches(evaluate_part, count, weights, ([], []), [real, latent, None], SEED)

    length = BATCH if fixed else None
    compiled = in_parts.get_concrete_function(tf.TensorSpec([length, 2]), tf.TensorSpec([length, LATENT_DIM]))
    whole = evaluate(generator, discriminator, game, real, latent)
    for part, expected in zip(*(tf.nest.flatten(r) for r in (compiled(real, latent), whole)), strict=True):
        assert np.abs(part - expected).max() <= 2e-6 * max(np.abs(expected).max(), 1e-30)


def test_micro_batches_pass_on_their_statistics_and_own_losses():
    """A counter grows by one for each part; a regularizer counts once, not once for each part."""

    class Counter(keras.layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(name="count", shape=[], initializer="zeros", trainable=False)

        def call(self, inputs):
            self.count.assign(self.count + 1.0)
            self.add_loss(7.0 + 0.0 * tf.reduce_mean(inputs))
            return inputs

    generator = keras.Sequential([keras.Input([LATENT_DIM]), keras.layers.Dense(2), Counter()])
    discriminator = networks.build(NetworkConfig(width=8), (2,), 0).discriminator
    game, (real, latent) = losses.get(LossConfig(r1_gamma=0.0)), batch((2,))
    weights = tuple([v.value for v in model.trainable_variables] for model in (generator, discriminator))

    def evaluate_part(states, tensors, seed):
        return simultaneous_gradients(generator, discriminator, game, weights, states, *tensors, seed)

    states = [generator.layers[-1].count.value], []
    found = in_micro_batches(evaluate_part, 3, weights, states, [real, latent], SEED)
    assert found.non_trainable[0][0].numpy() == 3.0
    np.testing.assert_allclose(
        found.generator_loss, evaluate(generator, discriminator, game, real, latent)[2], rtol=1e-6
    )
    assert found.generator_loss > 7.0


def test_labels_reach_both_networks_and_their_embeddings():
    """Rows of an embedding that no label names have no gradient; losses are those of the networks called by Keras."""
    generator, discriminator, _ = networks.build(NetworkConfig(width=8, latent_dim=LATENT_DIM), (2,), 0, num_classes=4)
    game, (real, latent) = losses.get(LossConfig(r1_gamma=0.0)), batch((2,))
    weights = tuple([v.value for v in model.trainable_variables] for model in (generator, discriminator))
    labels = tf.constant([0, 2, 2, 0, 0, 2])
    found = simultaneous_gradients(generator, discriminator, game, weights, ([], []), real, latent, SEED, labels=labels)
    logits = [discriminator([x, labels]).numpy() for x in (real, generator([latent, labels]))]
    np.testing.assert_allclose(found.generator_loss, np.mean(np.log1p(np.exp(-logits[1]))), rtol=1e-5)
    expected = np.mean(np.log1p(np.exp(-logits[0]))) + np.mean(np.log1p(np.exp(logits[1])))
    np.testing.assert_allclose(found.discriminator_loss, expected, rtol=1e-5)
    for model, gradients in zip((generator, discriminator), found.gradients, strict=True):
        rows = [
            np.abs(g).sum(1) for v, g in zip(model.trainable_variables, gradients, strict=True) if "embed" in v.path
        ]
        assert len(rows) == 1 and np.all(rows[0][[0, 2]] > 0) and not np.any(rows[0][[1, 3]])


def test_shapes_of_gradients_are_known_for_batches_of_any_size():
    """TensorFlow does not know that of the kernel of a Dense layer on sequences."""
    layers = keras.layers
    generator = keras.Sequential([keras.Input([LATENT_DIM]), layers.Reshape([LATENT_DIM, 1]), layers.Dense(2)])
    discriminator = keras.Sequential([keras.Input([LATENT_DIM, 2]), layers.Dense(3), layers.Flatten(), layers.Dense(1)])
    weights = [[v.value for v in model.trainable_variables] for model in (generator, discriminator)]
    signature = [tf.TensorSpec([None, *shape]) for shape in ([LATENT_DIM, 2], [LATENT_DIM])]

    @tf.function(autograph=False, input_signature=signature)
    def compute(real, latent):
        loss = losses.get(LossConfig())
        return simultaneous_gradients(generator, discriminator, loss, weights, ([], []), real, latent, SEED).gradients

    shapes = tf.nest.map_structure(lambda gradient: gradient.shape, compute.get_concrete_function().structured_outputs)
    assert [list(of_player) for of_player in shapes] == [[w.shape for w in of_player] for of_player in weights]
