"""The model on two replicas of one process: skipped steps, equal weights, tracing, randomness, averages, memory."""

import os
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.config import CompressionConfig, LossConfig, NetworkConfig, OptimizerConfig
from dqgan_tf.gan import networks, steps
from dqgan_tf.gan.model import DQGAN
from tests.gan import model_state, tiny_gan
from tests.gan.local_strategy import local_strategy

REPLICAS, BATCH, LATENT, SHAPE, SEED, EMA_DECAY = 2, 4, 3, (28, 28, 1), 5, 0.25
COUNTERS = ("step", "skipped", "skipped_in_row", "calls")  # these count a skipped step


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(REPLICAS)


@pytest.fixture(scope="module")
def model(strategy):
    """A DCGAN with batch normalisation: traced once, for all tests here. No test relies on the step it finds."""
    keras.utils.set_random_seed(8)
    with strategy.scope():
        players = networks.build(NetworkConfig("dcgan", latent_dim=LATENT, width=4), SHAPE, SEED)
        model = DQGAN(players.generator, players.discriminator, seed=SEED, ema_decay=EMA_DECAY)
    model.compile(OptimizerConfig(), CompressionConfig(compressor="sign:bucket=64"))
    return model


def images(steps, seed=0):
    """Float32 batches, a list [steps][replicas] of [batch, 28, 28, 1] in [-1, 1]."""
    draw = np.random.default_rng(seed).uniform
    return [[draw(-1, 1, (BATCH, *SHAPE)).astype(np.float32) for _ in range(REPLICAS)] for _ in range(steps)]


def served(strategy, batches):
    """A distributed iterator that ends: replica m's step t sees batches[t][m], of any number of samples."""
    flat = [batch for step in batches for batch in step]
    spec = tf.TensorSpec([None, *SHAPE])
    dataset = tf.data.Dataset.from_generator(lambda: iter(flat), output_signature=spec)
    return iter(strategy.distribute_datasets_from_function(lambda _: dataset))


def bits(model):
    """The bytes of all state on every replica, by name, without counters."""
    return {name: row for name, row in model_state.bits(model).items() if name not in COUNTERS}


def averages(model, replica):
    """The averaged generator of one replica, float64 [n]."""
    named = model_state.values(model)
    return flat_values([row[replica] for name, row in named.items() if name.startswith("ema/generator/")])


def flat_values(values):
    return np.concatenate([np.ravel(value) for value in values]).astype(np.float64)


def counter(variable):
    """A counter's value on every replica."""
    return [int(value.numpy()) for value in variable.value.values]


class TestSkippedSteps:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_what_is_not_finite_on_one_replica_changes_nothing_on_any(self, strategy, model, value):
        batches = images(3)
        batches[1][1][0, 0, 0, 0] = value
        iterator = served(strategy, batches)
        model.train_steps(iterator, 1)
        model.drain_metrics()
        before, skipped = bits(model), counter(model.skipped)[0]
        assert any("moving_mean" in name for name in before) and any("residual" in name for name in before)

        model.train_steps(iterator, 1)
        assert bits(model) == before
        assert counter(model.skipped) == [skipped + 1] * REPLICAS
        assert counter(model.skipped_in_row) == [1] * REPLICAS

        model.train_steps(iterator, 1)
        after = bits(model)
        assert all(after[name] != before[name] for name in before if "variance" not in name)
        assert counter(model.skipped) == [skipped + 1] * REPLICAS
        assert counter(model.skipped_in_row) == [0] * REPLICAS
        assert all(np.isfinite(value) for value in model.drain_metrics().values())

    def test_a_replica_without_a_sample_makes_all_skip(self, strategy, model):
        """The mean over no sample is not a gradient: batch normalisation would keep 0 / 0 for ever."""
        batches = images(2)
        batches[0][1] = batches[0][1][:0]
        iterator = served(strategy, batches)
        before, skipped = bits(model), counter(model.skipped)[0]
        model.train_steps(iterator, 1)
        assert bits(model) == before
        assert counter(model.skipped) == [skipped + 1] * REPLICAS
        model.train_steps(iterator, 1)
        assert bits(model) != before

    def test_data_that_end_end_the_steps_on_all_replicas_alike(self, strategy, model):
        start, calls = counter(model.step)[0], [int(v.numpy()) for v in model.channel.calls.variables]
        assert model.train_steps(served(strategy, images(3)), 5) == 3
        assert counter(model.step) == [start + 3] * REPLICAS
        assert [int(v.numpy()) for v in model.channel.calls.variables] == [count + 3 for count in calls]


def test_train_step_in_a_training_loop_of_your_own_is_the_same_step(strategy, model):
    shared, replicas = model.shared_values(), [model.replica_values(replica) for replica in range(REPLICAS)]
    model.train_steps(served(strategy, images(1)), 1)
    expected = model_state.values(model)
    model.set_shared_values(shared)
    for replica, values in enumerate(replicas):
        model.set_replica_values(replica, values)
    assert int(model_state.values(model)["step"][0]) == int(expected["step"][0]) - 1

    own_loop = tf.function(lambda iterator: strategy.run(model.train_step, args=(next(iterator),)), autograph=False)
    assert own_loop(served(strategy, images(1))) == {}
    for name, row in model_state.values(model).items():
        # Another graph: a convolution's gradient may be summed in another order, in float32.
        np.testing.assert_allclose(row, expected[name], rtol=1e-4, atol=1e-7, err_msg=name)


