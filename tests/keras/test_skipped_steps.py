"""A gradient that is not finite on one replica: all replicas skip the step together, and nothing has changed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import dqgan_tf
from dqgan_tf.errors import UsageError
from tests.gan.local_strategy import local_strategy
from tests.keras import small_models

STEPS, BAD = 6, 3
SPEC = "linear:bits=4,bucket=32"


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(2)


def poisoned(value, part=1):
    """Batches of which replica 1's share of number `BAD` has `value` as a target; as an input for part 0."""
    x, y = small_models.batches(STEPS, 2)
    (x, y)[part][BAD, -1, 0] = value
    return small_models.dataset(x, y)


def state(strategy, model):
    """Every variable, the residuals and the half steps of both replicas."""
    variables = [*model.trainable_variables, *model.optimizer.variables]
    point = model.optimizer.compression.point
    locals_ = [variable for local in point.state().values() for variable in local.variables] if point else []
    point = [np.concatenate([np.ravel(variable.numpy()) for variable in locals_])] if locals_ else []
    return [small_models.values(strategy, variables), small_models.residuals(model.optimizer, 2), *point]


@pytest.mark.parametrize(
    "options", [{}, {"where": "update", "optimistic": True}, pytest.param({"where": "update"}, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("make", [lambda: keras.optimizers.Adam(0.01, use_ema=True, weight_decay=0.1)])
def test_a_skipped_step_changes_nothing(strategy, make, options):
    model = small_models.mlp(strategy, lambda: dqgan_tf.compressed(make(), SPEC, **options))
    recorder = small_models.Recorder(lambda: state(strategy, model))
    model.fit(poisoned(np.nan), shuffle=False, callbacks=[recorder], verbose=0)
    for before, after in zip(recorder.seen[BAD - 1], recorder.seen[BAD], strict=True):
        np.testing.assert_array_equal(before, after)
    for before, after in zip(recorder.seen[BAD], recorder.seen[BAD + 1], strict=True):
        assert np.all(np.isfinite(after)) and not np.array_equal(before, after)
    weights = small_models.values(strategy, model.trainable_variables)
    np.testing.assert_array_equal(weights[0], weights[1])
    assert [int(v.numpy()) for v in model.optimizer.compression.skipped.variables] == [1, 1]
    assert int(model.optimizer.iterations.numpy()) == STEPS - 1


@pytest.mark.slow
def test_a_skipped_round_restores_the_state_before_it(strategy):
    """Rounds of 3 steps: the bad step 4 is the first of the second round, which ends with step 6."""
    options = {"where": "update", "optimistic": True, "local_steps": 3}
    model = small_models.mlp(strategy, lambda: dqgan_tf.compressed(keras.optimizers.Adam(0.01), SPEC, **options))

    def look():
        point = model.optimizer.compression.point.state()
        after = [v.numpy() for name, one in sorted(point.items()) if "kept" not in name for v in one.variables]
        return [*state(strategy, model)[:2], np.concatenate([np.ravel(value) for value in after])]

    recorder = small_models.Recorder(look)
    model.fit(poisoned(np.nan).repeat(2), shuffle=False, callbacks=[recorder], verbose=0)
    assert BAD == 3 and np.all(np.isfinite(recorder.seen[4][0]))  # moments inside of the round
    assert not np.array_equal(recorder.seen[4][0], recorder.seen[5][0])
    for before, after in zip(recorder.seen[2], recorder.seen[5], strict=True):
        np.testing.assert_array_equal(before, after)
    for before, after in zip(recorder.seen[5], recorder.seen[8], strict=True):
        assert np.all(np.isfinite(after)) and not np.array_equal(before, after)
    assert int(model.optimizer.iterations.numpy()) == 6
    assert [int(v.numpy()) for v in model.optimizer.compression.skipped.variables] == [2, 2]


@pytest.mark.parametrize(
    "where, options",
    [
        ("gradient", {"clipvalue": 0.1}),
        pytest.param("update", {}, marks=pytest.mark.slow),
        pytest.param("gradient", {}, marks=pytest.mark.slow),
        pytest.param("gradient", {"clipnorm": 0.1}, marks=pytest.mark.slow),
        pytest.param("update", {"clipvalue": 0.1}, marks=pytest.mark.slow),
        pytest.param("update", {"clipnorm": 0.1}, marks=pytest.mark.slow),
    ],
)
def test_all_replicas_halve_the_loss_scale_when_one_overflows(strategy, where, options):
    """Clipping by value would make the infinite gradient finite."""

    def make():
        inner = dqgan_tf.compressed(keras.optimizers.SGD(0.01, **options), SPEC, where=where)
        return keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**10, dynamic_growth_steps=4)

    model = small_models.mlp(strategy, make)

    def look():
        optimizer = model.optimizer
        own = [optimizer.dynamic_scale, optimizer.step_counter]
        values = [[local.numpy() for local in strategy.experimental_local_results(v.value)] for v in own]
        return values, small_models.values(strategy, model.trainable_variables)

    recorder = small_models.Recorder(look)
    data = poisoned(3e38).repeat(2)  # the derivative of its squared error overflows
    model.fit(data, shuffle=False, callbacks=[recorder], verbose=0)
    scales = [values[0][0] for values, _ in recorder.seen]
    counters = [values[1][0] for values, _ in recorder.seen]
    assert all(a == b for values, _ in recorder.seen for a, b in values)
    assert scales == [1024.0] * 3 + [512.0] * 4 + [1024.0] * 2 + [512.0] * 3
    assert counters == [1, 2, 3, 0, 1, 2, 3, 0, 1, 0, 1, 2]
    np.testing.assert_array_equal(recorder.seen[BAD - 1][1], recorder.seen[BAD][1])
    np.testing.assert_array_equal(*recorder.seen[-1][1])


@pytest.mark.slow
def test_statistics_of_a_skipped_step_are_not_kept(strategy):
    layers = lambda: [keras.layers.BatchNormalization()]  # noqa: E731
    with strategy.scope():
        normalisation = layers()
    make = lambda: dqgan_tf.compressed(keras.optimizers.SGD(0.01), SPEC)  # noqa: E731
    model = small_models.mlp(strategy, make, layers=normalisation)
    model.fit(poisoned(np.nan, part=0), shuffle=False, verbose=0)
    statistics = small_models.values(strategy, model.non_trainable_variables)
    assert np.all(np.isfinite(statistics))
    np.testing.assert_array_equal(statistics[0], statistics[1])


@pytest.mark.slow
def test_an_accumulation_with_an_overflow_is_dropped_whole(strategy):
    make = lambda: dqgan_tf.compressed(  # noqa: E731
        keras.optimizers.SGD(0.01, gradient_accumulation_steps=3), SPEC
    )
    model = small_models.mlp(strategy, make)
    recorder = small_models.Recorder(lambda: small_models.values(strategy, model.trainable_variables))
    model.fit(poisoned(np.inf), shuffle=False, callbacks=[recorder], verbose=0)
    np.testing.assert_array_equal(recorder.seen[2], recorder.seen[5])
    assert not np.array_equal(recorder.seen[1], recorder.seen[2])
    sums = model.optimizer.compression.replica_variables
    assert sums and not np.any(small_models.values(strategy, sums))
    assert tf.math.is_finite(recorder.seen[5]).numpy().all()


@pytest.mark.slow
def test_an_epoch_without_a_step_is_said(strategy, caplog):
    """Epochs of 2 steps of which 2, 1 and 0 are skipped: one warning, without `logs`, and none for the evaluation."""
    model = small_models.mlp(strategy, lambda: dqgan_tf.compressed(keras.optimizers.SGD(0.01), SPEC))
    x, y = small_models.batches(STEPS, 2)
    y[[0, 1, 2]] = np.nan
    data = small_models.dataset(x, y)
    with caplog.at_level("WARNING"):
        model.fit(data, validation_data=data, shuffle=False, epochs=3, steps_per_epoch=2, verbose=0)
    said = [record.getMessage() for record in caplog.records if "were skipped" in record.getMessage()]
    assert len(said) == 1 and said[0].startswith("All 2 steps of 'sgd")


def test_a_loss_scale_of_several_optimizers_is_refused_when_it_is_made(strategy):
    """Keras makes one itself at `compile` under mixed_float16."""
    opt = keras.optimizers

    def several():
        return opt.MultiOptimizer(opt.OptimizerMap(dqgan_tf.compressed(opt.SGD(0.01), SPEC)))

    with strategy.scope(), pytest.raises(UsageError, match="mixed_bfloat16"):
        opt.LossScaleOptimizer(several())
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with pytest.raises(UsageError, match="mixed_bfloat16"):
            small_models.mlp(strategy, several)
    finally:
        keras.config.set_dtype_policy("float32")
    opt.LossScaleOptimizer(opt.MultiOptimizer(opt.OptimizerMap(opt.SGD(0.01))))  # of no strategy: Keras' own


def test_a_loss_scale_without_compression_is_refused_before_the_first_step(strategy):
    """It would hang at the first overflow of one replica."""
    make = lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01))  # noqa: E731
    model = small_models.mlp(strategy, make)
    with pytest.raises(UsageError, match=r"dqgan_tf.compressed\(SGD\(...\), 'none'\)"):
        model.fit(small_models.dataset(*small_models.batches(2, 2)), verbose=0)
    alone = local_strategy(1)
    model = small_models.mlp(alone, make)
    losses = model.fit(small_models.dataset(*small_models.batches(2, 1)), epochs=2, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
