"""`callbacks.Checkpoint`, two replicas in one process: a `fit` that is cut off goes on as if nothing had happened."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import dqgan_tf
from dqgan_tf.config import LossConfig
from dqgan_tf.distribute import message_board
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.distribute.strategy import OPEN_SECONDS
from dqgan_tf.errors import CheckpointError, UsageError
from dqgan_tf.keras.nested import optimizers_of
from dqgan_tf.keras.state import ModelState
from tests.gan import model_state, tiny_gan
from tests.gan.local_strategy import local_strategy
from tests.keras import small_models

EPOCHS, STEPS = 3, 5
SIGN, ADAPTIVE = "sign:bucket=32", "adaptive:bits=3,bucket=32"
STOCHASTIC = "linear:bits=4,bucket=32,rounding=stochastic"  # its random numbers depend on the number of calls
opt = keras.optimizers


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(2)


class Cut(keras.callbacks.Callback):
    """Ends `fit` by an error inside an epoch."""

    def __init__(self, epoch, batch):
        super().__init__()
        self._epoch, self._batch, self._now = epoch, batch, None

    def on_epoch_begin(self, epoch, logs=None):
        self._now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._now, batch) == (self._epoch, self._batch):
            raise InterruptedError


class Halve(keras.callbacks.Callback):
    """Halves the first learning rate after the first epoch of a run, as ReduceLROnPlateau may."""

    def on_epoch_end(self, epoch, logs=None):
        optimizer = getattr(self.model, "optimizer", None)
        if epoch == 0 and optimizer:
            first = getattr(optimizer, "optimizers", [optimizer])[0]
            first.learning_rate = 0.5 * float(keras.ops.convert_to_numpy(first.learning_rate))


def build(strategy, make, seed, **options):
    """Layers with every kind of state: running statistics, and the counters of random numbers."""
    keras.utils.set_random_seed(seed)
    with strategy.scope():
        layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.2), keras.layers.GaussianNoise(0.1)]
    return small_models.mlp(strategy, make, layers=layers, seed=seed, **options)


def fit(model, folder=None, epochs=EPOCHS, cut=None, **options):
    """`fit` with one iterator over all epochs: to make one takes longer than an epoch."""
    callbacks = [Halve()] + ([dqgan_tf.callbacks.Checkpoint(folder, **options)] if folder else [])
    callbacks += [Cut(*cut)] if cut else []
    data = small_models.dataset(*small_models.batches(STEPS, 2)).repeat()
    return model.fit(data, epochs=epochs, steps_per_epoch=STEPS, callbacks=callbacks, shuffle=False, verbose=0)


def state(strategy, model):
    """All variables, residuals, learned levels and counters of both replicas."""
    optimizer = model.optimizer
    leaf = optimizer.inner_optimizer if isinstance(optimizer, opt.LossScaleOptimizer) else optimizer
    (channel,) = leaf.compression.channels.values()
    variables = [*model.variables, *optimizer.variables]
    own = [channel.calls, leaf.compression.skipped, *channel.learned.values()]
    own += leaf.compression.point.state().values() if leaf.compression.point else []
    return {
        "variables": [
            [local.numpy() for local in strategy.experimental_local_results(variable.value)] for variable in variables
        ],
        "residuals": small_models.residuals(leaf, 2),
        "own": [variable.numpy() for local in own for variable in local.variables],
    }


def assert_same(first, second):
    flat = [tf.nest.flatten(one) for one in (first, second)]
    for a, b in zip(*flat, strict=True):
        np.testing.assert_array_equal(a, b)


CASES = {
    "gradient": lambda: dqgan_tf.compressed(opt.Adam(0.01, use_ema=True), SIGN, where="gradient"),
    "update": lambda: dqgan_tf.compressed(opt.Adam(0.01), SIGN, where="update"),
    # The checkpoint after 5 steps lies inside an accumulation of 3.
    "accumulation": lambda: dqgan_tf.compressed(opt.SGD(0.01, momentum=0.9, gradient_accumulation_steps=3), STOCHASTIC),
    "loss_scale": lambda: opt.LossScaleOptimizer(
        dqgan_tf.compressed(opt.Adam(0.01), SIGN, where="gradient"), initial_scale=2.0**10, dynamic_growth_steps=4
    ),
    # The checkpoint after 5 steps lies inside a round of 3.
    "rounds": lambda: dqgan_tf.compressed(
        opt.Adam(0.01, use_ema=True), SIGN, where="update", optimistic=True, local_steps=3, shift=0.1
    ),
    "learned": lambda: dqgan_tf.compressed(opt.RMSprop(0.01), ADAPTIVE),
}
QUICK = ("update",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES]
)
def test_a_run_that_is_cut_off_goes_on_bit_for_bit(strategy, tmp_path, name):
    whole = build(strategy, CASES[name], seed=3)
    losses = fit(whole).history["loss"]
    cut = build(strategy, CASES[name], seed=3)
    with pytest.raises(InterruptedError):
        fit(cut, tmp_path, cut=(1, 1))
    resumed = build(strategy, CASES[name], seed=4)  # another start: all must come from the files
    history = fit(resumed, tmp_path)
    assert history.epoch == [1, 2]
    assert history.history["loss"] == losses[1:]
    assert_same(state(strategy, whole), state(strategy, resumed))


def test_a_run_that_is_complete_trains_no_further_and_says_so(strategy, tmp_path, caplog):
    model = build(strategy, CASES["gradient"], seed=3)
    fit(model, tmp_path, epochs=2)
    before = state(strategy, model)
    assert not caplog.text
    assert fit(model, tmp_path, epochs=2).epoch == []
    assert "`fit` trains nothing" in caplog.text and "the end of epoch 2, and epochs=2" in caplog.text
    assert_same(before, state(strategy, model))
    assert fit(model, tmp_path, epochs=3).epoch == [2]
    assert f"`fit` goes on from {tmp_path} after epoch 2 of 3" in caplog.text
    assert fit(model, epochs=1).epoch == [0]  # without the callback, fit begins where its caller says


def test_the_fit_after_one_that_failed_begins_where_its_caller_says(strategy, tmp_path):
    class Fail(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise InterruptedError

    model = build(strategy, CASES["gradient"], seed=3)
    fit(model, tmp_path, epochs=2)
    with pytest.raises(InterruptedError):
        fit(model, tmp_path, epochs=3, cut=(2, 1))
    assert fit(model, epochs=2).epoch == [0, 1]
    assert fit(model, tmp_path, epochs=3).epoch == [2]  # the lock is that of this process
    with pytest.raises(InterruptedError):  # before the first epoch
        model.fit(*small_models.batches(1, 2), callbacks=[dqgan_tf.callbacks.Checkpoint(tmp_path), Fail()], verbose=0)
    assert fit(model, epochs=1).epoch == [0]


class Service:
    """Stands for the coordination service, where a key is set once. Worker 1 posts what worker 0 does."""

    def __init__(self):
        self.keys, self.waited = {}, []

    def set(self, key, value):
        if key in self.keys:
            raise tf.errors.AlreadyExistsError(None, None, key)
        self.keys[key] = value

    def get(self, key, timeout_seconds):
        return self.keys[key.rpartition("/")[0] + "/0"]

    def delete(self, key):
        del self.keys[key]

    def wait_at_barrier(self, name, timeout_seconds):
        self.waited.append(timeout_seconds)


def test_a_callback_in_a_second_fit_of_several_workers(strategy, tmp_path, monkeypatch):
    """Nothing was saved in the first one, so that its posts are still on the board."""
    service = Service()
    monkeypatch.setattr(message_board, "CoordinationService", lambda: service)
    monkeypatch.setattr(strategy, "message_board", lambda name: MessageBoard(0, 2, name))
    callback = dqgan_tf.callbacks.Checkpoint(tmp_path)
    callback.set_model(small_models.mlp(strategy, CASES["update"]))
    for _ in range(2):
        callback.on_train_begin()
        callback.on_train_end()
    callback.on_train_begin()
    callback.on_epoch_end(0)
    assert len(service.waited) == 10 and set(service.waited) == {OPEN_SECONDS}


Swap = keras.callbacks.SwapEMAWeights


def test_averaged_weights_are_not_saved_for_those_that_are_trained(strategy, tmp_path):
    model, checkpoint = build(strategy, CASES["gradient"], seed=3), dqgan_tf.callbacks.Checkpoint(tmp_path)
    wrong, (x, y) = [Halve(), Swap(swap_on_epoch=True), checkpoint], small_models.batches(1, 2)
    for callbacks in (wrong, [wrong], keras.callbacks.CallbackList(wrong, model=model)):
        with pytest.raises(UsageError, match="SwapEMAWeights.* must stand behind .*Checkpoint, as in callbacks="):
            model.fit(x[0], y[0], callbacks=callbacks, verbose=0)
    assert not list(tmp_path.iterdir())
    checkpoint.set_callbacks([Swap(), checkpoint])  # swaps back at the end of each evaluation


def test_weights_that_are_swapped_behind_a_checkpoint(strategy, tmp_path):
    """The trained ones are saved, the averaged ones evaluated; a second `fit`, and another process, train the saved."""
    model, x, y = build(strategy, CASES["gradient"], seed=3), *small_models.batches(1, 2, seed=1)
    data = small_models.dataset(*small_models.batches(STEPS, 2))
    begun, ended, losses = [], [], []

    def values(model):
        return [small_models.values(strategy, variables) for variables in (model.variables, model.optimizer.variables)]

    def at_the_end(epoch, logs):
        ended.append(values(model))
        losses.append(logs["val_loss"])

    swap = Swap(swap_on_epoch=True)
    first = keras.callbacks.LambdaCallback(on_epoch_end=at_the_end)
    last = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(values(model)))
    for epochs in (1, 2):
        callbacks = [first, dqgan_tf.callbacks.Checkpoint(tmp_path), swap, last]
        model.fit(
            data, epochs=epochs, validation_data=(x[0], y[0]), callbacks=callbacks, shuffle=False, verbose=0
        )  # leaves the averaged weights in the model
        np.testing.assert_allclose(model.evaluate(x[0], y[0], verbose=0), losses[-1], rtol=1e-5)
    assert_same(begun[1], ended[0])
    other, callback = build(strategy, CASES["gradient"], seed=4), dqgan_tf.callbacks.Checkpoint(tmp_path)
    callback.set_model(other)
    callback.on_train_begin()
    callback.on_train_end()
    assert_same(values(other), ended[1])


@pytest.fixture(scope="module")
def saved(strategy, tmp_path_factory):
    """The folder of `fit`, in which refused runs change nothing."""
    folder = tmp_path_factory.mktemp("saved")
    fit(build(strategy, CASES["gradient"], seed=3), folder, epochs=7, every=2, keep=2)
    return folder


def test_every_and_keep(saved, tmp_path):
    assert sorted(path.name for path in saved.iterdir()) == ["step_00000004", "step_00000006"]
    for options in ({"every": 0}, {"keep": 0}, {"every": 1.5}, {"every": True}):
        with pytest.raises(UsageError, match="whole number of at least 1"):
            dqgan_tf.callbacks.Checkpoint(tmp_path, **options)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: dqgan_tf.compressed(opt.Adam(0.01, use_ema=True), "sign:bucket=64"), "sign:bucket=32"),
        (lambda: dqgan_tf.compressed(opt.Adam(0.01, use_ema=True), SIGN, where="update"), "where"),
        (lambda: dqgan_tf.compressed(opt.SGD(0.01), SIGN, where="gradient"), "Adam"),
        (lambda: opt.Adam(0.01, use_ema=True), "compression"),
    ],
    ids=["compressor", "place", "optimizer", "uncompressed"],
)
def test_a_checkpoint_of_other_settings_is_refused(strategy, saved, make, match):
    other = build(strategy, make, seed=3)
    before = small_models.values(strategy, other.variables)
    with pytest.raises(CheckpointError, match=match):
        fit(other, saved)
    np.testing.assert_array_equal(before, small_models.values(strategy, other.variables))


def test_a_checkpoint_of_another_loss_is_refused(strategy, saved):
    other = build(strategy, CASES["gradient"], seed=3, loss="mae")
    with pytest.raises(CheckpointError, match=r"was trained with loss=\['mse'\], this run has loss=\['mae'\]"):
        fit(other, saved)
    model = build(strategy, CASES["gradient"], seed=3, loss=keras.losses.BinaryCrossentropy(from_logits=True))
    state_of = ModelState(model)
    settings = json.loads(json.dumps(state_of.settings()))
    assert "from_logits=True" in settings["settings"]["loss"][0]
    del settings["settings"]["loss"]  # as in a checkpoint before the loss was in it
    for name in ("mean_compressor", "flush_residuals"):  # and before these settings
        del settings["settings"]["compression"][0][name]
    state_of.prepare(saved, settings)
    settings["settings"]["compression"][0]["shift"] = 0.5
    with pytest.raises(CheckpointError, match=r"'shift': 0.5"):
        state_of.prepare(saved, settings)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"loss": "hinge"}, "loss.loss=non_saturating, this run has loss.loss=hinge"),
        ({"loss": LossConfig(r1_gamma=0.5)}, "loss.r1_gamma=0.1, this run has loss.r1_gamma=0.5"),
        ({"ema_decay": 0.5}, "ema_decay=0.999, this run has ema_decay=0.5"),
    ],
)
def test_a_checkpoint_of_another_game_is_refused(strategy, tmp_path, options, match):
    def build_gan(**options):
        with strategy.scope():
            generator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
            discriminator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
            model = dqgan_tf.DQGAN(generator, discriminator, **options)
        model.compile()
        callback = dqgan_tf.callbacks.Checkpoint(tmp_path)
        callback.set_model(model)
        return callback

    first = build_gan()
    first.on_train_begin()
    first.on_epoch_end(0)
    first.on_train_end()
    other = build_gan(**options)
    with pytest.raises(CheckpointError, match=match):
        other.on_train_begin()


def test_a_checkpoint_of_another_model_is_refused(strategy, saved):
    other = small_models.mlp(strategy, CASES["gradient"])
    with pytest.raises(CheckpointError, match="its variable 2 is gamma.*, this model's is kernel"):
        fit(other, saved)


def test_another_number_of_replicas_starts_from_the_means(strategy, tmp_path):
    model = build(strategy, CASES["update"], seed=3)
    fit(model, tmp_path, epochs=1)
    saved = state(strategy, model)
    alone = local_strategy(1)
    other = build(alone, CASES["update"], seed=4)
    callback = dqgan_tf.callbacks.Checkpoint(tmp_path)
    callback.set_model(other)
    callback.on_train_begin()
    np.testing.assert_array_equal(small_models.residuals(other.optimizer, 1)[0], saved["residuals"].mean(0))
    expected = small_models.values(strategy, model.trainable_variables)
    np.testing.assert_array_equal(small_models.values(alone, other.trainable_variables)[0], expected[0])


def test_a_folder_is_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert dqgan_tf.callbacks.Checkpoint("~/run")._folder == tmp_path / "run"
    for value in ("gs://bucket/run", None, b"run"):
        with pytest.raises(UsageError, match=f"`folder` must be a path, .* Received: folder={value!r}"):
            dqgan_tf.callbacks.Checkpoint(value)


def test_a_model_of_another_strategy_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", loss="mse")
    with pytest.raises(UsageError, match="BackupAndRestore"):
        fit(model, tmp_path)


class TwoNetworks(keras.Model):
    """Two optimizers that nothing builds before the first step."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(2), keras.layers.Dense(2)
        self.tracker = keras.metrics.Mean(name="loss")

    def call(self, x):
        return self.first(x) + self.second(x)

    def train_step(self, data):
        x, y = data
        for layer, optimizer in zip((self.first, self.second), self.pair, strict=True):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x) - y) ** 2) / tf.distribute.get_replica_context().num_replicas_in_sync
            optimizer.apply(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables)
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}


