"""Every Keras optimizer, option and dtype policy, two replicas in one process: identities and refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import dqgan_tf
from dqgan_tf.errors import UsageError
from tests.gan.local_strategy import local_strategy
from tests.keras import matrix, small_models
from tests.keras.matrix import LINEAR, MATRIX, OPTIMIZERS, RATE, SIGN, STEPS, fit, state

opt = keras.optimizers
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


def assert_stock(strategy, make, compress=None, gradients=None):
    """`apply` of the compressed optimizer gives the bits of the stock one. Returns the weights.

    Args:
      make: takes a function that is called with each optimizer.
    """
    gradients = matrix.random_gradients() if gradients is None else gradients
    compress = compress or (lambda optimizer: dqgan_tf.compressed(optimizer, "none"))
    _, *compressed = matrix.apply(strategy, lambda: make(compress), gradients)
    _, *stock = matrix.apply(strategy, lambda: make(lambda optimizer: optimizer), gradients)
    for ours, theirs in zip(compressed, stock, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return stock[0]


@pytest.mark.parametrize("name", marked(OPTIMIZERS, ("adam",)))
def test_fit_without_a_compressor_is_the_stock_optimizers_bit_for_bit(strategy, name):
    """Two replicas: multiplying by M = 2 and dividing by it is exact."""
    make = OPTIMIZERS[name]
    _, history, weights, slots = fit(strategy, lambda: dqgan_tf.compressed(make(), "none"))
    _, stock_history, stock_weights, stock_slots = fit(strategy, make)
    np.testing.assert_array_equal(weights, stock_weights)
    np.testing.assert_array_equal(slots, stock_slots)
    assert history == stock_history


@pytest.mark.parametrize("name", marked(OPTIMIZERS, ("sgd", "lion")))
def test_apply_without_a_compressor_is_the_stock_optimizers_bit_for_bit(strategy, name):
    assert_stock(strategy, lambda compress: compress(OPTIMIZERS[name]()))


@pytest.fixture(scope="module")
def plain_weights(strategy):
    """Weights of Adam without an option."""
    return matrix.apply(strategy, OPTIMIZERS["adam"], matrix.random_gradients())[1]


@pytest.mark.parametrize("option", marked(OPTIONS, ("global_clipnorm", "clipvalue", "weight_decay")))
def test_options_are_the_stock_optimizers_bit_for_bit(strategy, plain_weights, option):
    weights = assert_stock(strategy, lambda compress: compress(OPTIMIZERS["adam"](**OPTIONS[option])))
    # An average is a slot: it changes no weight.
    assert option == "average" or not np.array_equal(weights, plain_weights)


def test_learning_rate_schedules_are_the_stock_optimizers_bit_for_bit(strategy, plain_weights):
    schedule = opt.schedules.ExponentialDecay(RATE, 2, 0.5)
    weights = assert_stock(strategy, lambda compress: compress(opt.Adam(schedule, amsgrad=True)))
    assert not np.array_equal(weights, plain_weights)


def assert_trained(strategy, model, history, where):
    weights, slots = state(strategy, model)
    np.testing.assert_array_equal(weights[0], weights[1])
    if where == "gradient":
        np.testing.assert_array_equal(slots[0], slots[1])
    assert np.all(np.isfinite(weights)) and history["loss"][-1] < history["loss"][0]
    assert int(model.optimizer.iterations.numpy()) > 0


# All others in two processes: test_two_processes.py.
CASES = [("adam", "float32", "fit"), ("sgd", "mixed_float16", "custom"), ("lion", "mixed_bfloat16", "fit")]


@pytest.mark.parametrize(
    "name, policy, loop",
    [pytest.param(*case, id="-".join(case), marks=() if case == CASES[0] else pytest.mark.slow) for case in CASES],
)
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


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
def test_weights_of_half_precision(strategy, policy):
    make = lambda: dqgan_tf.compressed(opt.SGD(RATE), LINEAR)  # noqa: E731
    model, history, *_ = fit(strategy, make, policy=policy, epochs=2)
    assert model.trainable_variables[0].dtype == policy
    assert_trained(strategy, model, history, "gradient")


@pytest.mark.slow
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
    gradients = matrix.random_gradients(6)
    optimizer, weights, _ = matrix.apply(strategy, lambda: make(gradient_accumulation_steps=3), gradients)
    assert int(optimizer.iterations.numpy()) == 2
    (channel,) = optimizer.compression.channels.values()
    assert [int(calls.numpy()) for calls in channel.calls.variables] == [2, 2]
    _, expected, _ = matrix.apply(strategy, make, gradients.reshape(2, 3, 2, -1).mean(1))
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_several_optimizers_by_weight_are_the_stock_ones_bit_for_bit(strategy):
    leaves = []

    def compress(optimizer):
        leaves.append(dqgan_tf.compressed(optimizer, "none"))
        return leaves[-1]

    def make(compress):
        others = {".*bias": compress(opt.SGD(RATE, momentum=0.9))}
        return opt.MultiOptimizer(opt.OptimizerMap(compress(opt.Adam(RATE)), others))

    assert_stock(strategy, make, compress)
    sizes = [next(iter(leaf.compression.channels.values())).dense_bytes for leaf in leaves]
    assert sorted(sizes) == [4 * 8, 4 * 36]


def constrained(strategy, make):
    """Returns `fit` of a model with a constraint and a regularizer of its layer 1."""
    keras.utils.set_random_seed(5)
    with strategy.scope():
        norm, decay = keras.constraints.UnitNorm(), keras.regularizers.L2(0.1)
        layer = keras.layers.Dense(small_models.HIDDEN, kernel_constraint=norm, kernel_regularizer=decay)
    model, *results = fit(strategy, make, layers=[layer])
    norms = np.linalg.norm(model.layers[1].kernel.numpy(), axis=0)
    np.testing.assert_allclose(norms, 1, atol=1e-6)
    return results


@pytest.mark.slow
def test_constraints_and_regularizers(strategy):
    """With the stock optimizer as the reference where gradients are sent; the constraint holds in both places."""
    history, weights, _ = constrained(strategy, lambda: dqgan_tf.compressed(opt.SGD(RATE), "none"))
    stock_history, stock_weights, _ = constrained(strategy, lambda: opt.SGD(RATE))
    np.testing.assert_array_equal(weights, stock_weights)
    assert history == stock_history
    _, weights, _ = constrained(strategy, lambda: dqgan_tf.compressed(opt.SGD(RATE), LINEAR, where="update"))
    np.testing.assert_array_equal(weights[0], weights[1])


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


@pytest.mark.parametrize(
    "make, compressor, options, where",
    [
        (opt.Adam, "sign:bucket=512", {}, "update"),
        (opt.SGD, "ternary", {}, "update"),
        (opt.SGD, "linear:bits=2,bucket=512", {}, "update"),
        (opt.Adam, "topk:fraction=0.01", {}, "gradient"),
        (opt.SGD, "sign:bucket=512", {"error_feedback": False}, "gradient"),
        (opt.Adam, LINEAR, {}, "gradient"),
        (opt.Adam, "powersgd:rank=2", {}, "gradient"),
        (opt.Adam, "none", {}, "gradient"),
        (opt.Adam, "none", {"optimistic": True}, "update"),
        (opt.SGD, LINEAR, {"local_steps": 2}, "update"),
        (opt.Adafactor, LINEAR, {}, "update"),
        (opt.Adafactor, "none", {}, "gradient"),
        (opt.Ftrl, "sign:bucket=512", {}, "gradient"),
        (opt.Adam, "sign:bucket=512", {"where": "gradient"}, "gradient"),
    ],
)
def test_the_place_that_is_taken_by_default(strategy, make, compressor, options, where):
    with strategy.scope():
        optimizer = dqgan_tf.compressed(make(), compressor, **options)
    assert optimizer.compression.where == where


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
    refused(strategy, "Take where='update'", lambda: compressed(opt.Adafactor(), LINEAR, where="gradient"))
    refused(strategy, "settings of DQGAN", lambda: compressed(opt.SGD(), start_step=10))
    refused(strategy, "settings of DQGAN", lambda: compressed(opt.SGD(), residual_in_half_step=False))
    refused(strategy, "compression.flush_residuals\\(\\)", lambda: compressed(opt.SGD(), flush_residuals=True))
    refused(strategy, "takes where, optimistic, seed, logs", lambda: compressed(opt.SGD(), bits=4))
    refused(strategy, "not both", lambda: compressed(opt.SGD(), dqgan_tf.CompressionConfig(), topology="two_step"))
    refused(strategy, "topology", lambda: compressed(opt.SGD(), topology="ring"))
    refused(
        strategy, "`optimistic` must be True or False. Received.*'yes'", lambda: compressed("sgd", optimistic="yes")
    )
    refused(strategy, "`logs` must be True or False. Received: logs=3", lambda: compressed(opt.SGD(), logs=3))
    refused(
        strategy, "`seed` must be a whole number, such as 0. Received: seed=1.5", lambda: compressed("sgd", seed=1.5)
    )
    for value in (None, opt.Adam, "adm", 1e-3):
        refused(
            strategy, "must be an optimizer of Keras, such as.* Received: optimizer=", lambda v=value: compressed(v)
        )
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


def test_the_mean_may_have_a_compressor_of_its_own(strategy):
    """Without error feedback only the second encoding tells the two apart: a float32 mean is the all-gather's."""
    gradients, weights = matrix.random_gradients(3), []
    for exchange in ({"topology": "two_step", "mean_compressor": "none"}, {"topology": "all_gather"}):
        settings = exchange | {"error_feedback": False}
        make = lambda settings=settings: dqgan_tf.compressed(opt.SGD(RATE), SIGN, **settings)  # noqa: E731
        _, trained, _ = matrix.apply(strategy, make, gradients)
        weights.append(trained[:, :32])  # shards pad the second bucket with zeros, which enter its scale
    np.testing.assert_array_equal(*weights)


def test_rules_name_weights(strategy):
    make = lambda: dqgan_tf.compressed(opt.SGD(RATE), SIGN, compressor_rules="bias=none")  # noqa: E731
    optimizer, *_ = matrix.apply(strategy, make, matrix.random_gradients(1))
    (channel,) = optimizer.compression.channels.values()
    assert [(vector.compressor.spec, vector.size) for vector in channel.vectors] == [("none", 8), (SIGN, 36)]
    residuals = channel.residuals(0)
    assert [residual is None for residual in residuals] == [False, True, False, True]
