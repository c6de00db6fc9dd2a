"""What Keras users take for granted of a model works for `DQGAN`, or is refused by a sentence."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.config import CompressionConfig, OptimizerConfig
from dqgan_tf.distribute.replica_local import first_local_value
from dqgan_tf.errors import TrainingError, UsageError
from dqgan_tf.gan import losses
from dqgan_tf.gan.model import DQGAN
from tests.gan.local_strategy import local_strategy

L = keras.layers
LATENT = np.random.default_rng(1).standard_normal((32, 3)).astype(np.float32)
REAL = np.random.default_rng(0).uniform(-1, 1, (64, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(2)


def networks(*, generator=(), discriminator=(), **dense):
    return (
        keras.Sequential([keras.Input([3]), L.Dense(6, "tanh"), *generator, L.Dense(2, **dense)]),
        keras.Sequential([keras.Input([2]), L.Dense(8, "tanh"), *discriminator, L.Dense(1)]),
    )


def build(strategy, *, compiled=True, direction="adam", loss="non_saturating", settings=None, **layers):
    with strategy.scope():
        keras.utils.set_random_seed(3)
        model = DQGAN(*networks(**layers), loss=loss, seed=4)
    if compiled:
        model.compile(
            OptimizerConfig(direction=direction, learning_rate_g=1e-2, learning_rate_d=1e-2),
            CompressionConfig(compressor="sign:bucket=32"),
            **settings or {},
        )
    return model


def batches(values=REAL, size=16):
    return tf.data.Dataset.from_tensor_slices(values).batch(size)


def train(model, values=REAL, epochs=2):
    return model.fit(batches(values), epochs=epochs, shuffle=False, verbose=0)


def weights(model):
    return np.concatenate([np.ravel(v) for v in model.get_weights()])


class TestFiles:
    @pytest.mark.parametrize("name", ["x.weights.h5", "x.keras"])
    def test_a_loaded_model_draws_and_continues_as_the_saved_one(self, strategy, tmp_path, name):
        model = build(strategy)
        train(model)
        drawn, raw = model.generate(LATENT).numpy(), model.generate(LATENT, use_ema=False).numpy()
        assert not np.allclose(drawn, raw, atol=1e-4)
        if name.endswith(".keras"):
            model.save(tmp_path / name)
            with strategy.scope():
                other = keras.saving.load_model(tmp_path / name)
            assert other.optimizer_config == model.optimizer_config
            assert other.compression_config == model.compression_config
        else:
            model.save_weights(tmp_path / name)
            other = build(strategy)
            other.load_weights(tmp_path / name)
        assert np.array_equal(other.generate(LATENT).numpy(), drawn)
        assert np.array_equal(other.generate(LATENT, use_ema=False).numpy(), raw)
        assert int(other.step.numpy()) == int(model.step.numpy()) == 8
        for replica in range(2):
            # The mean over the replicas, in float32.
            own, old = other.replica_values(replica), [model.replica_values(m) for m in range(2)]
            for key in own:
                if key != "calls":
                    mean = np.mean([v[key] for v in old], axis=0, dtype=np.float64)
                    np.testing.assert_allclose(own[key], mean, rtol=1e-6, atol=1e-9, err_msg=key)
        assert any(np.any(value) for key, value in own.items() if key.startswith("residual"))

    @pytest.mark.slow
    def test_another_optimizer_is_said(self, strategy, tmp_path, caplog):
        model = build(strategy)
        train(model)
        model.save_weights(tmp_path / "x.weights.h5")
        other = build(strategy, direction="sgd")
        with caplog.at_level("WARNING"):
            other.load_weights(tmp_path / "x.weights.h5")
        assert "moments, directions and residuals are not loaded" in caplog.text
        assert np.array_equal(other.generate(LATENT).numpy(), model.generate(LATENT).numpy())

    @pytest.mark.slow
    def test_before_compile(self, strategy, tmp_path):
        model = build(strategy, compiled=False)
        model.save_weights(tmp_path / "x.weights.h5")
        build(strategy, compiled=False).load_weights(tmp_path / "x.weights.h5")

    @pytest.mark.slow
    def test_a_loss_of_ones_own_has_no_name(self, strategy, tmp_path):
        own = losses.Loss(
            "own", lambda fake: -tf.reduce_mean(fake), lambda r, f: tf.reduce_mean(f - r), losses.no_penalty
        )
        model = build(strategy, loss=own)
        with pytest.raises(UsageError, match="cannot be saved whole: call save_weights"):
            model.save(tmp_path / "x.keras")

    @pytest.mark.slow
    def test_the_averaged_generator_is_a_model_of_its_own(self, strategy, tmp_path):
        model = build(strategy, generator=[L.BatchNormalization()])
        train(model)
        model.averaged_generator().save(tmp_path / "g.keras")
        drawn = keras.saving.load_model(tmp_path / "g.keras")(LATENT, training=False)
        # Compiled and eager kernels round differently.
        np.testing.assert_allclose(drawn, model.generate(LATENT), rtol=1e-5, atol=1e-6)


class TestAverage:
    def test_set_weights_starts_it_anew(self, strategy):
        model, other = build(strategy), build(strategy)
        train(model)
        other.set_weights(model.get_weights())
        assert np.array_equal(other.generate(LATENT), model.generate(LATENT, use_ema=False))

    @pytest.mark.slow
    def test_warm_start_of_the_generator_alone(self, strategy):
        """Before the first step the average is the weights, whoever has set them."""
        model, other = build(strategy), build(strategy)
        train(model)
        other.generator.set_weights(model.generator.get_weights())
        drawn = model.generate(LATENT, use_ema=False).numpy()
        assert np.array_equal(other.generate(LATENT), drawn)
        other.train_on_batch(REAL[:16])
        # w_ema = 2/11 w_0 + 9/11 w_1
        assert (
            np.abs(other.generate(LATENT) - drawn).max() < 0.2 < np.abs(build(strategy).generate(LATENT) - drawn).max()
        )


class TestLayers:
    def test_constraints(self, strategy):
        model = build(strategy, kernel_constraint=keras.constraints.MaxNorm(0.05, axis=[0, 1]))
        train(model)
        kernel = model.generator.layers[-1].kernel.value.values
        for replica in range(2):
            assert 0.04 < np.linalg.norm(kernel[replica]) < 0.05 * (1.0 + 1e-5)

    @pytest.mark.slow
    def test_regularizers_enter_the_loss(self, strategy):
        """With a large factor the kernel goes to zero; the figure holds the loss."""
        model, plain = build(strategy, kernel_regularizer=keras.regularizers.L2(10.0)), build(strategy)
        values = [np.square(model.generator.layers[-1].kernel.value.values[0]).sum()]
        first = [m.train_on_batch(REAL[:16])[0] for m in (model, plain)]
        assert first[0] - first[1] == pytest.approx(10.0 * values[0], rel=1e-4)
        train(model, epochs=10)
        assert np.square(model.generator.layers[-1].kernel.value.values[0]).sum() < 0.3 * values[0]

    @pytest.mark.slow
    def test_losses_of_layers_enter_the_loss(self, strategy):
        class Own(L.Layer):
            def call(self, inputs):
                self.add_loss(7.0 + 0.0 * tf.reduce_mean(inputs))
                return inputs

        figures = build(strategy, generator=[Own()], discriminator=[Own()]).train_on_batch(REAL[:16])
        plain = build(strategy).train_on_batch(REAL[:16])
        # The discriminator sees real and fake samples: the mean of both.
        np.testing.assert_allclose(np.subtract(figures, plain), [7.0, 7.0], rtol=1e-4)

    @pytest.mark.slow
    def test_dropout_draws_apart_on_every_replica(self, strategy):
        class Probe(L.Layer):
            """Keeps its input as a statistic, which replicas average."""

            def build(self, shape):
                self.seen = self.add_weight(name="seen", shape=[256], initializer="zeros", trainable=False)

            def call(self, inputs):
                self.seen.assign(tf.reduce_mean(inputs, 0) * tf.ones([256]))
                return inputs

        layers = [L.Dense(256, kernel_initializer="zeros", bias_initializer="ones"), L.Dropout(0.5, seed=5), Probe()]
        model = build(strategy, generator=layers)
        model.train_on_batch(REAL[:2])  # a sample per replica
        seen = model.generator.layers[3].seen.value.values[0].numpy()
        # Units are 0 or 2 on a replica. The mean of two equal replicas is 0 or 2, too; of two that differ often 1.
        assert 0.3 < np.mean(np.isclose(seen, 1.0, atol=0.2)) < 0.7
        seeds = [first_local_value(v) for v in model.generator.non_trainable_variables if "seed" in v.path]
        assert [seed[0] for seed in seeds] == [5]  # as before the step, on all replicas

    def test_spectral_normalization(self, strategy):
        train(build(strategy, discriminator=[L.SpectralNormalization(L.Dense(4))]))
        with pytest.raises(UsageError, match="generator's layer .* assigns its kernel"):
            build(strategy, generator=[L.SpectralNormalization(L.Dense(4))])

    def test_a_layer_that_assigns_its_own_weight(self, strategy):
        class Own(L.Layer):
            def build(self, shape):
                self.scale = self.add_weight(name="scale", shape=[], initializer="ones")

            def call(self, inputs):
                self.scale.assign(0.5 * self.scale)
                return inputs * self.scale

        with pytest.raises(UsageError, match="generator assigns its weight .*scale while it trains"):
            train(build(strategy, generator=[Own()]))

    @pytest.mark.slow
    def test_dtype_policies(self, strategy):
        policy = keras.mixed_precision.DTypePolicy("mixed_bfloat16")
        model = build(strategy, generator=[L.Dense(4, dtype=policy)], discriminator=[L.Dense(4, dtype=policy)])
        assert np.all(np.isfinite(train(model).history["generator_loss"]))
        for name in ("mixed_float16", "float16", "float64", "bfloat16"):
            with pytest.raises(UsageError, match="Layers must compute in float32 .*|Weights must be float32.*"):
                build(strategy, generator=[L.Dense(4, dtype=keras.mixed_precision.DTypePolicy(name))])

    def test_a_sigmoid_at_the_end_is_said(self, strategy, caplog):
        generator, discriminator = networks()
        with strategy.scope(), caplog.at_level("WARNING"):
            DQGAN(generator, keras.Sequential([discriminator, L.Activation("sigmoid")]))
        assert "ends in a sigmoid" in caplog.text


class TestBatches:
    @pytest.mark.slow
    @pytest.mark.parametrize("policy", ["bytes", "dict", "tuple", "float64"])
    def test_forms(self, strategy, policy):
        values = {
            "bytes": np.uint8(np.round(127.5 * (REAL + 1.0))),
            "dict": {"image": REAL, "label": np.zeros(64, np.int64)},
            "tuple": (REAL, np.zeros(64)),
            "float64": REAL.astype(np.float64),
        }[policy]
        model, plain = build(strategy), build(strategy)
        ours, theirs = train(model, values), train(plain)
        tolerance = 2e-2 if policy == "bytes" else 0.0  # a byte is half of 1 / 127.5 away at most
        for name in ("generator_loss", "discriminator_loss"):
            np.testing.assert_allclose(ours.history[name], theirs.history[name], atol=tolerance, rtol=0)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"pixels": REAL}, r"a dict with the keys \['pixels'\]"),
            (np.zeros((64, 2), np.int32), "dtype=int32"),
        ],
    )
    def test_refused_forms(self, strategy, values, message):
        with pytest.raises(UsageError, match=message):
            train(build(strategy), values)

    @pytest.mark.slow
    def test_on_batch(self, strategy):
        model, other = build(strategy), build(strategy)
        train(other, REAL[:16], epochs=1)
        # Both replicas get a half of the batch, as `fit` gives them.
        figures = model.train_on_batch(REAL[:16], return_dict=True)
        assert np.array_equal(weights(model), weights(other)) and figures["skipped"] == 0
        before = weights(model)
        assert model.test_on_batch(REAL[:16])[1] == pytest.approx(
            model.evaluate(batches(REAL[:16]), return_dict=True, verbose=0)["discriminator_loss"]
        )
        assert np.array_equal(weights(model), before)
        for refused in ({"y": np.zeros(16)}, {"sample_weight": np.ones(16)}):
            with pytest.raises(UsageError, match="DQGAN has no use for"):
                model.train_on_batch(REAL[:16], **refused)


class TestFigures:
    def test_an_epoch_without_a_step_is_nan(self, strategy):
        model = build(strategy, settings={"max_skipped_in_row": 0})
        history = train(model, np.full_like(REAL, np.nan)).history
        assert np.all(np.isnan(history["generator_loss"])) and history["skipped"] == [4, 4]

    @pytest.mark.slow
    def test_an_epoch_is_the_mean_over_its_steps(self, strategy):
        model, other = build(strategy), build(strategy)
        whole = train(model, epochs=1).history["discriminator_loss"][0]
        each = [other.train_on_batch(REAL[i : i + 16])[1] for i in range(0, 64, 16)]
        assert whole == pytest.approx(np.mean(each), rel=1e-5)

    @pytest.mark.slow
    def test_too_many_skipped_steps_in_a_row_end_fit(self, strategy):
        model = build(strategy, settings={"max_skipped_in_row": 3})
        with pytest.raises(TrainingError, match="The last 3 steps up to step 3 were skipped"):
            train(model, np.full_like(REAL, np.nan))

    @pytest.mark.slow
    def test_termination_on_nan(self, strategy):
        model = build(strategy, settings={"max_skipped_in_row": 0})
        data, callback = batches(np.full_like(REAL, np.nan)), keras.callbacks.TerminateOnNaN()
        assert model.fit(data, epochs=3, callbacks=[callback], verbose=0).epoch == [0]
