"""What must hold on the real system for any game: nothing is lost, the virtual iterate obeys OMD, exact stays exact."""

import math

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.config import CompressionConfig, OptimizerConfig
from dqgan_tf.distribute.layout import Vector
from dqgan_tf.distribute.replica_local import local_replica_index
from dqgan_tf.errors import UsageError
from tests.gan import tiny_gan
from tests.gan.local_strategy import local_strategy

STEPS = 20
# A float32 subtraction of weights near 1 rounds to 6e-8; a step has three, each of 20 steps adds its own.
ROUNDING = 1e-6
OPTIMIZER = OptimizerConfig(direction="adam", learning_rate_g=0.02, learning_rate_d=0.01)
RATES = np.repeat([0.02, 0.01], [size for _, size in tiny_gan.SIZES])


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(tiny_gan.REPLICAS)


def states(strategy, compressor):
    """Yields the model after 0, 1, ... `STEPS` steps."""
    model = tiny_gan.build(strategy, OPTIMIZER, CompressionConfig(compressor=compressor))
    iterator = tiny_gan.distributed_iterator(strategy, tiny_gan.real_batches(STEPS))
    yield model
    for _ in range(STEPS):
        model.train_steps(iterator, 1)
        yield model


def evaluation_points(strategy, model):
    """Returns a function: where every replica takes its next gradient, [M, n]."""

    def point():
        residuals, flat = iter(model.channel.residuals(local_replica_index())), []
        for player, rate in zip(model._players, (0.02, 0.01), strict=True):
            own = [next(residuals) for _ in player.shapes]
            flat += [tf.reshape(w, [-1]) for w in player.gradient_points(own, tf.constant(rate), [None] * len(own))]
        return tf.concat(flat, 0)

    compiled = tf.function(lambda: strategy.run(point), autograph=False)
    return lambda: np.array([v.numpy() for v in compiled().values], np.float64)


def virtual_iterate(model):
    """z = w - mean(e), [n]."""
    return tiny_gan.weights(model)[0] - tiny_gan.replica_state(model, "residual").mean(0)


@pytest.mark.slow  # follows from tests/gan/test_against_oracle.py, where each variable of each step has a reference
@pytest.mark.parametrize("compressor", ["sign:bucket=32", "topk:fraction=0.1"])
def test_virtual_iterate_and_telescoping(strategy, compressor):
    run = states(strategy, compressor)
    model = next(run)
    points = evaluation_points(strategy, model)
    start, total = tiny_gan.weights(model)[0], np.zeros((tiny_gan.REPLICAS, len(RATES)))
    for _ in range(STEPS):
        before, mean_point = virtual_iterate(model), points().mean(0)
        optimistic = RATES * tiny_gan.replica_state(model, "previous_direction").mean(0)
        np.testing.assert_allclose(mean_point, before - optimistic, atol=ROUNDING)
        model = next(run)
        update = RATES * tiny_gan.replica_state(model, "previous_direction")
        np.testing.assert_allclose(virtual_iterate(model), before - update.mean(0), atol=ROUNDING)
        total += update
    residual = tiny_gan.replica_state(model, "residual")
    sent = start - tiny_gan.weights(model)[0]
    np.testing.assert_allclose(sent + residual.mean(0), total.mean(0), atol=STEPS * ROUNDING)
    assert np.max(np.abs(residual)) > 1e-2  # eta |u| is about 1e-2: a single dropped update is this large


