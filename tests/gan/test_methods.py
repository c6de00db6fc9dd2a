"""Oracle: every method, on three replicas in one process, step by step, on a noisy game with weights that have rules.

Identity: a skipped step changes nothing, and a run that goes back to a saved state repeats itself bit for bit.
"""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import config
from dqgan_tf.config import ALGORITHMS, CompressionConfig, OptimizerConfig
from dqgan_tf.errors import UsageError
from dqgan_tf.gan import losses
from dqgan_tf.gan.model import DQGAN
from tests.gan import model_state, tiny_gan
from tests.gan.local_strategy import local_strategy
from tests.oracles import baselines_numpy as baselines
from tests.oracles import dqgan_numpy, local_steps, methods_numpy, quantizers_numpy

M, STEPS, BATCH, SEED = 3, 20, 4, 5
# x is the generator; y and b are the discriminator, and a rule sends b exactly.
X, Y, B = 40, 36, 5
GENERATOR, DISCRIMINATOR, EXACT = pieces = dqgan_numpy.players(("x", X), ("y", Y), ("b", B))
MATRIX = (np.random.default_rng(0).standard_normal((X, Y)) / 6).astype(np.float32)
RATES = {"learning_rate_g": 0.05, "learning_rate_d": 0.03}
ETA = np.repeat([0.05, 0.03], [X, Y + B])
# At t = 1 Adam's |u| is 1 everywhere up to epsilon; a large one shows where it is added.
ADAM = dqgan_numpy.Adam(0.5, 0.9, 0.05, period=5)
SIGN, TERNARY = "sign:bucket=32", "linear:bits=2,bucket=32"
QUANTIZERS = {SIGN: quantizers_numpy.sign(32), TERNARY: quantizers_numpy.linear(2, 32)}
# float32 rounds to 6e-8 of a value; 20 steps add up, and a second moment near 0 amplifies what is left after rounding.
TOLERANCE = 2e-5


class Strategy(keras.layers.Layer):
    """G(z) = (1 + .3 z) s(x) with s(x) = x + .2 sin 3x, [batch, X]."""

    def build(self, shape):
        self.x = self.add_weight(name="x", shape=(X,), initializer=keras.initializers.RandomNormal(stddev=1.0, seed=1))

    def call(self, z):
        return (1.0 + 0.3 * z) * (self.x + 0.2 * tf.sin(3.0 * self.x))


class Value(keras.layers.Layer):
    """D(v) = v'A y + v[:B]'b, [batch, 1]."""

    def build(self, shape):
        normal = keras.initializers.RandomNormal(stddev=1.0, seed=2)
        self.y = self.add_weight(name="y", shape=(Y,), initializer=normal)
        self.b = self.add_weight(name="bias", shape=(B,), initializer=normal)

    def call(self, v):
        return tf.linalg.matvec(v @ MATRIX, self.y)[:, None] + tf.linalg.matvec(v[:, :B], self.b)[:, None]


ZERO_SUM = losses.Loss(
    "zero_sum",
    generator=tf.reduce_mean,
    discriminator=lambda real, fake: tf.reduce_mean(real) - tf.reduce_mean(fake),
    penalty=losses.no_penalty,
)


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(M)


@pytest.fixture(scope="module")
def batches():
    """float32 [T, M, BATCH, X]: noise around a centre of each replica's own."""
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((1, M, 1, X))
    return (centres + rng.standard_normal((STEPS + 1, M, BATCH, X))).astype(np.float32)


@pytest.fixture(scope="module")
def game(batches):
    """F(w, step, worker), [n], float64; latents are N(0, 1) of the stateless stream (8 seed, step M + rank)."""
    latents = {}
    for step in range(1, STEPS + 1):
        for worker in range(M):
            z = tf.random.stateless_normal([BATCH, 1], [8 * SEED, step * M + worker])
            latents[step, worker] = 1 + 0.3 * z.numpy().astype(np.float64)
    matrix = MATRIX.astype(np.float64)

    def gradient(w, step, worker):
        x, y, b = np.split(w, [X, X + Y])
        factor = latents[step, worker].mean()
        slope = matrix @ y + np.concatenate([b, np.zeros(X - B)])
        gap = batches[step - 1, worker].astype(np.float64).mean(0) - factor * (x + 0.2 * np.sin(3 * x))
        return np.concatenate([factor * (1 + 0.6 * np.cos(3 * x)) * slope, gap @ matrix, gap[:B]])

    return gradient


