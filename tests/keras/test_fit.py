"""What Keras users do with a model, two replicas in one process: `fit`, `evaluate`, `predict`, layers of many kinds."""

import contextlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import dqgan_tf
from dqgan_tf.errors import UsageError
from dqgan_tf.keras import fit
from dqgan_tf.keras.nested import optimizers_of
from tests.gan.local_strategy import local_strategy
from tests.keras import small_models

SPEC = "linear:bits=4,bucket=32"


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(2)


def sgd(spec=SPEC, **options):
    return lambda: dqgan_tf.compressed(keras.optimizers.SGD(0.05), spec, **options)


def weights(strategy, model):
    """[2, n], after asserting that the replicas agree."""
    values = small_models.values(strategy, [*model.trainable_variables, *model.non_trainable_variables])
    np.testing.assert_array_equal(values[0], values[1])
    return values[0]


def data(steps=6, **options):
    return small_models.dataset(*small_models.batches(steps, 2, **options))


@pytest.mark.slow
def test_several_steps_in_one_call_are_the_same_steps(strategy):
    """6 steps in calls of 4: 4 and 2."""
    single = small_models.mlp(strategy, sgd(), metrics=["mae"])
    several = small_models.mlp(strategy, sgd(), metrics=["mae"], steps_per_execution=4)
    seen = []
    history = several.fit(
        data(),
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))],
    ).history
    expected = single.fit(data(), epochs=2, shuffle=False, verbose=0).history
    np.testing.assert_array_equal(weights(strategy, single), weights(strategy, several))
    assert history == expected
    assert seen == [3, 7, 3, 7]


def test_evaluate_and_predict_give_what_one_replica_gives(strategy):
    model = small_models.mlp(strategy, sgd(), metrics=["mae"])
    x, y = (np.concatenate(part) for part in small_models.batches(3, 2))
    prediction = model.predict(x, batch_size=16, verbose=0)
    np.testing.assert_allclose(prediction, model(x).numpy(), rtol=0, atol=1e-6)
    on_batch = model.predict_on_batch(x[:7])
    assert isinstance(on_batch, np.ndarray)
    np.testing.assert_allclose(on_batch, prediction[:7], rtol=0, atol=1e-6)
    loss, mae = model.evaluate(x, y, batch_size=16, verbose=0)
    np.testing.assert_allclose(loss, np.mean((prediction - y) ** 2), rtol=1e-6)
    np.testing.assert_allclose(mae, np.mean(np.abs(prediction - y)), rtol=1e-6)


@pytest.mark.parametrize("where", ["gradient", pytest.param("update", marks=pytest.mark.slow)])
def test_a_last_batch_that_is_smaller_than_the_number_of_replicas(strategy, where):
    """33 rows in batches of 16: the last has one row, and replica 1 none, whose gradient counts as zero."""
    x, y = (np.concatenate(part)[:33] for part in small_models.batches(3, 2))
    model = small_models.mlp(strategy, sgd("none", where=where), metrics=["mae"], layers=[keras.layers.Dropout(0.0)])
    recorder = small_models.Recorder(lambda: weights(strategy, model))
    history = model.fit(x, y, batch_size=16, shuffle=False, callbacks=[recorder], verbose=0).history
    assert [int(v.numpy()) for v in model.optimizer.compression.skipped.variables] == [0, 0]
    assert np.isfinite(history["loss"][0]) and np.isfinite(history["mae"][0])
    gradient = small_models.gradient(x[None, 32:], y[None, 32:], 1)
    expected = recorder.seen[1] - 0.05 * gradient(recorder.seen[1].astype(np.float64), 1, 0) / 2
    np.testing.assert_allclose(recorder.seen[2], expected, atol=1e-6)
    evaluated = model.evaluate(x, y, batch_size=16, verbose=0, return_dict=True)
    np.testing.assert_allclose(evaluated["loss"], np.mean((model(x).numpy() - y) ** 2), rtol=1e-5)