@pytest.mark.parametrize(
    "compression",
    [
        {"compressor": "sign:bucket=32", "compressor_rules": "bias=none", "topology": "two_step"},
        pytest.param({"compressor": "topk:fraction=0.1", "shift": 0.02}, marks=pytest.mark.slow),
        pytest.param({"compressor": "sign:bucket=32", "local_steps": 3}, marks=pytest.mark.slow),
    ],
)
def test_flushed_residuals_are_in_the_weights_and_in_the_averaged_generator(strategy, compression):
    """The averaged generator against the recurrence over virtual iterates, in float64."""
    model = tiny_gan.build(strategy, OPTIMIZER, CompressionConfig(flush_residuals=True, **compression))
    iterator, every = (
        tiny_gan.distributed_iterator(strategy, tiny_gan.real_batches(9)),
        compression.get("local_steps", 1),
    )
    size = sum(math.prod(weight.shape) for weight in model._players[0].weights)
    average = tiny_gan.weights(model)[0][:size]
    for first in range(0, 6, every):
        assert model.train_steps(iterator, every) == every
        decay = math.prod((1 + t) / (10 + t) for t in range(first + 1, first + every + 1))
        average = decay * average + (1 - decay) * (tiny_gan.weights(model)[0] - mean_residual(model))[:size]
    before, residual = tiny_gan.weights(model)[0], mean_residual(model)
    assert np.max(np.abs(residual)) > 1e-3 and np.max(np.abs(averages(model) - average)) > 1e-3
    model.flush_residuals()
    weights = tiny_gan.weights(model)
    assert np.all(weights == weights[0])
    np.testing.assert_allclose(weights[0], before - residual, atol=ROUNDING)
    np.testing.assert_allclose(averages(model), [average] * tiny_gan.REPLICAS, atol=ROUNDING)
    assert not np.any(mean_residual(model)) and not np.any(tiny_gan.replica_state(model, "ema_residual"))
    assert model.train_steps(iterator, 3) == 3
    assert np.any(mean_residual(model)) and np.any(tiny_gan.replica_state(model, "ema_residual"))
    model.reset_ema()
    model.flush_residuals()  # the average began anew at w, that of the residuals at e
    np.testing.assert_allclose(averages(model)[0], tiny_gan.weights(model)[0][:size], atol=ROUNDING)


def test_a_model_that_does_not_average_residuals_flushes_none(strategy):
    model = tiny_gan.build(strategy, OPTIMIZER, CompressionConfig(compressor="sign:bucket=32"))
    assert not any(name.startswith("ema_residual") for name in model.replica_values(0))
    with pytest.raises(
        UsageError, match="CompressionConfig\\(flush_residuals=True\\). Received: flush_residuals=False"
    ):
        model.flush_residuals()


def mean_residual(model):
    """mean(e), [n]; 0 for weights that are sent exactly."""
    shapes = [weight.shape for player in model._players for weight in player.weights]
    rows = [model.channel.residuals(replica) for replica in range(tiny_gan.REPLICAS)]
    flat = [
        np.concatenate(
            [np.zeros(np.prod(shape)) if e is None else np.ravel(e) for e, shape in zip(row, shapes, strict=True)]
        )
        for row in rows
    ]
    return np.mean(flat, 0, dtype=np.float64)


def averages(model):
    """The averaged generator of every replica, float64 [M, n]."""
    variables = model._averaged.state().values()
    rows = [[np.ravel(v.variables[replica]) for v in variables] for replica in range(tiny_gan.REPLICAS)]
    return np.array([np.concatenate(row) for row in rows], np.float64)


def mean_over_replicas(strategy, options=None, shapes=((70,),)):
    """Returns a function: values [M, n] -> what every replica receives as their mean, float32 [M, n].

    The n values travel as tensors of these shapes.
    """

    def replica(value):
        parts = tf.split(value, [math.prod(shape) for shape in shapes])
        parts = [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]
        means = tf.distribute.get_replica_context().all_reduce("mean", parts, options=options)
        return tf.concat([tf.reshape(mean, [-1]) for mean in means], 0)

    reduce = tf.function(lambda value: strategy.run(replica, args=(value,)), autograph=False)

    def mean(values):
        rows = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(values[context.replica_id_in_sync_group])
        )
        return np.array([v.numpy() for v in reduce(rows).values])

    return mean


def flat(tensors):
    return np.concatenate([np.ravel(tensor) for tensor in tensors])


def wide_values():
    """float32 [3, 70] over twelve orders of magnitude: any lossy compressor would show."""
    rng = np.random.default_rng(3)
    return (rng.standard_normal((3, 70)) * 10.0 ** rng.integers(-6, 6, (3, 70))).astype(np.float32)


def test_none_is_the_dense_all_reduce_bit_for_bit(strategy):
    channel = strategy.open_channel("exact", [Vector("w", compressors.get("none"), ((70,),), (0,))])
    values = wide_values()
    dense, through = (mean_over_replicas(strategy, options)(values) for options in (None, channel.options))
    strategy.close_channel("exact")
    assert np.array_equal(dense.view(np.int32), through.view(np.int32))