def test_optimizers_at_any_depth_of_an_attribute_are_saved(strategy):
    model = small_models.mlp(strategy, CASES["update"])
    with strategy.scope():
        model.steps = {"g": [opt.SGD(name="first")], "d": ({"low": opt.SGD(name="second")},), "own": model.optimizer}
    loop = vars(model)["loop"] = [opt.SGD(name="third")]
    loop.append(loop)
    assert [one.name for one in optimizers_of(model)] == [model.optimizer.name, "first", "second", "third"]
    names = {name.partition("/")[0] for name in ModelState(model).shared_values()}
    assert {"optimizer_0", "optimizer_1", "optimizer_2", "optimizer_3"} <= names


@pytest.mark.slow
def test_several_optimizers_of_a_train_step_of_ones_own(strategy, tmp_path):
    def build():
        with strategy.scope():
            model = TwoNetworks()
            model.pair = [
                dqgan_tf.compressed(opt.Adam(0.01), SIGN, where="update"),
                dqgan_tf.compressed(opt.SGD(0.01, momentum=0.9), SIGN),
            ]
            model.compile()
        return model

    def state(model):
        optimizers = [*model.pair]
        values = small_models.values(strategy, [*model.variables, *optimizers[0].variables, *optimizers[1].variables])
        return [values, *[small_models.residuals(optimizer, 2) for optimizer in optimizers]]

    keras.utils.set_random_seed(1)
    whole = build()
    fit(whole)
    keras.utils.set_random_seed(1)
    cut = build()
    with pytest.raises(InterruptedError):
        fit(cut, tmp_path, cut=(1, 2))
    keras.utils.set_random_seed(2)
    resumed = build()
    assert fit(resumed, tmp_path).epoch == [1, 2]
    assert_same(state(whole), state(resumed))


