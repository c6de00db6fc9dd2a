"""The real system, three replicas in one process, against the float64 simulator: variable by variable, step by step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.config import CompressionConfig, OptimizerConfig
from tests.gan import tiny_gan
from tests.gan.local_strategy import local_strategy
from tests.oracles import dqgan_numpy as oracle
from tests.oracles import quantizers_numpy

STEPS = 20
GAMMA = 0.1  # R1, the default of LossConfig
SIGN, TERNARY, LINEAR, TOPK = (
    "sign:bucket=32",
    "linear:bits=2,bucket=32",
    "linear:bits=4,bucket=32",
    "topk:fraction=0.1",
)
QUANTIZERS = {
    "none": quantizers_numpy.identity,
    SIGN: quantizers_numpy.sign(32),
    TERNARY: quantizers_numpy.linear(2, 32),
    LINEAR: quantizers_numpy.linear(4, 32),
    TOPK: quantizers_numpy.top_k(4),  # ceil(0.1 * 38) = ceil(0.1 * 33)
}
SGD = {"direction": "sgd", "learning_rate_g": 0.2, "learning_rate_d": 0.1}
# At t = 1 Adam's |u| is 1 everywhere up to epsilon; a large one keeps top-k from a tie and shows where it is added.
ADAM = {"direction": "adam", "learning_rate_g": 0.02, "learning_rate_d": 0.01, "epsilon": 0.05}
# float32 rounds a value to 6e-8 of itself; gradients sum some hundred products and 20 steps amplify little.
# The largest deviation seen, of the largest value of its kind: 1.4e-6.
TOLERANCE = 1e-5
HAIR = 3e-6


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(tiny_gan.REPLICAS)


@tf.function
def gan_gradient(w, real, latent):
    """F(w) = (d L_G/d w_G, d L_D/d w_D), non-saturating with R1, float64 [n]: the tiny GAN again, in plain matrices."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(w)
        shapes = [(3, 6), (6,), (6, 2), (2,), (2, 8), (8,), (8, 1), (1,)]
        parts = tf.split(w, [int(np.prod(shape)) for shape in shapes])
        g1, b1, g2, b2, d1, c1, d2, c2 = [tf.reshape(p, s) for p, s in zip(parts, shapes, strict=True)]
        fake = tf.tanh(latent @ g1 + b1) @ g2 + b2
        hidden = tf.tanh(real @ d1 + c1)
        real_logit, fake_logit = hidden @ d2 + c2, tf.tanh(fake @ d1 + c1) @ d2 + c2
        slope = ((1 - hidden**2) * tf.transpose(d2)) @ tf.transpose(d1)  # dD/dx by the chain rule
        r1 = GAMMA / 2 * tf.reduce_mean(tf.reduce_sum(slope**2, axis=1))
        loss_d = tf.reduce_mean(tf.math.softplus(-real_logit)) + tf.reduce_mean(tf.math.softplus(fake_logit)) + r1
        loss_g = tf.reduce_mean(tf.math.softplus(-fake_logit))
    split = tiny_gan.SIZES[0][1]
    return tf.concat([tape.gradient(loss_g, w)[:split], tape.gradient(loss_d, w)[split:]], 0)


def gan_game(batches):
    """F(w, step, worker); latents are N(0, I) of the stateless stream (8 seed, step M + rank)."""

    def gradient(w, step, worker):
        stream = [8 * tiny_gan.SEED, step * tiny_gan.REPLICAS + worker]
        latent = tf.random.stateless_normal([tiny_gan.BATCH, tiny_gan.LATENT], stream)
        real = tf.cast(batches[step - 1, worker], tf.float64)
        return gan_gradient(tf.constant(w, tf.float64), real, tf.cast(latent, tf.float64)).numpy()

    return gradient


def oracle_settings(optimizer, compression, schedule):
    rates = np.repeat([optimizer.learning_rate_g, optimizer.learning_rate_d], [size for _, size in tiny_gan.SIZES])
    adam = oracle.Adam(
        optimizer.beta_1,
        optimizer.beta_2,
        optimizer.epsilon,
        optimizer.second_moment,
        optimizer.second_moment_period,
    )
    return oracle.Settings(
        oracle.players(*tiny_gan.SIZES),
        lambda t: rates * schedule(t),
        quantizers_numpy.for_all_players(QUANTIZERS[compression.compressor]),
        adam=adam if optimizer.direction == "adam" else None,
        half_step=optimizer.half_step != "none",
        error_feedback=compression.error_feedback,
        residual_in_half_step=compression.residual_in_half_step,
    )


def deviations(model, state):
    """max |system - oracle| of every variable, over the largest value of its kind; of a residual, over the largest p.

    A residual is a difference of p and its decoded value, and carries their rounding.
    """
    names = {
        "previous_direction": "direction",
        "residual": "residual",
        "m": "first",
        "v": "second",
        "averaged": "averaged",
    }
    kinds = {name.split("/")[0] for name in model.replica_values(0)} & set(names)
    assert "residual" in kinds or not np.any(state.residual)
    pairs = {kind: (tiny_gan.replica_state(model, kind), getattr(state, names[kind])) for kind in kinds}
    pairs["weights"] = (tiny_gan.weights(model), state.w)
    scales = {kind: expected for kind, (_, expected) in pairs.items()} | {"residual": state.update}
    return {kind: np.max(np.abs(a - b)) / np.max(np.abs(scales[kind])) for kind, (a, b) in pairs.items()}