def test_without_the_tag_a_reduction_is_exact_beside_an_open_channel(strategy):
    channel = strategy.open_channel("lossy", [Vector("w", compressors.get("sign:bucket=32"), ((70,),), (0,))])
    integers = np.arange(210, dtype=np.float32).reshape(3, 70) * 3  # sums of integers are exact in any order
    received = mean_over_replicas(strategy)(integers)
    assert np.array_equal(received, np.tile(integers.mean(0), (3, 1)))
    assert not any(np.any(channel.residuals(replica)[0]) for replica in range(3))
    assert not np.array_equal(mean_over_replicas(strategy, channel.options)(integers), received)
    strategy.close_channel("lossy")


ALL = [
    "sign:bucket=32",
    "linear:bits=2,bucket=32",
    "topk:fraction=0.1",
    "adaptive:bits=3,bucket=32",
    "powersgd:rank=1",
]


CASES = [(spec, shift, topology) for topology in ("all_gather", "two_step") for spec in ALL for shift in (0.0, 0.1)]
QUICK = [("sign:bucket=32", 0.1, "all_gather"), ("adaptive:bits=3,bucket=32", 0.0, "all_gather")]


@pytest.mark.parametrize(
    "spec, shift, topology",
    [pytest.param(*case, marks=[pytest.mark.slow] * (case not in QUICK)) for case in CASES],
)
def test_a_channel_loses_nothing(strategy, spec, shift, topology):
    """sum_t q_t + mean_m e_T = sum_t mean_m x_t, every replica receives the same bits, and sbar is the mean of s."""
    vector = Vector("w", compressors.get(spec), ((6, 10), (10,)), (0, 1))
    channel = strategy.open_channel("kept", [vector], shift=shift, topology=topology)
    values = np.random.default_rng(4).standard_normal((10, 3, 70)).astype(np.float32)
    mean = mean_over_replicas(strategy, channel.options, vector.shapes)
    received = np.array([mean(x) for x in values])
    kept = np.mean([flat(channel.residuals(replica)) for replica in range(3)], axis=0)
    assert np.max(np.abs(kept)) > 0.05
    states = [channel.state(replica) for replica in range(3)]
    if shift:
        shifts, means = (np.array([flat(state[kind]) for state in states]) for kind in ("shift", "mean_shift"))
        assert np.array_equal(means[0], means[1]) and np.array_equal(means[0], means[2])
        np.testing.assert_allclose(shifts.mean(0), means[0], atol=1e-6)
        assert np.max(np.abs(shifts - means)) > 0.05
    assert len(states[0]) == (3 if shift else 1)
    learned = [v.numpy() for state in channel.learned.values() for v in state.variables]
    assert len(learned) == (0 if vector.initial_state() is None else 3)
    assert all(np.array_equal(one, learned[0]) for one in learned)
    assert not learned or not np.array_equal(learned[0], vector.initial_state())
    strategy.close_channel("kept")
    assert np.array_equal(received[:, 0], received[:, 1]) and np.array_equal(received[:, 0], received[:, 2])
    np.testing.assert_allclose(received[:, 0].sum(0) + kept, values.mean(1).sum(0), atol=1e-5)


@pytest.mark.slow  # tests/gan/test_model.py skips a step too
def test_a_step_with_a_nan_on_one_replica_changes_nothing_on_any(strategy):
    optimizer = OptimizerConfig(learning_rate_g=0.02, learning_rate_d=0.01, second_moment="averaged")
    model = tiny_gan.build(strategy, optimizer, CompressionConfig(compressor="sign:bucket=32"))
    batches = tiny_gan.real_batches(5)
    batches[[0, 1, 3], 1, 0, 0] = np.nan  # replica 1, steps 1, 2 and 4: the first averages of v among them
    iterator = tiny_gan.distributed_iterator(strategy, batches)
    skipped = []
    for _ in range(5):
        before = _bits(model)
        model.train_steps(iterator, 1)
        skipped.append(np.array_equal(before, _bits(model)))
        # Moments are fresh: |u| = 1 at the first accepted step, about 1 at the next; never g / epsilon.
        directions = np.abs(tiny_gan.replica_state(model, "previous_direction"))
        assert np.max(directions) < 10
        if skipped == [True, True, False]:  # Adam's t is 1: skipped steps do not count
            np.testing.assert_allclose(directions, 1.0, atol=1e-2)
    assert skipped == [True, True, False, True, False]
    assert int(model.skipped.numpy()) == 3


def _bits(model):
    kinds = ("previous_direction", "residual", "m", "v", "averaged")
    return np.concatenate([tiny_gan.weights(model), *[tiny_gan.replica_state(model, kind) for kind in kinds]])
