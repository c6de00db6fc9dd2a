"""Oracle: labels, micro-batches, frozen layers, clipping and schedules with local steps and with discriminator steps.

One replica without compression takes plain optimistic steps, whatever the round: they are replayed with the networks
called by Keras.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.config import CompressionConfig, LossConfig, NetworkConfig, OptimizerConfig
from dqgan_tf.gan import networks, steps
from dqgan_tf.gan.model import DQGAN
from tests.gan.local_strategy import local_strategy

STEPS, BATCH, CLASSES, RATES, SEED = 6, 16, 4, (0.05, 0.1), 4


def batches():
    random = np.random.default_rng(0)
    samples = random.uniform(-1, 1, (STEPS, BATCH, 2)).astype(np.float32)
    return samples, random.integers(0, CLASSES, (STEPS, BATCH))


def build(strategy, optimizer, compression):
    keras.utils.set_random_seed(3)
    with strategy.scope():
        made = networks.build(NetworkConfig(width=8, latent_dim=3), (2,), 3, num_classes=CLASSES)
        model = DQGAN(made.generator, made.discriminator, loss=LossConfig("hinge", r1_gamma=0.0), seed=SEED)
    for network, kind in ((made.generator, keras.layers.Embedding), (made.discriminator, keras.layers.Dense)):
        next(layer for layer in network.layers if isinstance(layer, kind)).trainable = False
    rates = dict(zip(("learning_rate_g", "learning_rate_d"), RATES, strict=True))
    settings = {"direction": "sgd", "learning_rate_schedule": "linear", "warmup_steps": 2} | rates | optimizer
    model.compile(OptimizerConfig(**settings), CompressionConfig("none", **compression), total_steps=10)
    return model


def flat(per_player):
    return [np.concatenate([np.ravel(value) for value in player]) for player in per_player]


def gradients(model, points, t, samples, labels, clipnorm):
    """F at `points`, one list of values per player."""
    seed = steps.stream_seed(SEED, steps.LATENT, tf.constant(t), tf.constant(0), 1)
    latent, samples, labels = tf.random.stateless_normal([BATCH, 3], seed), tf.constant(samples), tf.constant(labels)
    results = []
    for number, network in enumerate((model.generator, model.discriminator)):
        for other, values in zip((model.generator, model.discriminator), points, strict=True):
            for variable, value in zip(other.trainable_variables, values, strict=True):
                variable.assign(value)
        with tf.GradientTape() as tape:
            fake = model.discriminator([model.generator([latent, labels]), labels])
            real = model.discriminator([samples, labels])
            loss = tf.reduce_mean(tf.nn.relu(1 - real)) + tf.reduce_mean(tf.nn.relu(1 + fake))
            loss = loss if number else -tf.reduce_mean(fake)
        of_player = [tf.convert_to_tensor(g) for g in tape.gradient(loss, network.trainable_variables)]
        results.append([g.numpy() for g in tf.clip_by_global_norm(of_player, clipnorm)[0]])
    return results


def replay(model, generator_every, clipnorm):
    """Yields the weights of both players after every step."""
    w = [[v.numpy() for v in network.trainable_variables] for network in (model.generator, model.discriminator)]
    previous = [[np.zeros_like(value) for value in player] for player in w]
    for t, (samples, labels) in enumerate(zip(*batches(), strict=True), 1):
        eta = np.array(RATES) * min(1, t / 2) * (1 - (t - 1) / 10)
        moves = [t % generator_every == 0, True]
        points = [
            [value - rate * u for value, u in zip(*pair, strict=True)] if moving else pair[0]
            for *pair, rate, moving in zip(w, previous, eta, moves, strict=True)
        ]
        g = gradients(model, points, t, samples, labels, clipnorm)
        for player, (rate, moving) in enumerate(zip(eta, moves, strict=True)):
            if moving:
                previous[player] = g[player]
                w[player] = [value - rate * u for value, u in zip(w[player], g[player], strict=True)]
        yield flat(w)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer, compression, exchanges",
    [
        ({"micro_batches": 3}, {"local_steps": 2}, [2, 4, 6]),
        ({"micro_batches": 2, "discriminator_steps": 2}, {}, [1, 2, 3, 4, 5, 6]),
    ],
    ids=["local steps", "discriminator steps"],
)
def test_all_together_follow_the_oracle(optimizer, compression, exchanges):
    strategy = local_strategy(1)
    model = build(strategy, optimizer | {"global_clipnorm": 0.5}, compression)
    everything = [v.numpy() for n in (model.generator, model.discriminator) for v in n.variables]
    expected = list(replay(model, optimizer.get("discriminator_steps", 1), 0.5))
    model = build(strategy, optimizer | {"global_clipnorm": 0.5}, compression)  # the replay has moved the weights
    variables = [v for n in (model.generator, model.discriminator) for v in n.variables]
    for variable, before in zip(variables, everything, strict=True):
        np.testing.assert_array_equal(variable.numpy(), before)
    data = tf.data.Dataset.from_tensor_slices(batches())
    iterator, done = iter(strategy.distribute_datasets_from_function(lambda _: data)), 0
    for step in exchanges:
        assert model.train_steps(iterator, step - done) == step - done
        done, found = step, [[v.numpy() for v in n.trainable_variables] for n in (model.generator, model.discriminator)]
        for ours, theirs in zip(flat(found), expected[step - 1], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert int(model.skipped.numpy()) == 0
    moved = [not np.array_equal(v.numpy(), before) for v, before in zip(variables, everything, strict=True)]
    assert moved == [v.trainable for v in variables] and not all(moved)