def decided_by_a_hair(state, settings):
    """Whether the compressor would decide otherwise on updates that differ by rounding: such inputs judge nothing."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(4,) + state.update.shape)
    scale = HAIR * np.max(np.abs(state.update))
    nudged = [state.update + sign * scale * s for s in signs for sign in (-1, 1)]
    moved = [oracle.quantize_pieces(p[m], settings) - state.decoded[m] for p in nudged for m in range(len(p))]
    return np.max(np.abs(moved)) > 10 * scale


def clipped(game, largest):
    """F with the gradient of each player scaled down to the norm `largest`."""

    def gradient(w, step, worker):
        parts = np.split(game(w, step, worker), [tiny_gan.SIZES[0][1]])
        return np.concatenate([part * min(1.0, largest / np.linalg.norm(part)) for part in parts])

    return gradient


def assert_follows_oracle(strategy, optimizer, compression, schedule=lambda t: 1.0, **compile_options):
    """Follows both for `STEPS` steps of equal data and returns the oracle's last state."""
    optimizer, compression = OptimizerConfig(**optimizer), CompressionConfig(**compression)
    model = tiny_gan.build(strategy, optimizer, compression, **compile_options)
    batches = tiny_gan.real_batches(STEPS)
    iterator = tiny_gan.distributed_iterator(strategy, batches)
    settings = oracle_settings(optimizer, compression, schedule)
    game = (
        gan_game(batches)
        if optimizer.global_clipnorm is None
        else clipped(gan_game(batches), optimizer.global_clipnorm)
    )
    for state in oracle.run(game, tiny_gan.weights(model)[0], tiny_gan.REPLICAS, settings, STEPS):
        model.train_steps(iterator, 1)
        weights, found = tiny_gan.weights(model), deviations(model, state)
        assert not decided_by_a_hair(state, settings), f"choose other inputs: step {state.t}"
        assert np.all(weights == weights[0]), f"replicas differ after step {state.t}"
        assert all(value < TOLERANCE for value in found.values()), f"step {state.t}: {found}"
    return state


@pytest.mark.parametrize(
    "optimizer, compressor",
    [
        (ADAM, SIGN),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((SGD, "none"), (SGD, LINEAR), (SGD, TOPK), (ADAM, TERNARY))
        ),
    ],
)
def test_every_variable_follows_the_oracle(strategy, optimizer, compressor):
    state = assert_follows_oracle(strategy, optimizer, {"compressor": compressor})
    assert np.any(state.residual) == (compressor != "none")


@pytest.mark.slow
@pytest.mark.parametrize("second_moment", ["averaged", "guarded"])
def test_averaged_second_moments_follow_the_oracle(strategy, second_moment):
    # Period 5: averaged at 1, 2, 4, 5, 8, 10, 15, 16, 20.
    optimizer = ADAM | {"second_moment": second_moment, "second_moment_period": 5, "epsilon": 1e-8}
    assert_follows_oracle(strategy, optimizer, {"compressor": SIGN})


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer, compression",
    [({"half_step": "none"}, {}), ({}, {"residual_in_half_step": False}), ({}, {"error_feedback": False})],
)
def test_ablations_follow_the_oracle(strategy, optimizer, compression):
    assert_follows_oracle(strategy, SGD | optimizer, {"compressor": SIGN} | compression)


@pytest.mark.slow
def test_micro_batches_and_clipping_follow_the_oracle(strategy):
    """16 samples in parts of 5, 5 and 6 at one point; gradients begin at norms of 0.3 and more."""
    optimizer = ADAM | {"micro_batches": 3, "global_clipnorm": 0.2}
    assert_follows_oracle(strategy, optimizer, {"compressor": LINEAR})


@pytest.mark.slow
def test_schedules_of_keras_follow_the_oracle(strategy):
    decay = keras.optimizers.schedules
    schedules = decay.ExponentialDecay(0.2, 10, 0.5), decay.ExponentialDecay(0.1, 10, 0.5)
    base = OptimizerConfig(**SGD)
    batches = tiny_gan.real_batches(STEPS)
    model = tiny_gan.build(
        strategy, OptimizerConfig(direction="sgd"), CompressionConfig(SIGN), learning_rates=schedules
    )
    settings = oracle_settings(base, CompressionConfig(SIGN), lambda t: 0.5 ** ((t - 1) / 10))
    first, iterator = tiny_gan.weights(model)[0], tiny_gan.distributed_iterator(strategy, batches)
    for state in oracle.run(gan_game(batches), first, tiny_gan.REPLICAS, settings, STEPS):
        model.train_steps(iterator, 1)
        assert all(value < TOLERANCE for value in deviations(model, state).values()), state.t
    assert model.optimizer.generator.learning_rate == pytest.approx(0.2 * 0.5**1.9)


@pytest.mark.slow
def test_schedules_follow_the_oracle(strategy):
    optimizer = SGD | {"learning_rate_schedule": "linear", "warmup_steps": 5}
    schedule = lambda t: min(1, t / 5) * (1 - (t - 1) / STEPS)  # noqa: E731
    assert_follows_oracle(strategy, optimizer, {"compressor": SIGN}, schedule, total_steps=STEPS)