def build(strategy, optimizer, compression):
    keras.utils.set_random_seed(8)
    with strategy.scope():
        generator = keras.Sequential([keras.Input((1,)), Strategy()])
        discriminator = keras.Sequential([keras.Input((X,)), Value()])
        model = DQGAN(generator, discriminator, loss=ZERO_SUM, seed=SEED)
    model.compile(optimizer, compression)
    return model


def method(name, compressor, topology="all_gather", **settings):
    """The settings of a method with rates, epsilon and period of the oracle."""
    optimizer = OptimizerConfig(**RATES, epsilon=ADAM.epsilon, second_moment_period=ADAM.period, **settings)
    compression = CompressionConfig(topology=topology)
    if compressor != "none":
        compression = CompressionConfig(compressor=compressor, compressor_rules="bias=none", topology=topology)
    return config.algorithm(name, optimizer, compression)


def quantize_player(vector, player, compressor):
    return np.array(vector, np.float64) if player == "b" else QUANTIZERS[compressor](vector)


def quantizer(compressor):
    """Q of the flat vector, player by player."""
    return lambda w: np.concatenate([quantize_player(w[p.slice], p.player, compressor) for p in pieces])


def dqgan(game, w0, compressor, adam=None, **options):
    """The weights of `dqgan_numpy.run`."""
    chosen = dqgan_numpy.Settings(
        pieces, ETA, lambda x, player: quantize_player(x, player, compressor), adam, **options
    )
    return (state.w for state in dqgan_numpy.run(game, w0, M, chosen, STEPS))


def with_moment(second_moment):
    return dqgan_numpy.Adam(ADAM.beta_1, ADAM.beta_2, ADAM.epsilon, second_moment, ADAM.period)


