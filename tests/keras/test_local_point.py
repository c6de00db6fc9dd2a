"""Points of each replica: what is refused, loops of one's own, and a game that needs the half step. Two replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import dqgan_tf
from dqgan_tf.errors import UsageError
from tests.gan.local_strategy import local_strategy
from tests.keras import matrix, small_models

SIGN = "sign:bucket=32"
HALF_STEP = {"where": "update", "optimistic": True}
opt = keras.optimizers


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(2)


def adam(**settings):
    return lambda: dqgan_tf.compressed(opt.Adam(0.01), SIGN, **(HALF_STEP | settings))


def data(steps=6):
    return small_models.dataset(*small_models.batches(steps, 2))


@pytest.mark.parametrize(
    "make, match",
    [
        (
            lambda: dqgan_tf.compressed(opt.SGD(), SIGN, where="gradient", optimistic=True),
            "set where='update'.*where='gradient'",
        ),
        (
            lambda: dqgan_tf.compressed(opt.SGD(), SIGN, where="gradient", local_steps=2),
            "set where='update'.*local_steps=2",
        ),
        (
            lambda: dqgan_tf.compressed(
                opt.SGD(gradient_accumulation_steps=2), SIGN, where="update", local_steps=2, optimistic=True
            ),
            "give one",
        ),
    ],
    ids=["half step of gradients", "local steps of gradients", "accumulation"],
)
def test_what_has_no_point_is_refused_when_it_is_made(strategy, make, match):
    with strategy.scope(), pytest.raises(UsageError, match=match):
        make()


def test_a_variable_of_two_optimizers_is_refused(strategy):
    """Each would move it to its own point and back, over the step of the other."""
    with strategy.scope():
        model = small_models.mlp(strategy, adam())
        model.optimizer.build(model.trainable_variables)
        model.other = opt.SGD(0.1)  # as the one that `compile` makes without an argument
        model.other.build(model.trainable_variables)
    model.fit(data(), verbose=0)
    model.train_function = None
    with strategy.scope():
        model.other = dqgan_tf.compressed(opt.SGD(0.1), SIGN)
        model.other.build(model.trainable_variables[2:])
    with pytest.raises(
        UsageError, match="a variable needs an optimizer of its own: .*Received: .*kernel of 'adam.*' and"
    ):
        model.fit(data(), verbose=0)


@pytest.mark.parametrize("again", [{"local_steps": 2}, {}])
def test_building_again_changes_nothing(strategy, again):
    """As in a model whose own `compile` builds the optimizer: a round would lose its steps, and the next half step."""
    with strategy.scope():
        model = small_models.mlp(strategy, adam(**again))
        model.optimizer.build(model.trainable_variables)
    point = model.optimizer.compression.point
    model.optimizer.build(model.trainable_variables)
    assert model.optimizer.compression.point is point


def test_layers_that_assign_weights_are_refused(strategy):
    """SpectralNormalization assigns its kernel, which would be set back."""
    with strategy.scope():
        layer = keras.layers.SpectralNormalization(keras.layers.Dense(small_models.HIDDEN))
    model = small_models.mlp(strategy, adam(), layers=[layer])
    with pytest.raises(UsageError, match="SpectralNormalization assigns its kernel"):
        model.fit(data(), verbose=0)


def custom_step(strategy, model, *, looks_ahead, optimizer=None):
    optimizer = optimizer or model.optimizer

    def replica_step(batch):
        inputs, targets = batch
        if looks_ahead:
            optimizer.compression.look_ahead()
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(inputs, training=True) - targets) ** 2) / strategy.num_replicas_in_sync
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    return tf.function(lambda batch: strategy.run(replica_step, args=(batch,)), autograph=False)


def batches(strategy, steps=6):
    return strategy.experimental_distribute_dataset(data(steps))


def test_a_loop_that_does_not_look_ahead_is_refused(strategy):
    model = small_models.mlp(strategy, adam())
    with strategy.scope():
        model.optimizer.build(model.trainable_variables)
    before = small_models.values(strategy, model.trainable_variables)
    step = custom_step(strategy, model, looks_ahead=False)
    with pytest.raises(UsageError, match="look_ahead"):
        step(next(iter(batches(strategy))))
    np.testing.assert_array_equal(before, small_models.values(strategy, model.trainable_variables))


def test_an_optimizer_that_is_not_built_is_refused(strategy):
    model = small_models.mlp(strategy, adam())
    with strategy.scope():
        optimizer = adam()()
    step = custom_step(strategy, model, looks_ahead=True, optimizer=optimizer)
    with pytest.raises(UsageError, match=r"optimizer.build\("):
        step(next(iter(batches(strategy))))


@pytest.mark.slow
def test_a_loop_of_ones_own_takes_the_steps_of_fit(strategy):
    by_fit, by_hand = (small_models.mlp(strategy, adam(local_steps=2)) for _ in range(2))
    by_fit.fit(data(), shuffle=False, verbose=0)
    with strategy.scope():
        by_hand.optimizer.build(by_hand.trainable_variables)
    step = custom_step(strategy, by_hand, looks_ahead=True)
    for batch in batches(strategy):
        step(batch)
    np.testing.assert_array_equal(*(small_models.values(strategy, m.trainable_variables) for m in (by_fit, by_hand)))
    np.testing.assert_array_equal(*(small_models.values(strategy, m.optimizer.variables) for m in (by_fit, by_hand)))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("name", matrix.MATRIX)
def test_optimizers_and_policies(strategy, name, policy):
    """Under mixed_float16 `compile` makes a LossScaleOptimizer, whose scale all replicas share."""
    make = lambda: dqgan_tf.compressed(matrix.OPTIMIZERS[name](), matrix.LINEAR, **HALF_STEP, local_steps=2)  # noqa: E731
    model, history, weights, _ = matrix.fit(strategy, make, policy=policy, epochs=4)
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.all(np.isfinite(weights)) and history["loss"][-1] < history["loss"][0]
    assert int(model.optimizer.iterations.numpy()) == 4 * matrix.STEPS


@pytest.mark.slow
def test_a_second_set_of_variables_is_refused_with_local_steps(strategy):
    model = small_models.mlp(strategy, adam(local_steps=2))
    model.fit(data(), verbose=0)
    model.layers[0].trainable = False
    with strategy.scope():
        model.compile(model.optimizer, loss="mse")
    with pytest.raises(UsageError, match="a new one after freezing"):
        model.fit(data(), verbose=0)


class Game(keras.Model):
    """min_x max_y x' A y: every replica has the same A and noise of its own, of mean 0."""

    def __init__(self, size=16):
        super().__init__()
        random = np.random.default_rng(1)
        self.matrix = tf.constant(np.linalg.qr(random.standard_normal((size, size)))[0], tf.float32)
        start = keras.initializers.Constant(random.standard_normal((2, size)) / np.sqrt(2 * size))
        self.players = self.add_weight(shape=(2, size), initializer=start)
        self.built = True

    def train_step(self, noise):
        context = tf.distribute.get_replica_context()
        x, y = tf.unstack(tf.convert_to_tensor(self.players.value))
        gradient = tf.stack([tf.linalg.matvec(self.matrix, y), -tf.linalg.matvec(self.matrix, x, transpose_a=True)])
        self.optimizer.apply([(gradient + noise[0]) / context.num_replicas_in_sync], [self.players])
        return {"norm": tf.norm(gradient)}