def test_convolutions_on_a_replica_without_samples(strategy):
    """TensorFlow's convolutions fail on an empty batch. 5 images in batches of 4: replica 1 has none of the last."""
    x = np.random.default_rng(3).standard_normal((5, 6, 6, 2)).astype(np.float32)
    y = np.arange(5) % 3

    def make(scope, optimizer):
        keras.utils.set_random_seed(4)
        with scope:
            layers = [keras.layers.Conv2D(4, 3, use_bias=False), keras.layers.BatchNormalization(), keras.layers.ReLU()]
            layers += [keras.layers.Conv2D(3, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(3)]
            model = keras.Sequential([keras.Input((6, 6, 2)), *layers])
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(optimizer(), loss, metrics=["accuracy"])
        return model

    model = make(strategy.scope(), sgd("none"))
    statistics = [v.value for v in model.layers[1].non_trainable_variables]
    full = [v.values[1].numpy() for v in statistics]
    recorder = small_models.Recorder(lambda: [[v.numpy() for v in s.values] for s in statistics])
    assert np.isfinite(model.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[recorder]).history["loss"])
    for before, first, last in zip(full, *recorder.seen, strict=True):
        assert np.array_equal(*first) and np.array_equal(*last)  # equal on both replicas
        assert not np.array_equal(before, first[0]) and not np.array_equal(first[0], last[0])
    alone = make(contextlib.nullcontext(), keras.optimizers.SGD)
    alone.set_weights(model.get_weights())
    expected = alone.predict(x, batch_size=5, verbose=0)
    np.testing.assert_allclose(model.predict(x, batch_size=4, verbose=0), expected, atol=1e-6)
    evaluated, reference = (m.evaluate(x, y, batch_size=4, verbose=0) for m in (model, alone))
    np.testing.assert_allclose(evaluated, reference, rtol=1e-5)


