"""Every Keras optimizer, option and dtype policy, two replicas in one process: identities and refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import dqgan_tf
from dqgan_tf.errors import UsageError
from tests.gan.local_strategy import local_strategy
from tests.keras import small_models

STEPS, RATE = 6, 0.01
LINEAR, SIGN = "linear:bits=4,bucket=32", "sign:bucket=32"
opt = keras.optimizers
OPTIMIZERS = {
    "sgd": lambda **options: opt.SGD(RATE, momentum=0.9, nesterov=True, **options),
    "adam": lambda **options: opt.Adam(RATE, amsgrad=True, **options),
    "adamw": lambda **options: opt.AdamW(RATE, **options),
    "rmsprop": lambda **options: opt.RMSprop(RATE, centered=True, momentum=0.5, **options),
    "adafactor": lambda **options: opt.Adafactor(RATE, **options),
    "lion": lambda **options: opt.Lion(RATE, **options),
    "nadam": lambda **options: opt.Nadam(RATE, **options),
    "adagrad": lambda **options: opt.Adagrad(RATE, **options),
    "adadelta": lambda **options: opt.Adadelta(1.0, **options),
    "adamax": lambda **options: opt.Adamax(RATE, **options),
    "lamb": lambda **options: opt.Lamb(RATE, **options),
    "muon": lambda **options: opt.Muon(RATE, **options),
    "ftrl": lambda **options: opt.Ftrl(RATE, **options),
    "schedule_free_adamw": lambda **options: opt.ScheduleFreeAdamW(RATE, **options),
}
MATRIX = ("sgd", "adam", "adamw", "rmsprop", "adafactor", "lion")
QUICK = ("adam", "lion")
OPTIONS = {
    "clipnorm": {"clipnorm": 0.05},
    "global_clipnorm": {"global_clipnorm": 0.05},
    "clipvalue": {"clipvalue": 0.01},
    "average": {"use_ema": True, "ema_momentum": 0.5},
    "weight_decay": {"weight_decay": 0.1},
    "loss_scale_factor": {"loss_scale_factor": 8.0},
}


def marked(names, quick):
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(2)


def fit(strategy, make, *, policy="float32", epochs=1, **options):
    """Returns (model, history, weights [M, n], optimizer state [M, k]) after `STEPS` steps an epoch."""
    keras.config.set_dtype_policy(policy)
    try:
        model = small_models.mlp(strategy, make, **options)
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = small_models.batches(STEPS, 2)
    history = model.fit(small_models.dataset(x, y), shuffle=False, epochs=epochs, verbose=0).history
    return model, history, *state(strategy, model)


def state(strategy, model):
    groups = (model.trainable_variables, model.optimizer.variables)
    return [small_models.values(strategy, group) for group in groups]


@pytest.mark.parametrize("name", marked(OPTIMIZERS, QUICK))
def test_without_a_compressor_it_is_the_stock_optimizer_bit_for_bit(strategy, name):
    """Two replicas: multiplying by M = 2 and dividing by it is exact."""
    make = OPTIMIZERS[name]
    _, history, weights, slots = fit(strategy, lambda: dqgan_tf.compressed(make(), "none"))
    _, stock_history, stock_weights, stock_slots = fit(strategy, make)
    np.testing.assert_array_equal(weights, stock_weights)
    np.testing.assert_array_equal(slots, stock_slots)
    assert history == stock_history


@pytest.mark.parametrize("option", marked(OPTIONS, ("global_clipnorm",)))
def test_options_are_the_stock_optimizers_bit_for_bit(strategy, option):
    make = lambda: OPTIMIZERS["adam"](**OPTIONS[option])  # noqa: E731
    *_, weights, slots = fit(strategy, lambda: dqgan_tf.compressed(make(), "none"))
    *_, stock_weights, stock_slots = fit(strategy, make)
    np.testing.assert_array_equal(weights, stock_weights)
    np.testing.assert_array_equal(slots, stock_slots)
    *_, plain_weights, _ = fit(strategy, OPTIMIZERS["adam"])
    assert option == "loss_scale_factor" or not np.array_equal(weights, plain_weights)


def test_learning_rate_schedules_are_the_stock_optimizers_bit_for_bit(strategy):
    make = lambda: opt.Adam(opt.schedules.ExponentialDecay(RATE, 2, 0.5))  # noqa: E731
    *_, weights, _ = fit(strategy, lambda: dqgan_tf.compressed(make(), "none"))
    *_, stock_weights, _ = fit(strategy, make)
    np.testing.assert_array_equal(weights, stock_weights)


def assert_trained(strategy, model, history, where):
    weights, slots = state(strategy, model)
    np.testing.assert_array_equal(weights[0], weights[1])
    if where == "gradient":
        np.testing.assert_array_equal(slots[0], slots[1])
    assert np.all(np.isfinite(weights)) and history["loss"][-1] < history["loss"][0]
    assert int(model.optimizer.iterations.numpy()) > 0


def custom_loop(strategy, make, policy):
    """Trains by `GradientTape` and `strategy.run`; the optimizer is built by its first step."""
    keras.config.set_dtype_policy(policy)
    try:
        model = small_models.mlp(strategy, make)
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = small_models.batches(STEPS, 2)
    optimizer = model.optimizer

    def replica_step(batch):
        inputs, targets = batch
        with tf.GradientTape() as tape:
            error = tf.cast(model(inputs, training=True), tf.float32) - targets
            loss = tf.reduce_mean(error**2) / strategy.num_replicas_in_sync
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return tf.distribute.get_replica_context().all_reduce("sum", loss)

    run = tf.function(lambda batch: strategy.experimental_local_results(strategy.run(replica_step, args=(batch,)))[0])
    distributed = strategy.experimental_distribute_dataset(small_models.dataset(x, y))
    losses = [np.mean([run(batch).numpy() for batch in distributed]) for _ in range(4)]
    return model, {"loss": losses}


@pytest.mark.parametrize("loop", ["fit", "custom"])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", marked(MATRIX, QUICK))
def test_matrix(strategy, name, policy, loop):
    # In turn, so that each optimizer meets each place in some policy and some loop.
    where = ("gradient", "update")[(MATRIX.index(name) + len(policy) + len(loop)) % 2]
    make = lambda: dqgan_tf.compressed(OPTIMIZERS[name](), LINEAR, where=where)  # noqa: E731
    if loop == "fit":
        model, history, *_ = fit(strategy, make, policy=policy, epochs=4)
    else:
        model, history = custom_loop(strategy, make, policy)
    assert_trained(strategy, model, history, where)
    assert isinstance(model.optimizer, opt.LossScaleOptimizer) == (policy == "mixed_float16")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["gradient", "update"])
@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - set(MATRIX)))
def test_other_optimizers(strategy, name, where):
    make = lambda: dqgan_tf.compressed(OPTIMIZERS[name](), LINEAR, where=where)  # noqa: E731
    if where == "update" and name in ("ftrl", "schedule_free_adamw"):
        with pytest.raises(UsageError, match="Take where='gradient'"), strategy.scope():
            make()
        return
    model, history, *_ = fit(strategy, make, epochs=4)
    assert_trained(strategy, model, history, where)


@pytest.mark.parametrize("policy", [pytest.param("bfloat16", marks=pytest.mark.slow), "float16"])
def test_weights_of_half_precision(strategy, policy):
    make = lambda: dqgan_tf.compressed(opt.SGD(RATE), LINEAR)  # noqa: E731
    model, history, *_ = fit(strategy, make, policy=policy, epochs=4)
    assert model.trainable_variables[0].dtype == policy
    assert_trained(strategy, model, history, "gradient")


def test_an_average_that_overwrites_the_weights(strategy):
    """Keras' own way raises under tf.distribute. At the third of three steps w = average, by hand from the second."""
    make = lambda: dqgan_tf.compressed(  # noqa: E731
        opt.SGD(RATE, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3), "none"
    )
    model = small_models.mlp(strategy, make)
    x, y = small_models.batches(4, 2)
    record = small_models.Recorder(lambda: state(strategy, model))
    model.fit(small_models.dataset(x, y), shuffle=False, callbacks=[record], verbose=0)
    averages = [slots[:, 2:] for _, slots in record.seen]  # behind iteration and learning rate
    equal = [np.array_equal(weights, average) for (weights, _), average in zip(record.seen, averages, strict=True)]
    assert equal == [True, False, True, False]  # the first average is the weights themselves
    assert all(np.array_equal(*weights) for weights, _ in record.seen)