@pytest.mark.slow
@pytest.mark.parametrize("optimistic", [True, False])
def test_a_bilinear_game_needs_the_half_step(strategy, optimistic):
    """Simultaneous descent spirals outwards, and a compressor of 1 bit throws it further (docs/algorithm.md)."""
    with strategy.scope():
        model = Game()
        make = dqgan_tf.compressed(opt.SGD(0.1), "sign:bucket=32", where="update", optimistic=optimistic)
        model.compile(make, steps_per_execution=50)
    noise = 0.01 * np.random.default_rng(0).standard_normal((600, 2, 2, 16)).astype(np.float32)
    noise -= noise.mean(1, keepdims=True)
    start = np.linalg.norm(model.players.numpy())
    model.fit(tf.data.Dataset.from_tensor_slices(noise), shuffle=False, verbose=0)
    end = np.linalg.norm(small_models.values(strategy, [model.players])[0])
    assert end < 0.2 * start if optimistic else end > 5 * start


@pytest.mark.parametrize(
    "settings",
    [
        {"where": "update", "compressor_rules": "bias=none"},
        HALF_STEP | {"local_steps": 2},
        pytest.param(HALF_STEP, marks=pytest.mark.slow),
    ],
    ids=["plain", "local steps", "half step"],
)
def test_flushed_residuals_are_in_the_weights(strategy, settings):
    model = small_models.mlp(strategy, lambda: dqgan_tf.compressed(opt.Adam(0.01), SIGN, **settings))
    model.fit(data(), verbose=0)
    compression = model.optimizer.compression
    (channel,) = compression.channels.values()
    before, residuals = model.get_weights(), [channel.residuals(replica) for replica in range(2)]
    has_lead = compression.optimistic
    leads = [v.numpy() for v in compression.point.state()["lead/000"].variables] if has_lead else []
    compression.flush_residuals()
    moved = 0.0
    for variable, weight, *own in zip(model.trainable_variables, before, *residuals, strict=True):
        mean = np.zeros(weight.shape) if own[0] is None else (own[0] + own[1]).numpy() / 2
        moved = max(moved, np.abs(mean).max())
        for value in variable.value.values:
            np.testing.assert_allclose(value.numpy(), weight - mean, atol=1e-6)
    assert moved > 1e-4
    assert not any(np.any(e) for replica in range(2) for e in channel.residuals(replica) if e is not None)
    for replica, lead in enumerate(leads):  # the next gradient is taken at w less the last update alone
        now = compression.point.state()["lead/000"].variables[replica]
        np.testing.assert_allclose(now, lead - residuals[replica][0], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "where", "match"),
    [
        ({}, "gradient", "with where='update' and .* Received: where='gradient'"),
        ({"use_ema": True}, "update", "set use_ema=False. Received: use_ema=True of 'sgd"),
    ],
)
def test_residuals_that_cannot_be_flushed_are_refused(strategy, settings, where, match):
    with strategy.scope():
        optimizer = dqgan_tf.compressed(opt.SGD(**settings), SIGN, where=where)
    with pytest.raises(UsageError, match=match):
        optimizer.compression.flush_residuals()