@pytest.mark.slow
def test_a_train_step_of_ones_own_on_a_replica_without_samples(strategy):
    """A mean over no rows is NaN: it enters neither weights nor metrics nor logs."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)
            self.scale = self.add_weight(shape=(), initializer="zeros")  # its gradient is a mean over rows
            self.tracker = keras.metrics.Mean(name="tracked")

        def call(self, x):
            return self.dense(x)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.exp(self.scale) * tf.reduce_mean((self(x) - y) ** 2)
                share = loss / strategy.num_replicas_in_sync
            self.optimizer.apply(tape.gradient(share, self.trainable_variables), self.trainable_variables)
            self.tracker.update_state(loss)
            return {"error": loss, "rows": tf.shape(x)[0], "tracked": self.tracker.result()}

    x, y = (np.concatenate(part)[:33] for part in small_models.batches(3, 2))
    with strategy.scope():
        model = Model()
        model.compile(sgd("none")())
    seen = []
    keep = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(dict(logs)))

    def look():
        errors = np.exp(model.scale.numpy()) * (model.dense(x[32:]).numpy() - y[32:]) ** 2
        return weights(strategy, model), errors

    recorder = small_models.Recorder(look)
    model.fit(x, y, batch_size=16, shuffle=False, callbacks=[keep, recorder], verbose=0)
    (second, errors), (third, _) = recorder.seen[1:]
    assert [int(v.numpy()) for v in model.optimizer.compression.skipped.variables] == [0, 0]
    assert np.all(np.isfinite(third)) and not np.array_equal(second, third)
    assert [values["rows"] for values in seen] == [8, 8, 1]
    np.testing.assert_allclose(seen[2]["error"], np.mean(errors), rtol=1e-5)
    # Replica 0 saw three batches and replica 1 two, each with its own errors.
    assert np.isfinite(seen[2]["tracked"]) and np.isfinite(float(model.tracker.result()))


@pytest.mark.slow
def test_a_loop_of_ones_own_after_fit(strategy):
    """`fit` of a last batch of one row says which replica has samples; that must not last."""
    x, y = (np.concatenate(part)[:33] for part in small_models.batches(3, 2))
    model = small_models.mlp(strategy, sgd())
    model.fit(x, y, batch_size=16, verbose=0)
    before = weights(strategy, model)

    def replica_step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x[:16]) - y[:16]) ** 2) / strategy.num_replicas_in_sync
        return model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    taken = tf.function(lambda: strategy.experimental_local_results(strategy.run(replica_step)))()
    assert [bool(value) for value in taken] == [True, True]
    assert not np.array_equal(before, weights(strategy, model))


def test_logs_are_equal_on_all_replicas_and_the_mean(strategy):
    seen = []

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

        def train_step(self, data):
            return {"rank": tf.cast(tf.reduce_mean(data), tf.float32), "count": tf.shape(data)[0], "number": 2.5}

        def test_step(self, data):
            return {}

    with strategy.scope():
        model = Model()
        model.compile()
    values = np.arange(8, dtype=np.float32).reshape(1, 8, 1)  # replica 0 sees 0 to 3, replica 1 sees 4 to 7
    log = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(dict(logs)))
    history = model.fit(tf.data.Dataset.from_tensor_slices(values), callbacks=[log], verbose=0).history
    assert seen == [{"rank": 3.5, "count": 4, "number": 2.5}]
    assert history == {"rank": [3.5], "count": [4], "number": [2.5]}
    assert model.evaluate(values[0], verbose=0, return_dict=True) == {}
    for logs, match in ((None, "{'loss': loss} or {}. Received: None"), ({"name": "a"}, "a text as 'name'")):
        model.train_step = lambda data, logs=logs: logs
        model.make_train_function(force=True)
        with pytest.raises(UsageError, match=match):
            model.fit(values[0], verbose=0)


@pytest.mark.slow
def test_running_statistics_change_by_the_mean_of_their_changes(strategy):
    """One step, momentum .9: mean .1 (mean of the shares' means), variance .9 + .1 (mean of their variances)."""
    with strategy.scope():
        normalisation = keras.layers.BatchNormalization(momentum=0.9)
    model = small_models.mlp(strategy, sgd(), layers=[normalisation])
    x, y = small_models.batches(1, 2)
    hidden = np.tanh(x[0] @ model.layers[0].kernel.numpy() + model.layers[0].bias.numpy())
    model.fit(small_models.dataset(x, y), verbose=0)
    weights(strategy, model)
    shares = np.stack(np.split(hidden, 2))
    np.testing.assert_allclose(normalisation.moving_mean.numpy(), 0.1 * shares.mean((0, 1)), atol=1e-6)
    np.testing.assert_allclose(normalisation.moving_variance.numpy(), 0.9 + 0.1 * shares.var(1).mean(0), atol=1e-6)


def test_frozen_layers_keep_their_bits_and_are_not_sent(strategy):
    with strategy.scope():
        frozen = keras.layers.Dense(small_models.HIDDEN, trainable=False)
    model = small_models.mlp(strategy, sgd(), layers=[frozen])
    before = frozen.kernel.numpy()
    model.fit(data(), verbose=0)
    np.testing.assert_array_equal(frozen.kernel.numpy(), before)
    (channel,) = model.optimizer.compression.channels.values()
    assert channel.dense_bytes == 4 * 44


@pytest.mark.slow
def test_freezing_a_layer_between_two_fits(strategy):
    """The optimizer stays: its variables without a gradient are not sent, and their channel is another one."""
    model = small_models.mlp(strategy, sgd())
    model.fit(data(), verbose=0)
    model.layers[0].trainable = False
    before = model.layers[0].kernel.numpy()
    with strategy.scope():
        model.compile(model.optimizer, loss="mse")
    losses = model.fit(data(), epochs=2, verbose=0).history["loss"]
    np.testing.assert_array_equal(model.layers[0].kernel.numpy(), before)
    assert losses[1] < losses[0]
    weights(strategy, model)
    assert list(model.optimizer.compression.channels) == [(0, 1, 2, 3), (2, 3)]


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_layer_without_gradient_is_not_sent(strategy):
    class Stop(keras.layers.Layer):
        def call(self, x):
            return tf.stop_gradient(x)

    with strategy.scope():
        stop = Stop()
    model = small_models.mlp(strategy, sgd(), layers=[stop])
    before = model.layers[0].kernel.numpy()
    model.fit(data(), verbose=0)
    np.testing.assert_array_equal(model.layers[0].kernel.numpy(), before)
    assert list(model.optimizer.compression.channels) == [(2, 3)]


class OneHot(keras.layers.Layer):
    """An embedding whose gradient is dense."""

    def build(self, shape):
        self.embeddings = self.add_weight(shape=(20, 4), initializer="uniform")

    def call(self, tokens):
        return tf.one_hot(tokens, 20) @ self.embeddings


def embedding_model(strategy, layer, make):
    with strategy.scope():
        layers = [keras.Input((3,), dtype="int32"), layer(), keras.layers.Flatten(), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile(make(), loss="mse")
    random = np.random.default_rng(0)
    model.set_weights([0.3 * random.standard_normal(weight.shape) for weight in model.weights])
    tokens = random.integers(0, 20, (64, 3))
    targets = tokens.sum(1, keepdims=True) / 10.0
    steps = tf.data.Dataset.from_tensor_slices((tokens, targets)).batch(16).repeat()
    losses = model.fit(steps, epochs=5, steps_per_epoch=4, shuffle=False, verbose=0).history["loss"]
    return model, losses


@pytest.mark.slow  # the next test has the same without a loss
def test_embeddings_send_dense_gradients(strategy):
    embedding = lambda: keras.layers.Embedding(20, 4)  # noqa: E731
    make = lambda: dqgan_tf.compressed(keras.optimizers.Adam(0.05), SPEC)  # noqa: E731
    model, losses = embedding_model(strategy, embedding, make)
    assert losses[-1] < losses[0]
    (channel,) = model.optimizer.compression.channels.values()
    assert channel.dense_bytes == 4 * (80 + 13)
    weights(strategy, model)


@pytest.mark.slow
def test_a_row_that_occurs_twice_counts_with_its_sum(strategy):
    """As in a dense gradient. Adam of Keras 3.15 alone squares each occurrence, so that v is too small there."""
    make = lambda: keras.optimizers.Adam(0.05)  # noqa: E731
    compressed, losses = embedding_model(
        strategy, lambda: keras.layers.Embedding(20, 4), lambda: dqgan_tf.compressed(make(), "none")
    )
    assert losses[-1] < losses[0]
    (channel,) = compressed.optimizer.compression.channels.values()
    assert channel.dense_bytes == 4 * (80 + 13)  # dense gradients are sent
    dense, _ = embedding_model(strategy, OneHot, make)
    # A gradient's rows are added up in another order. Adam divides by sqrt(v), which enlarges that in small rows.
    np.testing.assert_allclose(weights(strategy, compressed), weights(strategy, dense), atol=1e-4)


@pytest.mark.slow  # the test before has it under Adam
def test_embeddings_under_sgd_are_the_stock_ones(strategy):
    make = lambda: keras.optimizers.SGD(0.05)  # noqa: E731
    embedding = lambda: keras.layers.Embedding(20, 4)  # noqa: E731
    compressed, _ = embedding_model(strategy, embedding, lambda: dqgan_tf.compressed(make(), "none"))
    stock, _ = embedding_model(strategy, embedding, make)
    np.testing.assert_allclose(weights(strategy, compressed), weights(strategy, stock), atol=1e-6)


@pytest.mark.slow
def test_two_optimizers_of_one_model_have_channels_of_their_own(strategy):
    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = keras.layers.Dense(2), keras.layers.Dense(2)
            self.loss_tracker = keras.metrics.Mean(name="loss")

        def compile(self, first, second):
            super().compile()
            self.optimizers = [first, second]

        def call(self, x):
            return self.first(x) + self.second(x)

        def train_step(self, data):
            x, y = data
            for layer, optimizer in zip((self.first, self.second), self.optimizers, strict=True):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean((self(x) - y) ** 2) / strategy.num_replicas_in_sync
                optimizer.apply(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables)
            self.loss_tracker.update_state(loss)
            return {"loss": self.loss_tracker.result()}

    with strategy.scope():
        model = Pair()
        first = dqgan_tf.compressed(keras.optimizers.Adam(0.01, name="twin"), SPEC, logs=True)
        second = dqgan_tf.compressed(keras.optimizers.SGD(0.01, name="other"), "sign:bucket=32", logs=True)
        model.compile(first, second)
    history = model.fit(data(), epochs=2, verbose=0).history
    weights(strategy, model)
    assert history["loss"][-1] < history["loss"][0]
    bytes_sent = {name: history[f"compression/{name}/wire_bytes"][0] for name in ("twin", "other")}
    channels = {o.name: next(iter(o.compression.channels.values())) for o in (first, second)}
    assert bytes_sent == {name: channel.wire_bytes for name, channel in channels.items()}
    assert channels["twin"].wire_bytes != channels["other"].wire_bytes


def test_the_optimizer_of_a_compiled_part_is_found(strategy):
    """It belongs to the checkpoint, the figures and the half-step point, as those of the model do."""
    with strategy.scope():
        part = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        part.compile(sgd()(), loss="mse")
        inputs = keras.Input((4,))
        model = keras.Model(inputs, keras.layers.Dense(1)(part(inputs)))
        model.compile(dqgan_tf.compressed(keras.optimizers.Adam(0.01), SPEC), loss="mse")
    assert set(map(id, optimizers_of(model))) == {id(model.optimizer), id(part.optimizer)}


@pytest.mark.slow
def test_a_model_without_call(strategy):
    """As GANs are written: the parts are built, and `train_step` uses them."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.part = keras.Sequential([keras.Input((small_models.INPUTS,)), keras.layers.Dense(2)])

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self.part(x) - y) ** 2)
            share = tape.gradient(loss, self.trainable_variables)
            share = [gradient / strategy.num_replicas_in_sync for gradient in share]
            self.optimizer.apply(share, self.trainable_variables)
            return {"error": loss}  # under `loss`, Keras would show its own figure

    with strategy.scope():
        model = Model()
        model.compile(sgd()())
    losses = model.fit(data(), epochs=2, verbose=0).history["error"]
    assert losses[-1] < losses[0]
    weights(strategy, model)


def test_figures_are_silent_by_default_and_true_when_asked_for(strategy):
    silent = small_models.mlp(strategy, sgd(), metrics=["mae"], steps_per_execution=4)
    silent_history = silent.fit(data(), epochs=2, verbose=0, shuffle=False).history
    assert set(silent_history) == {"loss", "mae"}
    model = small_models.mlp(strategy, sgd(logs=True), metrics=["mae"], steps_per_execution=4)
    history = model.fit(data(), epochs=2, validation_data=data(2), verbose=0, shuffle=False).history
    (channel,) = model.optimizer.compression.channels.values()
    assert history["compression/wire_bytes"] == [channel.wire_bytes] * 2
    assert history["compression/sent_bytes"] == [channel.sent_bytes] * 2
    assert history["compression/skipped"] == [0, 0]
    assert 0 < history["compression/residual_ratio"][0] < 1
    assert 0 < history["compression/compression_error"][0] < 1
    assert history["compression/milliseconds/encode"][0] > 0
    assert history["loss"] == silent_history["loss"]
    assert {"val_loss", "val_mae"} < set(history) and not any("val_compression" in name for name in history)


@pytest.mark.parametrize(
    "settings", [{}, {"where": "update", "local_steps": 2, "shift": 0.1}], ids=["gradient", "rounds"]
)
def test_spread_and_lag_are_those_of_the_residuals(strategy, settings):
    model = small_models.mlp(strategy, sgd(logs=True, **settings), steps_per_execution=2)
    history = model.fit(data(), verbose=0, shuffle=False, steps_per_epoch=2).history
    (channel,) = model.optimizer.compression.channels.values()
    replicas = strategy.num_replicas_in_sync
    flat = [np.concatenate([e.numpy().ravel() for e in channel.residuals(replica)]) for replica in range(replicas)]
    residuals = np.array(flat, np.float64)
    assert residuals.shape[1] < 512  # else a sample
    spread = np.sqrt(np.mean(np.sum((residuals - residuals.mean(0)) ** 2, 1)))
    assert spread > 0
    assert history["compression/spread"] == pytest.approx([spread], rel=1e-4)
    assert history["compression/lag"] == pytest.approx([np.linalg.norm(residuals.mean(0))], rel=1e-4)


def test_figures_of_a_call_without_an_exchange_are_not_numbers(strategy):
    model = small_models.mlp(strategy, sgd(logs=True, where="update", local_steps=4))
    seen = []
    keep = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(dict(logs)))
    history = model.fit(data(), epochs=2, steps_per_epoch=3, verbose=0, shuffle=False, callbacks=[keep]).history
    (channel,) = model.optimizer.compression.channels.values()
    of_exchanges = ("wire_bytes", "sent_bytes", "update_norm", "compression_error", "milliseconds/encode")
    for name in of_exchanges:
        assert [bool(np.isnan(log[f"compression/{name}"])) for log in seen] == [True] * 3 + [False] + [True] * 2
        assert np.isnan(history[f"compression/{name}"][0]) and history[f"compression/{name}"][1] > 0
    assert history["compression/wire_bytes"][1] == channel.wire_bytes
    spreads = [log["compression/spread"] for log in seen]  # residuals stay between exchanges
    assert spreads[:3] == [0, 0, 0] and spreads[3] == pytest.approx(spreads[4]) == pytest.approx(spreads[5]) != 0


def test_figures_of_skipped_steps_are_not_numbers(strategy):
    model = small_models.mlp(strategy, sgd(logs=True))
    nan = data().map(lambda x, y: (x * np.nan, y))
    history = model.fit(nan, verbose=0).history
    assert history["compression/skipped"][0] > 0 and history["compression/wire_bytes"][0] > 0
    assert np.isnan(history["compression/residual_ratio"][0]) and np.isnan(history["compression/update_norm"][0])


def test_without_residuals_spread_and_lag_are_zero(strategy):
    model = small_models.mlp(strategy, sgd(logs=True, error_feedback=False))
    history = model.fit(data(), verbose=0).history
    assert history["compression/spread"] == history["compression/lag"] == [0]


@pytest.mark.slow
def test_class_and_sample_weights_generators_and_single_batches(strategy):
    x, y = (np.concatenate(part) for part in small_models.batches(3, 2))
    model = small_models.mlp(strategy, sgd())
    model.fit(x, y, batch_size=16, sample_weight=np.linspace(0, 1, len(x)), verbose=0)

    def batches():
        for start in range(0, 48, 16):
            yield x[start : start + 16], y[start : start + 16]

    model.fit(batches(), verbose=0)
    before = weights(strategy, model)
    losses = [float(model.train_on_batch(x[:16], y[:16])) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert not np.array_equal(before, weights(strategy, model))
    np.testing.assert_allclose(model.test_on_batch(x[:16], y[:16]), np.mean((model(x[:16]) - y[:16]) ** 2), rtol=1e-5)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_no_batch_of_a_generator_is_lost(strategy, workers):
    """A generator yields a batch once: reading one to build the model must not take it away from the first step."""
    x, y = small_models.batches(8, 2)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return len(x)

        def __getitem__(self, index):
            return x[index], y[index]

    seen = []
    look = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(logs["loss"]))
    for batches in (Batches(workers=workers), (pair for pair in zip(x, y, strict=True)), data(8)):
        model = small_models.mlp(strategy, sgd())
        model.fit(batches, shuffle=False, verbose=0, callbacks=[look])
    assert len(seen) == 24 and seen[:8] == seen[8:16] == seen[16:]


def test_no_batch_of_a_generator_of_texts_is_lost(strategy):
    """Batches of different lengths, of a model that is built."""
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((None,)), keras.layers.Embedding(9, 2), keras.layers.GlobalMaxPooling1D()]
        )
        model.compile(sgd("none")(), loss="mse")
    texts = [np.full((4, 3 + index), index) for index in range(8)]
    batches = lambda: ((text, np.full((4, 2), 2.0**index)) for index, text in enumerate(texts))  # noqa: E731
    expected = np.mean([(model(text).numpy() - 2.0**index) ** 2 for index, text in enumerate(texts)])
    np.testing.assert_allclose(model.evaluate(batches(), verbose=0), expected, rtol=1e-5)
    seen = []
    look = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    model.fit(batches(), verbose=0, callbacks=[look])
    assert seen == list(range(8))


def test_an_optimizer_that_is_compressed_after_a_fit_is_compressed_in_the_next(strategy):
    """With the same model and without another `compile`: the step was traced before."""
    model = small_models.mlp(strategy, lambda: keras.optimizers.SGD(0.1))
    model.fit(data(), verbose=0)
    with strategy.scope():
        dqgan_tf.compressed(model.optimizer, "sign:bucket=32", logs=True)
    history = model.fit(data(), verbose=0).history
    assert np.isfinite(history["compression/wire_bytes"][-1])
    assert model.optimizer.compression.counts.variables[0].numpy().tolist() == [6, 0]
    weights(strategy, model)


def test_what_was_refused_is_not_in_force(strategy):
    with strategy.scope():
        model = small_models.mlp(strategy, lambda: keras.optimizers.SGD(0.1))
        model.optimizer.build(model.trainable_variables)
        with pytest.raises(UsageError, match="typo"):
            dqgan_tf.compressed(model.optimizer, "sign:bucket=32", compressor_rules="typo=none")
        assert not hasattr(model.optimizer, "compression")
        dqgan_tf.compressed(model.optimizer, "sign:bucket=32")
    model.fit(data(), verbose=0)
    assert model.optimizer.compression.counts.variables[0].numpy().tolist() == [6, 0]


@pytest.mark.parametrize("multiple", [False, True])
def test_an_uncompressed_optimizer_takes_no_step_by_a_sample_that_is_none(multiple):
    """One row for three replicas, which the model fits exactly: its gradient is 0, and so is that of no sample."""
    strategy = local_strategy(3)
    with strategy.scope():
        layer = keras.layers.Dense(1, kernel_initializer="ones", bias_initializer="ones")
        model = keras.Sequential([keras.Input((1,)), layer])
        optimizer = keras.optimizers.SGD(0.1)
        model.compile(optimizer, loss="mse")
        if multiple:
            model.compile(keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(optimizer)), loss="mse")
    x, y = np.array([[2.0]], np.float32), np.array([[3.0]], np.float32)
    model.fit(x, y, verbose=0)
    np.testing.assert_array_equal([np.ravel(value)[0] for value in model.get_weights()], [1.0, 1.0])
    assert "apply" not in vars(optimizer)
    model.fit(x, y + 1.0, verbose=0)  # d loss / d b = -2; the mean of replicas of which two have no row
    np.testing.assert_allclose(model.get_weights()[1], [1.0 + 0.1 * 2.0 / 3.0], rtol=1e-6)


def test_gradients_of_no_samples_keep_their_kind():
    """Keras' optimizers update the rows of an embedding by tf.IndexedSlices in another way than dense gradients."""
    slices = tf.IndexedSlices(tf.constant([[1.0], [2.0]]), tf.constant([0, 3]), tf.constant([4, 1]))
    for has_samples, factor in ((tf.constant(True), 1.0), (tf.constant(False), 0.0), (None, 1.0)):
        masked = fit._of_samples(slices, has_samples)
        assert isinstance(masked, tf.IndexedSlices) and masked.dense_shape is slices.dense_shape
        np.testing.assert_array_equal(tf.convert_to_tensor(masked)[:, 0], [factor, 0.0, 0.0, 2.0 * factor])
        np.testing.assert_array_equal(fit._of_samples(tf.constant([3.0, np.inf]), tf.constant(False)), [0.0, 0.0])
    assert fit._of_samples(None, tf.constant(False)) is None


def test_dense_layers_on_sequences(strategy):
    """TensorFlow does not know the shape of the gradient of their kernel."""
    with strategy.scope():
        model = keras.Sequential([keras.Input((3, small_models.INPUTS)), keras.layers.Dense(2)])
        model.compile(sgd()(), loss="mse")
    x, y = (np.stack([part[0]] * 3, axis=1) for part in small_models.batches(1, 2))
    before = weights(strategy, model)
    model.fit(x, y, verbose=0)
    assert not np.array_equal(weights(strategy, model), before)


def test_a_stateful_recurrent_layer_is_refused(strategy):
    with strategy.scope():
        layers = [keras.Input(batch_shape=(2, 1, 4)), keras.layers.Bidirectional(keras.layers.GRU(1, stateful=True))]
        model = keras.Sequential([*layers, keras.layers.Dense(2)])
        model.compile(sgd()(), loss="mse")
    with pytest.raises(UsageError, match="set stateful=False, or train on one replica. Received: .*, 2 replicas"):
        model.make_train_function()


@pytest.mark.slow
def test_a_second_fit_and_a_second_compile(strategy):
    model = small_models.mlp(strategy, sgd())
    model.fit(data(), verbose=0)
    model.fit(data(), verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 12
    with strategy.scope():
        model.compile(dqgan_tf.compressed(keras.optimizers.Adam(0.01), "sign:bucket=32"), loss="mse")
    model.fit(data(), verbose=0)
    weights(strategy, model)


def test_a_saved_model_loads_and_goes_on_compressed(strategy, tmp_path):
    model = small_models.mlp(strategy, lambda: dqgan_tf.compressed(keras.optimizers.Adam(0.01), "none"))
    model.fit(data(), shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    model.fit(data(), shuffle=False, verbose=0)
    plain = keras.models.load_model(tmp_path / "model.keras")  # in no strategy, without this library
    assert type(plain.optimizer) is keras.optimizers.Adam and int(plain.optimizer.iterations.numpy()) == 6
    with strategy.scope():
        loaded = keras.models.load_model(tmp_path / "model.keras")
        dqgan_tf.compressed(loaded.optimizer, "none")
    loaded.fit(data(), shuffle=False, verbose=0)
    np.testing.assert_array_equal(weights(strategy, model), weights(strategy, loaded))


@pytest.mark.slow
def test_a_saved_model_loads_where_this_library_is_not_installed(strategy, tmp_path):
    model = small_models.mlp(strategy, lambda: dqgan_tf.compressed(keras.optimizers.Adam(0.01), "sign:bucket=32"))
    model.fit(data(), shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    x = small_models.batches(1, 2)[0][0]
    code = """
import sys
sys.modules["dqgan_tf"] = None  # an import of the library fails
import keras, numpy as np
model = keras.models.load_model("model.keras")
np.save("drawn.npy", model.predict(np.load("x.npy"), verbose=0))
print(int(model.optimizer.iterations.numpy()), model.fit(np.load("x.npy"), np.load("drawn.npy"), verbose=0).epoch)
"""
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["6", "[0]"]
    np.testing.assert_allclose(np.load(tmp_path / "drawn.npy"), model(x), rtol=1e-6, atol=1e-7)


@pytest.mark.slow  # of Keras; test_checkpoint.py cuts off a run, and the test before loads a model
def test_backup_and_restore_goes_on_with_the_epoch(strategy, tmp_path):
    """Without residuals it is exact; with them `dqgan_tf.callbacks.Checkpoint` is."""

    def fit(model, *callbacks):
        steps = data().repeat()
        return model.fit(steps, epochs=3, steps_per_epoch=6, shuffle=False, callbacks=list(callbacks), verbose=0)

    def cut(epoch, logs):
        if epoch == 1:
            raise InterruptedError

    make = lambda: dqgan_tf.compressed(keras.optimizers.Adam(0.01), "none")  # noqa: E731
    whole = small_models.mlp(strategy, make)
    fit(whole)
    backup = lambda: keras.callbacks.BackupAndRestore(tmp_path)  # noqa: E731
    with pytest.raises(InterruptedError):
        fit(small_models.mlp(strategy, make), backup(), keras.callbacks.LambdaCallback(on_epoch_begin=cut))
    resumed = small_models.mlp(strategy, make, seed=5)
    assert fit(resumed, backup()).epoch == [1, 2]
    np.testing.assert_array_equal(weights(strategy, whole), weights(strategy, resumed))


@pytest.mark.slow
def test_callbacks_that_set_the_learning_rate(strategy):
    rates = []
    model = small_models.mlp(strategy, sgd("none"))
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 / (epoch + 1)),
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: rates.append(float(model.optimizer.learning_rate.numpy()))
        ),
    ]
    model.fit(data(), epochs=2, callbacks=callbacks, verbose=0)
    np.testing.assert_allclose(rates, [0.1, 0.05])


@pytest.mark.slow
def test_average_of_the_weights_replaces_them_at_the_end(strategy):
    make = lambda: dqgan_tf.compressed(keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5), SPEC)  # noqa: E731
    model = small_models.mlp(strategy, make)
    model.fit(data(), verbose=0, callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True)])
    averages = [v for v in model.optimizer.variables if v.path.endswith("average")]
    values = small_models.values(strategy, averages)
    np.testing.assert_array_equal(values[0], weights(strategy, model))