class TestEqualReplicas:
    def test_digests_agree_until_one_bit_differs(self, strategy, model):
        model.train_steps(served(strategy, images(1)), 1)
        digests = model.weight_digests()
        assert digests.shape == (REPLICAS, 2) and np.array_equal(digests[0], digests[1])
        local = model.discriminator.trainable_variables[0].value.values[1]
        good = local.numpy()
        flipped = good.copy()
        flipped.ravel().view(np.int32)[0] ^= 1
        local.assign(flipped)
        tampered = model.weight_digests()
        local.assign(good)
        assert np.array_equal(tampered[0], digests[0])
        assert np.all(tampered[1] != digests[1])  # an odd factor keeps any difference
        assert np.array_equal(model.weight_digests(), digests)

    def test_digests_are_in_the_order_of_the_replicas(self, model, monkeypatch):
        """TensorFlow gathers rows in the order of the texts of device names: replica 10 comes before replica 2."""
        rows = [[number, number + 100, number + 200] for number in (0, 1, 10, 2)]
        monkeypatch.setattr(model, "_digests", lambda: tf.constant(rows))
        assert model.weight_digests()[:, 0].tolist() == [100, 101, 102, 110]

    def test_batch_norm_statistics_are_the_mean_over_replicas(self, strategy, model):
        """Moving moments are linear in the batch's: with momentum .99 over replicas, s <- .99 s + .01 mean_m(b_m)."""
        iterator = served(strategy, images(2))
        model.train_steps(iterator, 1)
        for variable in model.generator.non_trainable_variables:
            first, second = (value.numpy() for value in variable.value.values)
            assert first.tobytes() == second.tobytes(), variable.path
            assert np.all(first != (0 if "mean" in variable.path else 1)), variable.path  # initial values

    def test_all_that_is_saved_once_is_equal(self, strategy, model):
        model.train_steps(served(strategy, images(2)), 2)
        state = bits(model)
        shared = model_state.shared(model) - set(COUNTERS)
        assert shared < set(state) and all(state[name][0] == state[name][1] for name in shared)
        # Batches and latents differ between replicas, so what is each replica's own does as well.
        assert all(state[name][0] != state[name][1] for name in state if name not in shared)


class TestTracing:
    def test_later_calls_do_not_trace_again(self, strategy, model):
        model.train_steps(served(strategy, images(1)), 1)
        model.drain_metrics(), model.weight_digests()
        functions = (model._take_steps_compiled, model._drain_compiled, model._digests)
        counts = [function.experimental_get_tracing_count() for function in functions]
        for num_steps in (1, 2, 5):
            model.train_steps(served(strategy, images(num_steps)), num_steps)
            model.drain_metrics(), model.weight_digests()
        assert [function.experimental_get_tracing_count() for function in functions] == counts == [1, 1, 1]


@pytest.fixture(scope="module")
def drawn(strategy, model):
    """Returns a function: step -> what the discriminator says of each replica's fakes, with equal weights."""

    def replica(step):
        weights = tuple([v.value for v in p.trainable_variables] for p in (model.generator, model.discriminator))
        return model._gradients_at(weights, tf.zeros([BATCH, *SHAPE]), step).fake_logit

    compiled = tf.function(lambda step: strategy.run(replica, args=(step,)), autograph=False)
    return lambda step: [float(v) for v in compiled(tf.constant(step, tf.int64)).values]


class TestRandomness:
    def test_every_replica_and_step_has_latents_of_its_own(self, drawn):
        values = [value for step in range(1, 6) for value in drawn(step)]
        assert len(set(values)) == 5 * REPLICAS

    def test_latents_are_a_function_of_seed_step_and_replica(self, model, drawn):
        first = drawn(7)
        assert drawn(8) != first
        assert drawn(7) == first

    def test_no_two_streams_meet(self):
        positions = [(p, t, m) for p in range(3) for t in range(1, 50) for m in range(4)]
        seeds = {
            (seed, *steps.stream_seed(seed, p, tf.constant(t), tf.constant(m), 4).numpy())[1:]
            for seed in (0, 1)
            for p, t, m in positions
        }
        assert len(seeds) == 2 * len(positions)