@pytest.mark.parametrize("where", ["gradient", "update"])
def test_accumulation_is_one_step_of_the_mean(strategy, where):
    """Three calls add up; 6 calls are 2 exchanges, and equal 2 steps with the mean of three gradients."""
    make = lambda **options: dqgan_tf.compressed(opt.SGD(RATE, momentum=0.9, **options), "none", where=where)  # noqa: E731
    model, _, weights, _ = fit(strategy, lambda: make(gradient_accumulation_steps=3))
    assert int(model.optimizer.iterations.numpy()) == 2
    (channel,) = model.optimizer.compression.channels.values()
    assert [int(calls.numpy()) for calls in channel.calls.variables] == [2, 2]

    stock = small_models.mlp(strategy, make)
    x, y = small_models.batches(STEPS, 2)
    rows = x.shape[1] // 2
    joined = [
        np.concatenate([a[3 * t : 3 * t + 3, m * rows : (m + 1) * rows].reshape(-1, a.shape[2]) for m in range(2)])
        for a in (x, y)
        for t in range(2)
    ]
    data = small_models.dataset(np.stack(joined[:2]), np.stack(joined[2:]))
    stock.fit(data, shuffle=False, verbose=0)
    np.testing.assert_allclose(weights, small_models.values(strategy, stock.trainable_variables), atol=1e-6)