@pytest.mark.parametrize("steps", ["auto", 0, -3, 2.0, True, None])
def test_steps_per_execution_that_are_no_number_of_steps(strategy, steps):
    model = small_models.mlp(strategy, sgd(), steps_per_execution=steps)
    with pytest.raises(UsageError, match=f"at least 1, such as 8. Received: steps_per_execution={steps!r}"):
        model.fit(data(), verbose=0)


def test_an_empty_data_set_is_refused(strategy):
    model = small_models.mlp(strategy, sgd())
    x, y = (part[0] for part in small_models.batches(1, 2))
    for use in (model.fit, model.evaluate):
        for arguments in ((x[:0], y[:0]), (data().take(0),)):
            with pytest.raises(UsageError, match="empty: give it one batch or more"):
                use(*arguments, verbose=0)


def test_empty_validation_data_are_refused_before_the_first_step(strategy):
    model = small_models.mlp(strategy, sgd())
    x, y = (part[0] for part in small_models.batches(1, 2))
    before = weights(strategy, model)
    for empty in ((x[:0], y[:0]), data().take(0)):
        with pytest.raises(UsageError, match="one batch or more. Received: validation_data without a sample"):
            model.fit(data(), validation_data=empty, verbose=0)
    np.testing.assert_array_equal(weights(strategy, model), before)
    assert "val_loss" in model.fit(data(), validation_data=(x, y), verbose=0).history


