"""Every Keras optimizer, option and dtype policy, two replicas in one process: identities and refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import dqgan_tf
from dqgan_tf.errors import UsageError
from tests.gan.local_strategy import local_strategy
from tests.keras import matrix, small_models
from tests.keras.matrix import LINEAR, MATRIX, OPTIMIZERS, POLICIES, RATE, SIGN, STEPS, fit, state

opt = keras.optimizers
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


@pytest.mark.parametrize("loop", matrix.LOOPS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", marked(MATRIX, QUICK))
def test_matrix(strategy, name, policy, loop):
    model, history = matrix.train(strategy, name, policy, loop)
    assert_trained(strategy, model, history, matrix.place(name, policy, loop))
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


def test_several_optimizers_by_weight_are_the_stock_ones_bit_for_bit(strategy):
    def make(compress):
        return lambda: opt.MultiOptimizer(
            opt.OptimizerMap(compress(opt.Adam(RATE)), {".*bias": compress(opt.SGD(RATE, momentum=0.9))})
        )

    several, history, weights, slots = fit(strategy, make(lambda o: dqgan_tf.compressed(o, "none")))
    _, stock_history, stock_weights, stock_slots = fit(strategy, make(lambda o: o))
    np.testing.assert_array_equal(weights, stock_weights)
    np.testing.assert_array_equal(slots, stock_slots)
    assert history == stock_history
    sizes = [next(iter(o.compression.channels.values())).dense_bytes for o in several.optimizer.optimizers]
    assert sorted(sizes) == [4 * 8, 4 * 36]


@pytest.mark.parametrize("where", ["gradient", "update"])
def test_constraints_and_regularizers(strategy, where):
    """With the stock optimizer as the reference where gradients are sent; the constraint holds in both places."""
    with_layers = lambda: {  # noqa: E731
        "layers": [
            keras.layers.Dense(
                small_models.HIDDEN,
                kernel_constraint=keras.constraints.UnitNorm(),
                kernel_regularizer=keras.regularizers.L2(0.1),
            )
        ]
    }

    def trained(make):
        keras.utils.set_random_seed(5)
        with strategy.scope():
            layers = with_layers()
        return fit(strategy, make, epochs=2, **layers)

    model, history, weights, _ = trained(
        lambda: dqgan_tf.compressed(opt.SGD(RATE), "none" if where == "gradient" else LINEAR, where=where)
    )
    _, stock_history, stock_weights, _ = trained(lambda: opt.SGD(RATE))
    norms = np.linalg.norm(model.layers[1].kernel.numpy(), axis=0)
    np.testing.assert_allclose(norms, 1, atol=1e-6)
    np.testing.assert_array_equal(weights[0], weights[1])
    if where == "gradient":
        np.testing.assert_array_equal(weights, stock_weights)
        assert history == stock_history
    plain, *_ = fit(strategy, lambda: opt.SGD(RATE), epochs=2, layers=[])
    assert len(plain.trainable_variables) == len(model.trainable_variables) - 2


def eager_loop(strategy):
    model = small_models.mlp(strategy, lambda: dqgan_tf.compressed(opt.SGD(0.05), LINEAR))
    x, y = small_models.batches(STEPS, len(strategy.local_devices))

    def replica_step(inputs, targets):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(inputs) - targets) ** 2) / strategy.num_replicas_in_sync
        model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return [float(strategy.run(replica_step, args=batch)) for _ in range(3) for batch in zip(x, y, strict=True)]


def test_an_eager_loop_needs_one_replica_per_process(strategy):
    losses = eager_loop(local_strategy(1))
    assert np.mean(losses[-STEPS:]) < np.mean(losses[:STEPS])
    with pytest.raises(UsageError, match="tf.function"):
        eager_loop(strategy)


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
    refused(strategy, "Take where='update'", lambda: compressed(opt.Adafactor(), LINEAR))
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


@pytest.mark.parametrize("zeros", [True, False])
def test_adafactor_of_keras_divides_zero_by_zero(zeros):
    """Stock Keras alone, which is why it is refused: a row and a column of zeros make the whole matrix NaN."""
    optimizer, weight = opt.Adafactor(1e-3), keras.Variable(np.ones([3, 3], np.float32))
    optimizer.build([weight])
    gradient = np.full([3, 3], 0.01, np.float32)
    if zeros:
        gradient[0], gradient[:, 0] = 0, 0
    optimizer.apply([tf.constant(gradient)], [weight])
    assert np.isnan(weight.numpy()).all() == zeros


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
