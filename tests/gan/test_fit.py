"""`model.fit` on one worker: what a Keras user expects of callbacks, epochs, validation and several steps a call."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.config import CompressionConfig, OptimizerConfig
from tests.gan import tiny_gan
from tests.gan.local_strategy import local_strategy

BATCH = 16


@pytest.fixture(scope="module")
def model():
    return tiny_gan.build(local_strategy(1), OptimizerConfig(), CompressionConfig(compressor="sign:bucket=32"))


def points(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 2)).astype(np.float32)


def plain(batches, seed=0):
    return tf.data.Dataset.from_tensor_slices(points(batches * BATCH, seed)).batch(BATCH)


def labelled(batches):
    labels = tf.data.Dataset.from_tensors(7).repeat()
    return tf.data.Dataset.zip(plain(batches).unbatch(), labels).batch(BATCH)


def step(model):
    return int(model.step.numpy())


def test_callbacks_epochs_validation_and_tuples(model, tmp_path):
    seen, start = [], step(model)
    callbacks = [
        keras.callbacks.TensorBoard(tmp_path / "board", update_freq=1),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
        keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append((batch, logs, step(model)))),
    ]
    history = model.fit(
        labelled(6), epochs=2, validation_data=plain(3, 1), callbacks=callbacks, shuffle=False, verbose=0
    )
    assert history.epoch == [0, 1]
    for name in ("generator_loss", "discriminator_loss", "wire_bytes", "val_generator_loss", "val_discriminator_loss"):
        assert len(history.history[name]) == 2 and np.all(np.isfinite(history.history[name])), name
    assert [(batch, taken) for batch, _, taken in seen] == [(i % 6, start + i + 1) for i in range(12)]
    assert len({logs["generator_loss"] for _, logs, _ in seen}) == 12  # each batch has its own figures
    assert list((tmp_path / "board" / "train").glob("events.*")) and list((tmp_path / "board").glob("validation/*"))

    kept = tiny_gan.weights(model)
    model.load_weights(tmp_path / "1.weights.h5")
    earlier = tiny_gan.weights(model)
    assert np.any(earlier != kept)
    model.load_weights(tmp_path / "2.weights.h5")
    assert np.array_equal(tiny_gan.weights(model), kept)


def test_early_stopping_stops(model):
    stopping = keras.callbacks.EarlyStopping("wire_bytes", mode="min", patience=1)  # bytes never improve
    history = model.fit(plain(2), epochs=5, callbacks=[stopping], shuffle=False, verbose=0)
    assert history.epoch == [0, 1]


def test_evaluate_is_the_mean_over_samples(model):
    """Batches of 16, 16 and 4: every sample counts once, whatever the size of its batch."""
    data = points(36, 2)
    with_one_fake(model)

    def loss(values, size):
        dataset = tf.data.Dataset.from_tensor_slices(values).batch(size)
        return model.evaluate(dataset, return_dict=True, verbose=0)["discriminator_loss"]

    whole = loss(data, 36)
    assert loss(data, 16) == pytest.approx(whole, rel=1e-5)  # float32 sums in another order
    assert loss(data[32:], 16) != pytest.approx(whole, rel=1e-3)
    assert np.mean([loss(data[i : i + 16], 16) for i in (0, 16, 32)]) != pytest.approx(whole, rel=1e-3)


def with_one_fake(model):
    """Makes the generator blind to its latents, which are others in batches of another size."""
    kernel = model.generator.trainable_variables[0]
    kernel.assign(np.zeros(kernel.shape))


def test_several_steps_a_call_and_an_epoch_that_is_no_multiple(model):
    """12 batches in calls of 5: 5, 5 and 2 steps, in every epoch, traced once; the counters miss and invent none."""
    model.compile(OptimizerConfig(), CompressionConfig(compressor="sign:bucket=32"), steps_per_execution=5)
    seen, start = [], step(model)
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(step(model) - start))
    model.fit(plain(12), epochs=2, callbacks=[count], shuffle=False, verbose=0)
    assert seen == [5, 10, 12, 17, 22, 24]
    assert int(model.channel.calls.variables[0].numpy()) == 24
    assert model._take_steps_compiled.experimental_get_tracing_count() == 1

    endless = plain(12).repeat()
    model.fit(endless, epochs=2, steps_per_epoch=10, shuffle=False, verbose=0)
    assert step(model) - start == 44

    unknown = plain(7).filter(lambda batch: True)  # its length is known at its end only
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(unknown, shuffle=False, verbose=0)
    assert step(model) - start == 51
    assert int(model.skipped.numpy()) == 0


def test_evaluate_sees_all_batches_with_several_steps_a_call(model):
    """A NaN in the last of 7 batches, in calls of 5, shows only if that batch is read."""
    assert model.steps_per_execution == 5
    data = points(7 * BATCH)
    data[-1] = np.nan
    figures = model.evaluate(tf.data.Dataset.from_tensor_slices(data).batch(BATCH), return_dict=True, verbose=0)
    assert np.isnan(figures["discriminator_loss"]) and np.isfinite(figures["generator_loss"])