def test_training_without_compression_is_said(strategy, caplog):
    for optimizer, count in ((sgd(), 0), (lambda: keras.optimizers.SGD(0.05), 1)):
        model = small_models.mlp(strategy, optimizer)
        with caplog.at_level("WARNING"):
            for make in (model.make_test_function, model.make_train_function, model.make_train_function):
                make()
        assert caplog.text.count(f"No optimizer of the model '{model.name}' is compressed") == count


def test_xla_and_eager_replicas_are_refused(strategy):
    model = small_models.mlp(strategy, sgd(), jit_compile=True)
    with pytest.raises(UsageError, match="jit_compile"):
        model.fit(data(), verbose=0)
    model = small_models.mlp(strategy, sgd(), run_eagerly=True)
    with pytest.raises(UsageError, match="run_eagerly"):
        model.fit(data(), verbose=0)


def test_a_model_of_another_scope_is_refused(strategy):
    with strategy.scope():
        optimizer = sgd()()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(optimizer, loss="mse")
    with pytest.raises(UsageError, match="strategy.run"):
        model.fit(data(), verbose=0)


def test_layers_of_another_scope_are_refused(strategy):
    """One weight for both replicas would receive the updates of both; so would statistics of a normalisation."""
    for outside in (keras.layers.Dense(3), keras.layers.BatchNormalization(center=False, scale=False)):
        outside.build((None, small_models.INPUTS))
        with strategy.scope():
            inputs = keras.Input((small_models.INPUTS,))
            model = keras.Model(inputs, keras.layers.Dense(2)(outside(inputs)))
            model.compile(sgd()(), loss="mse")
        with pytest.raises(UsageError, match="in the scope of the strategy.*which was created outside"):
            model.fit(data(), verbose=0)
        outside.trainable = False  # a frozen layer may be of any scope
        with strategy.scope():
            model.compile(sgd()(), loss="mse")
        model.optimizer.build(model.trainable_variables)
        model.make_train_function()


def test_metrics_of_another_scope_are_refused(strategy):
    """Both replicas would count into one variable, and each worker would see its own count."""
    message = "Create all metrics, also those that model.compile makes, in the scope of the strategy.*Received: "
    model = small_models.mlp(strategy, sgd(), metrics=[keras.metrics.FalsePositives(name="outside")])
    for use in (model.fit, model.evaluate):
        with pytest.raises(UsageError, match=f"{message}outside/"):
            use(data(), verbose=0)
    model.compile(model.optimizer, loss="mse")
    with pytest.raises(UsageError, match=f"{message}loss/"):
        model.fit(data(), verbose=0)


def test_models_of_no_strategy_are_keras_own():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", loss="mse")
    model.fit(data(), verbose=0)
    assert not type(model.train_function).__module__.startswith("dqgan_tf")