def refused(strategy, match, make):
    with pytest.raises(UsageError, match=match), strategy.scope():
        make()


def test_refusals(strategy):
    class OwnApply(opt.SGD):
        def apply(self, grads, trainable_variables=None):
            super().apply(grads, trainable_variables)

    compressed = dqgan_tf.compressed
    refused(strategy, "one by one", lambda: compressed(opt.MultiOptimizer(opt.OptimizerMap(opt.SGD()))))
    refused(strategy, "`apply` of its own", lambda: compressed(OwnApply()))
    refused(strategy, "compressed already", lambda: compressed(compressed(opt.SGD())))
    refused(strategy, "gradient, update", lambda: compressed(opt.SGD(), where="weights"))
    refused(strategy, "settings of DQGAN", lambda: compressed(opt.SGD(), start_step=10))
    refused(strategy, "settings of DQGAN", lambda: compressed(opt.SGD(), residual_in_half_step=False))
    refused(strategy, "takes where, seed, logs", lambda: compressed(opt.SGD(), bits=4))
    refused(strategy, "not both", lambda: compressed(opt.SGD(), dqgan_tf.CompressionConfig(), topology="two_step"))
    refused(strategy, "topology", lambda: compressed(opt.SGD(), topology="ring"))
    with pytest.raises(UsageError, match="in the scope"):
        compressed(opt.SGD())
    outside = opt.SGD()
    refused(strategy, "in the scope", lambda: compressed(outside))


@pytest.mark.parametrize(
    "match, settings",
    [
        ("matches no weight", {"compressor_rules": "batch=none"}),
        ("contractive", {"compression": "linear:bits=2,rounding=stochastic"}),
    ],
)
def test_refusals_when_it_is_built(strategy, match, settings):
    make = lambda: dqgan_tf.compressed(opt.SGD(RATE), **({"compression": LINEAR} | settings))  # noqa: E731
    model = small_models.mlp(strategy, make)
    with pytest.raises(UsageError, match=match):
        model.optimizer.build(model.trainable_variables)


def test_float64_is_refused(strategy):
    with pytest.raises(UsageError, match="float32, bfloat16, float16"):
        fit(strategy, lambda: dqgan_tf.compressed(opt.SGD(RATE), "none"), policy="float64")


def test_an_optimizer_keeps_its_class_and_configuration(strategy):
    with strategy.scope():
        optimizer = dqgan_tf.compressed(opt.Adam(RATE, clipnorm=1.0), SIGN)
    assert type(optimizer) is opt.Adam
    assert optimizer.get_config() == opt.Adam(RATE, clipnorm=1.0, name=optimizer.name).get_config()
    assert opt.serialize(optimizer)["registered_name"] == opt.serialize(opt.Adam())["registered_name"]


def test_rules_name_weights(strategy):
    make = lambda: dqgan_tf.compressed(opt.SGD(RATE), SIGN, compressor_rules="bias=none")  # noqa: E731
    model, *_ = fit(strategy, make)
    (channel,) = model.optimizer.compression.channels.values()
    assert [(vector.compressor.spec, vector.size) for vector in channel.vectors] == [("none", 8), (SIGN, 36)]
    residuals = channel.residuals(0)
    assert [residual is None for residual in residuals] == [False, True, False, True]