class TestAveragedGenerator:
    @pytest.mark.parametrize(("step", "skipped", "decay"), [(0, 0, 2 / 11), (30, 30, 2 / 11), (1000, 0, EMA_DECAY)])
    def test_follows_its_equation(self, strategy, model, step, skipped, decay):
        """w_ema <- d w_ema + (1 - d) w_t with d = min(ema_decay, (1 + t)/(10 + t)), t counting accepted steps."""
        model.step.assign(step)
        model.skipped.assign(skipped)
        if step == skipped:
            model.reset_ema()  # the average of no accepted step is the weights
        before = [averages(model, replica) for replica in range(REPLICAS)]
        model.train_steps(served(strategy, images(1)), 1)
        for replica in range(REPLICAS):
            weights = flat_values([v.value.values[replica] for v in model.generator.trainable_variables])
            expected = decay * before[replica] + (1 - decay) * weights
            # Tolerance: three float32 roundings, of values below 1.
            np.testing.assert_allclose(averages(model, replica), expected, rtol=1e-6, atol=1e-7)

    def test_is_what_generate_draws_from(self, strategy, model):
        model.train_steps(served(strategy, images(1)), 1)  # the average of no accepted step is the weights
        latent = tf.random.stateless_normal([2, LATENT], [1, 2])
        raw = model.generator(latent, training=False).numpy()
        np.testing.assert_allclose(model.generate(latent, use_ema=False), raw, atol=1e-6)
        values = model.shared_values()
        model.set_shared_values(values | {n: v + 0.1 for n, v in values.items() if n.startswith("ema/")})
        assert np.max(np.abs(model.generate(latent, use_ema=True) - raw)) > 1e-3
        model.reset_ema()
        np.testing.assert_allclose(model.generate(latent, use_ema=True), raw, atol=1e-6)


@pytest.mark.slow
def test_memory_stays_where_it_is(strategy, model):
    """300 steps in 30 calls, each looked at as the loop does: a leak of 55 kB a step would be 16 MiB."""
    if not pathlib.Path("/proc/self/statm").exists():
        pytest.skip("no /proc/self/statm: resident memory is read there")
    spec = tf.data.Dataset.from_tensors(images(1)[0][0]).repeat().map(lambda x: tf.ensure_shape(x, [None, *SHAPE]))
    iterator = iter(strategy.distribute_datasets_from_function(lambda _: spec))

    def resident_after_calls(calls):
        peak = 0
        for _ in range(calls):
            model.train_steps(iterator, 10)
            model.drain_metrics(), model.weight_digests()
            peak = max(peak, resident_bytes())
        return peak

    first = resident_after_calls(5)
    assert resident_after_calls(30) - first < 16 * 2**20


def resident_bytes():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


CLIP = 0.05


@pytest.fixture(scope="module")
def clipped():
    """A model on one replica whose first discriminator weights lie outside the bound."""
    strategy = local_strategy(1)
    keras.utils.set_random_seed(8)
    with strategy.scope():
        generator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        discriminator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
        model = DQGAN(generator, discriminator, loss=LossConfig(loss="wgan_clip", clip_value=CLIP))
    model.compile(OptimizerConfig(direction="sgd", learning_rate_g=0.1, learning_rate_d=0.1))
    return strategy, model


class TestClipping:
    def test_holds_after_every_step_and_not_after_a_skipped_one(self, clipped):
        strategy, model = clipped
        batches = np.random.default_rng(0).normal(2, 1, (6, 16, 2)).astype(np.float32)
        batches[0, 0, 0] = np.nan
        iterator = iter(
            strategy.distribute_datasets_from_function(lambda _: tf.data.Dataset.from_tensor_slices(batches))
        )
        before = flat(model.discriminator)
        assert np.max(np.abs(before)) > 2 * CLIP
        model.train_steps(iterator, 1)
        assert np.array_equal(flat(model.discriminator), before)
        for _ in range(5):
            model.train_steps(iterator, 1)
            assert np.max(np.abs(flat(model.discriminator))) == np.float32(CLIP)  # the bound is met, not passed
        assert np.max(np.abs(flat(model.generator))) > CLIP


def flat(network):
    return np.concatenate([np.ravel(variable.numpy()) for variable in network.trainable_variables])


class TestErrors:
    def test_outside_a_compressed_scope(self):
        generator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        discriminator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        with pytest.raises(ValueError, match="scope of a dqgan_tf.CompressedStrategy.*Received: _DefaultDistribution"):
            DQGAN(generator, discriminator)

    def test_error_feedback_needs_a_contractive_compressor(self):
        stochastic = "linear:bits=4,rounding=stochastic"
        strategy = local_strategy(1)
        with strategy.scope():
            generator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(200)])
            discriminator = keras.Sequential([keras.Input((200,)), keras.layers.Dense(1)])
            model = DQGAN(generator, discriminator)
        with pytest.raises(ValueError, match="contractive compressor: 'linear:.*take 'linear:.*allow_non_contractive"):
            model.compile(compression=CompressionConfig(compressor=stochastic))
        with pytest.raises(ValueError, match="take 'powersgd:rank=1,explore=1'.*allow_non_contractive"):
            model.compile(compression=CompressionConfig(compressor="powersgd:rank=1,explore=0"))
        model.compile(compression=CompressionConfig(compressor=stochastic, allow_non_contractive=True))
        assert model.channel.error_feedback
        model.compile(compression=CompressionConfig(compressor=stochastic, error_feedback=False))
        assert not model.channel.error_feedback

    def test_keras_optimizers_do_not_apply(self):
        model = tiny_gan.build(local_strategy(1), OptimizerConfig(), CompressionConfig())
        with pytest.raises(ValueError, match="must be a dqgan_tf.OptimizerConfig. Received: 'adam'"):
            model.compile("adam")