ABLATIONS = {
    "residual_out": {"residual_in_half_step": False},
    "no_half_step": {"half_step": False},
    "no_error_feedback": {"error_feedback": False},
}
# Method -> (compressor, weights of the oracle after every step from the game and w0).
ORACLES = {
    "sgda": ("none", lambda game, w0: baselines.sgda(game, w0, M, ETA, STEPS)),
    "sim_adam": ("none", lambda game, w0: baselines.sim_adam(game, w0, M, ETA, STEPS, ADAM)),
    "cpoadam": ("none", lambda game, w0: baselines.cpo_adam(game, w0, M, ETA, STEPS, ADAM)),
    "cpoadam_gq": (
        TERNARY,
        lambda game, w0: baselines.cpo_adam(game, w0, M, ETA, STEPS, ADAM, quantizer(TERNARY)),
    ),
    "cpoadam_ef": (
        SIGN,
        lambda game, w0: baselines.feedback_adam(game, w0, M, ETA, STEPS, quantizer(SIGN), ADAM),
    ),
    "extra_adam": ("none", lambda game, w0: baselines.extra_adam(game, w0, M, ETA, STEPS // 2, ADAM)),
    "ef21_sgdm": (
        SIGN,
        lambda game, w0: methods_numpy.ef21_sgdm(game, w0, M, ETA, STEPS, quantizer(SIGN), ADAM.beta_1),
    ),
    "dqgan": (SIGN, lambda game, w0: dqgan(game, w0, SIGN)),
    "dqgan_adam": (SIGN, lambda game, w0: dqgan(game, w0, SIGN, ADAM)),
    "dqgan_adam_averaged": (SIGN, lambda game, w0: dqgan(game, w0, SIGN, with_moment("averaged"))),
    "dqgan_adam_guarded": (SIGN, lambda game, w0: dqgan(game, w0, SIGN, with_moment("guarded"))),
}
for ablation, options in ABLATIONS.items():
    ORACLES[f"dqgan_{ablation}"] = TERNARY, lambda game, w0, o=options: dqgan(game, w0, TERNARY, **o)
    ORACLES[f"dqgan_adam_{ablation}"] = TERNARY, lambda game, w0, o=options: dqgan(game, w0, TERNARY, ADAM, **o)


def test_every_method_has_an_oracle():
    assert set(ORACLES) == set(ALGORITHMS)


@pytest.mark.parametrize(
    "name", [name if name == "cpoadam_ef" else pytest.param(name, marks=pytest.mark.slow) for name in ORACLES]
)
def test_a_method_follows_its_oracle(strategy, game, batches, name, tmp_path):
    compressor, oracle = ORACLES[name]
    model = build(strategy, *method(name, compressor))
    every = 2 if name == "extra_adam" else 1
    follow(model, strategy, batches, oracle(game, tiny_gan.weights(model)[0]), every)
    if name == "extra_adam":
        check_look_ahead(model, strategy, batches)
        check_start_from_other_weights(model, strategy, batches, tmp_path)


def owned_pieces():
    """x and y cut into the shards of the two-step exchange, 32 values and the rest; b travels exactly."""
    cut = [dqgan_numpy.Piece(p.player, p.start, p.start + 32, 0) for p in (GENERATOR, DISCRIMINATOR)]
    rest = [dqgan_numpy.Piece(p.player, p.start + 32, p.stop, 1) for p in (GENERATOR, DISCRIMINATOR)]
    return (cut[0], rest[0], cut[1], rest[1], EXACT)


def quantize_padded(vector, player):
    """A shard is padded with zeros to its bucket, and sign's scale is the mean of the bucket."""
    if player == "b":
        return np.array(vector, np.float64)
    return QUANTIZERS[SIGN](np.pad(vector, (0, -len(vector) % 32)))[: len(vector)]


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["all_gather", "two_step"])
def test_local_steps_and_a_shift_follow_the_oracle_beside_a_rule(strategy, game, batches, topology):
    """Rounds of three steps, the last one of two. What a rule sends exactly has no residual and the same mean."""
    local = {"compressor": SIGN, "compressor_rules": "bias=none", "local_steps": 3, "shift": 0.1}
    model = build(strategy, OptimizerConfig(**RATES, direction="sgd"), CompressionConfig(topology=topology, **local))
    two_step = topology == "two_step"
    settings = local_steps.Settings(
        owned_pieces() if two_step else pieces,
        ETA,
        quantize_padded if two_step else lambda x, player: quantize_player(x, player, SIGN),
        local_steps=3,
        shift=0.1,
        two_step=two_step,
    )
    iterator, done = tiny_gan.distributed_iterator(strategy, batches[:STEPS]), 0
    for state in local_steps.run(game, tiny_gan.weights(model)[0], M, settings, STEPS):
        assert model.train_steps(iterator, state.t - done) == state.t - done
        weights, done = tiny_gan.weights(model), state.t
        assert np.all(weights == weights[0]), f"replicas differ after step {done}"
        np.testing.assert_allclose(weights[0], state.w, atol=TOLERANCE * np.max(np.abs(state.w)), err_msg=f"{done}")
        residual = np.concatenate([state.residual[:, p.slice] for p in pieces if p is not EXACT], axis=1)
        found, scale = tiny_gan.replica_state(model, "residual"), np.max(np.abs(state.update))
        np.testing.assert_allclose(found, residual, atol=TOLERANCE * scale, err_msg=f"{done}")
    assert done == STEPS and np.max(np.abs(residual)) > 1e-2
    assert not np.any(state.residual[:, EXACT.slice])


def check_look_ahead(model, strategy, batches):
    """The average and the anchors move with the second half alone; halves differ in the weights."""
    iterator = tiny_gan.distributed_iterator(strategy, batches[:2])
    states = [model_state.bits(model)]
    for _ in range(2):
        model.train_steps(iterator, 1)
        states.append(model_state.bits(model))
    moved = [name for name in states[0] if name.startswith(("ema/", "anchor/"))]
    assert {name.partition("/")[0] for name in moved} == {"ema", "anchor"}
    for name in moved:
        assert states[0][name] == states[1][name] != states[2][name], name
    weights = [name for name in model.shared_values() if name.startswith(("generator/", "discriminator/"))]
    assert weights and all(states[0][name] != states[1][name] != states[2][name] for name in weights)


def check_start_from_other_weights(model, strategy, batches, tmp_path):
    """Steps start from weights that were set, and from those of a file whose optimizer has no anchors."""
    model.set_weights([0.5 * weight for weight in model.get_weights()])
    assert np.array_equal(tiny_gan.replica_state(model, "anchor"), tiny_gan.weights(model))
    other = build(strategy, *method("dqgan_adam", SIGN))
    other.set_weights([0.25 * weight for weight in other.get_weights()])
    other.step.assign(4)  # the next step looks ahead, and no anchor moves
    other.save_weights(tmp_path / "other.weights.h5")
    model.load_weights(tmp_path / "other.weights.h5")
    loaded = tiny_gan.weights(model)
    model.train_steps(tiny_gan.distributed_iterator(strategy, batches[:1]), 1)
    assert np.array_equal(tiny_gan.replica_state(model, "anchor"), loaded)
    assert 0 < np.max(np.abs(tiny_gan.weights(model) - loaded)) <= 1.1 * np.max(ETA)


@pytest.mark.slow
def test_the_two_step_exchange_of_gradients_follows_its_oracle(strategy, game, batches):
    model = build(strategy, *method("cpoadam_ef", TERNARY, "two_step"))
    owners = np.zeros(X + Y + B, int)  # buckets of 32 are dealt out in turn; zeros that fill one up change no maximum
    owners[32:X] = owners[X + 32 : X + Y] = 1
    expected = methods_numpy.two_step_feedback_adam(
        game, tiny_gan.weights(model)[0], M, ETA, STEPS, quantizer(TERNARY), owners, ADAM
    )
    follow(model, strategy, batches, expected)


@pytest.mark.slow
def test_a_shift_of_gradients_follows_its_oracle(strategy, game, batches):
    optimizer, compression = method("cpoadam_ef", SIGN)
    model = build(strategy, optimizer, dataclasses.replace(compression, shift=0.3))
    w0 = tiny_gan.weights(model)[0]
    without = list(baselines.feedback_adam(game, w0, M, ETA, STEPS, quantizer(SIGN), ADAM))
    expected = list(methods_numpy.shifted_feedback_adam(game, w0, M, ETA, STEPS, quantizer(SIGN), ADAM, 0.3))
    assert np.max(np.abs(without[-1] - expected[-1])) > 1e3 * TOLERANCE
    follow(model, strategy, batches, iter(expected))


@pytest.mark.parametrize(
    ("period", "local_steps", "discriminator_steps"), [(1, 1, 1), (50, 1, 1), (8, 3, 1), (2, 4, 1), (10, 1, 3)]
)
def test_sent_bytes_count_the_averages_of_second_moments(strategy, period, local_steps, discriminator_steps):
    optimizer, compression = method("dqgan_adam_averaged", SIGN, discriminator_steps=discriminator_steps)
    optimizer = dataclasses.replace(optimizer, second_moment_period=period)
    model = build(strategy, optimizer, dataclasses.replace(compression, local_steps=local_steps))
    first, last = 1201, 24_000  # whole rounds and generator steps, behind the averages of the first 64 steps
    due = [t // discriminator_steps for t in range(first, last + 1) if t % discriminator_steps == 0]
    rounds = {(move - 1) // local_steps for move in due if dqgan_numpy.averages_at(move, period)}
    values = tiny_gan.weights(model).shape[1]
    moments = 2 * (M - 1) / M * 4 * values * len(rounds) / (last + 1 - first)
    model.compile(dataclasses.replace(optimizer, second_moment="local"), model.compression_config)
    updates = model.bytes_per_step()["sent_bytes"]
    model.compile(optimizer, model.compression_config)
    assert model.bytes_per_step()["sent_bytes"] == pytest.approx(updates + moments, rel=1e-3)


@pytest.mark.slow
def test_discriminator_steps_follow_their_oracle(strategy, game, batches):
    model = build(strategy, *method("dqgan_adam", SIGN, discriminator_steps=3))
    expected = methods_numpy.discriminator_steps(
        game, tiny_gan.weights(model)[0], M, ETA, STEPS, quantizer(SIGN), ADAM, 3, X
    )
    follow(model, strategy, batches, expected)
    calls = [[int(calls) for calls in channel.calls.variables] for channel in model._channels]
    assert calls == [[6] * M, [20] * M]  # the counters of random numbers went back to step 10 too
    generator, discriminator = (channel.wire_bytes for channel in model._channels)
    assert 0 < generator != discriminator and model.bytes_per_step()["wire_bytes"] == discriminator + generator / 3
    check_figures_of_a_player_are_means_over_its_moves(model, strategy, batches)
    with pytest.raises(UsageError, match="call fit or train_steps instead of train_step. .*discriminator_steps=3"):
        strategy.run(model.train_step, args=(tf.zeros([BATCH, X]),))


def check_figures_of_a_player_are_means_over_its_moves(model, strategy, batches):
    """In steps 22 and 23 the discriminator moves alone: the generator's figures of 22 to 24 are those of 24."""
    model.train_steps(tiny_gan.distributed_iterator(strategy, batches[:1]), 1)
    model.drain_metrics()
    state, figures = saved(model), []
    iterator = tiny_gan.distributed_iterator(strategy, batches[1:4])
    for _ in range(3):
        model.train_steps(iterator, 1)
        figures.append(model.drain_metrics())
    restore(model, state)
    model.train_steps(tiny_gan.distributed_iterator(strategy, batches[1:4]), 3)
    together = model.drain_metrics()
    for name in ("gradient_norm", "update_norm", "residual_ratio"):
        assert [np.isnan(one[f"{name}/generator"]) for one in figures] == [True, True, False]
        assert together[f"{name}/generator"] == figures[2][f"{name}/generator"] > 0
        assert not any(np.isnan(one[f"{name}/discriminator"]) for one in figures)
    losses_of_both = [one["discriminator_loss"] for one in figures]
    assert together["discriminator_loss"] == pytest.approx(np.mean(losses_of_both), rel=1e-5)


def saved(model):
    return model.shared_values(), [model.replica_values(replica) for replica in range(M)]


def restore(model, state):
    model.set_shared_values(state[0])
    for replica, values in enumerate(state[1]):
        model.set_replica_values(replica, values)


@pytest.mark.slow
def test_ef21_counts_both_errors_of_the_two_step_exchange(strategy, batches):
    """What every step applies is the mean of what the replicas wanted, less the mean of their residuals."""
    model = build(strategy, *method("ef21_sgdm", SIGN, "two_step"))
    iterator = tiny_gan.distributed_iterator(strategy, batches)
    for _ in range(5):
        before = tiny_gan.weights(model)[0]
        model.train_steps(iterator, 1)
        wanted, residual = tiny_gan.replica_state(model, "previous_value"), tiny_gan.replica_state(model, "residual")
        padded = np.concatenate([residual.mean(0), np.zeros(B)])  # b has none
        estimate = tiny_gan.replica_state(model, "estimate")
        assert np.all(estimate == estimate[0])
        np.testing.assert_allclose(estimate[0], wanted.mean(0) - padded, atol=1e-6)
        np.testing.assert_allclose(tiny_gan.weights(model)[0], before - estimate[0], atol=1e-6)
    assert np.max(np.abs(residual)) > 0.01


def follow(model, strategy, batches, expected, every=1):
    """Compares the weights after every step with the oracle's; then a NaN; then once more from the middle."""
    iterator = tiny_gan.distributed_iterator(strategy, batches[:STEPS])
    largest = 0.0
    for step in range(1, STEPS + 1):
        model.train_steps(iterator, 1)
        if step == STEPS // 2:
            middle = saved(model)
        if step % every:
            continue
        weights, w = tiny_gan.weights(model), next(expected)
        assert np.all(weights == weights[0]), f"replicas differ after step {step}"
        largest = max(largest, np.max(np.abs(weights[0] - w)) / np.max(np.abs(w)))
        assert largest < TOLERANCE, f"step {step}: {largest}"
    check_skipped_step(model, strategy, batches[STEPS:].copy())
    end = without_counters(model)
    restore(model, middle)
    model.train_steps(tiny_gan.distributed_iterator(strategy, batches[STEPS // 2 : STEPS]), STEPS - STEPS // 2)
    assert without_counters(model) == end


def check_skipped_step(model, strategy, batch):
    """One replica's NaN, which reaches the discriminator's gradient alone, changes no state of any replica.

    Nor does a gradient that is finite and sent, but whose square overflows in Adam's second moment after the average.
    """
    before = without_counters(model)
    batch[0, 1, 0, 0] = 2e20 if model.optimizer_config.exchange == "gradient" else np.nan
    model.train_steps(tiny_gan.distributed_iterator(strategy, batch), 1)
    assert int(model.skipped.numpy()) == 1 and int(model.step.numpy()) == STEPS + 1
    assert without_counters(model) == before


def without_counters(model):
    """All state but the numbers of steps and calls, which a skipped step counts too."""
    counters = ("step", "skipped", "skipped_in_row", "calls", "generator_calls")
    return {name: value for name, value in model_state.bits(model).items() if name not in counters}