@pytest.mark.slow
def test_dqgan(tmp_path):
    gan_strategy = local_strategy(tiny_gan.REPLICAS)
    optimizer = dqgan_tf.OptimizerConfig(direction="adam")
    batches = tiny_gan.real_batches(STEPS).reshape(STEPS, -1, 2)

    def build():
        return tiny_gan.build(gan_strategy, optimizer, dqgan_tf.CompressionConfig(compressor=SIGN))

    def fit(model, *callbacks):
        data = tf.data.Dataset.from_tensor_slices(batches)
        callbacks = [Halve(), *callbacks]
        return model.fit(data, epochs=3, callbacks=callbacks, shuffle=False, verbose=0)

    whole = build()
    fit(whole)
    with pytest.raises(InterruptedError):
        fit(build(), dqgan_tf.callbacks.Checkpoint(tmp_path), Cut(1, 2))
    resumed = build()
    assert fit(resumed, dqgan_tf.callbacks.Checkpoint(tmp_path)).epoch == [1, 2]
    assert model_state.bits(whole) == model_state.bits(resumed)
    rates = [[o.learning_rate for o in model.optimizer.optimizers] for model in (whole, resumed)]
    assert rates[0] == rates[1] == [np.float32(5e-4), np.float32(1e-3)]
    other = tiny_gan.build(gan_strategy, optimizer, dqgan_tf.CompressionConfig(compressor="topk:fraction=0.1"))
    with pytest.raises(CheckpointError, match="topk"):
        fit(other, dqgan_tf.callbacks.Checkpoint(tmp_path))
