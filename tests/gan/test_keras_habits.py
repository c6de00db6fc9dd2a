"""What Keras users take for granted of a model works for `DQGAN`, or is refused by a sentence."""

import copy
import pickle
import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.config import CompressionConfig, LossConfig, NetworkConfig, OptimizerConfig
from dqgan_tf.distribute.replica_local import first_local_value
from dqgan_tf.errors import TrainingError, UsageError
from dqgan_tf.gan import inputs, losses, networks, steps
from dqgan_tf.gan.fit import KerasFit, Optimizers
from dqgan_tf.gan.model import DQGAN
from tests.gan.local_strategy import local_strategy

L = keras.layers
LATENT = np.random.default_rng(1).standard_normal((32, 3)).astype(np.float32)
REAL = np.random.default_rng(0).uniform(-1, 1, (64, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(2)


def players(*, generator=(), discriminator=(), **dense):
    return (
        keras.Sequential([keras.Input([3]), L.Dense(6, "tanh"), *generator, L.Dense(2, **dense)]),
        keras.Sequential([keras.Input([2]), L.Dense(8, "tanh"), *discriminator, L.Dense(1)]),
    )


def build(strategy, *, compiled=True, direction="adam", loss="non_saturating", settings=None, **layers):
    with strategy.scope():
        keras.utils.set_random_seed(3)
        model = DQGAN(*players(**layers), loss=loss, seed=4)
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


@pytest.fixture(scope="module")
def trained(strategy):
    """A model after 8 steps, which no test changes."""
    model = build(strategy)
    train(model)
    return model


def weights(model):
    return np.concatenate([np.ravel(v) for v in model.get_weights()])


class TestFiles:
    @pytest.mark.parametrize("name", ["x.weights.h5", "x.keras"])
    def test_a_loaded_model_draws_and_continues_as_the_saved_one(self, strategy, trained, tmp_path, name):
        model = trained
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
    def test_another_optimizer_is_said(self, strategy, trained, tmp_path, caplog):
        model = trained
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
        model.export(tmp_path / "exported", verbose=False)
        exported = tf.saved_model.load(tmp_path / "exported")
        np.testing.assert_allclose(exported.serve(LATENT), model.generate(LATENT), rtol=1e-5, atol=1e-6)

    def test_before_the_first_step_it_has_the_weights(self, strategy):
        model = build(strategy, compiled=False)
        model.generator.set_weights([0.5 * weight for weight in model.generator.get_weights()])
        np.testing.assert_allclose(model.averaged_generator()(LATENT), model.generate(LATENT), rtol=1e-5, atol=1e-6)

    def test_refused(self, strategy, trained, tmp_path):
        for call in (
            lambda: trained.save(tmp_path / "x.h5"),
            lambda: trained.fit(REAL, callbacks=[keras.callbacks.ModelCheckpoint(str(tmp_path / "x.h5"))], verbose=0),
        ):
            with pytest.raises(UsageError, match="is saved as X.keras, or, by save_weights .* Received: '.*x.h5'"):
                call()
        before = weights(trained)
        with pytest.raises(UsageError, match="call quantize of gan.averaged_generator"):
            trained.quantize("int8")
        with pytest.raises(UsageError, match=r"Call gan.export\(path\)"):
            tf.saved_model.save(trained, tmp_path / "x")
        assert np.array_equal(weights(trained), before)


class TestConstructor:
    def test_networks_built_outside_of_the_scope(self, strategy):
        """Their variables are no mirrored ones: each replica would subtract its own update from the same variable."""
        networks_ = players()
        with (
            strategy.scope(),
            pytest.raises(
                UsageError,
                match=r"Create the generator in the scope of the strategy.* the 2 replicas .*which was created outside",
            ),
        ):
            DQGAN(*networks_)
        with strategy.scope(), pytest.raises(UsageError, match="Create the discriminator in the scope of the strategy"):
            DQGAN(players()[0], networks_[1])
        with local_strategy(1).scope():
            DQGAN(*networks_)  # one replica has one variable
        layer = L.Dropout(0.5)  # with a seed that was made outside; Keras has no update of it to add up
        build(strategy, compiled=False, generator=[layer])

    @pytest.mark.parametrize(
        ("networks_", "message"),
        [
            (lambda g, d: (g, g), "must be two networks. Received: .* for both"),
            (lambda g, d: (d, g), r"draws \[batch, 1\] and a discriminator that takes \[batch, 3\]"),
            (lambda g, d: (keras.Sequential([g, L.Dense(5)]), d), r"draws \[batch, 5\] .* takes \[batch, 2\]"),
            (lambda g, d: ("a", d), "generator must be a built Keras model. Received: generator='a'"),
            (lambda g, d: (g, keras.Sequential([L.Dense(2)])), "The discriminator must be built before training"),
        ],
    )
    def test_networks(self, strategy, networks_, message):
        with strategy.scope(), pytest.raises(UsageError, match=message):
            DQGAN(*networks_(*players()))

    @pytest.mark.parametrize(
        "name, value, message",
        [
            ("latent_dim", 0, "`latent_dim` must be a whole number of at least 1. Received: latent_dim=0"),
            ("latent_dim", "a", "`latent_dim` must be a whole number of at least 1. Received: latent_dim='a'"),
            ("latent_dim", 7, r"takes latents \[batch, 3\], .* Received: latent_dim=7"),
            ("loss", None, "`loss` must be the name of a loss, .* Received: loss=None"),
            ("loss", keras.losses.BinaryCrossentropy(), "losses of Keras are for one network"),
            ("seed", "a", "`seed` must be a whole number .* Received: seed='a'"),
            ("seed", 1.5, "`seed` must be a whole number .* Received: seed=1.5"),
            ("ema_decay", 2.0, "`ema_decay` must be a number of at least 0 and below 1. Received: ema_decay=2.0"),
            ("ema_decay", -1.0, "`ema_decay` must be a number .* Received: ema_decay=-1.0"),
            ("ema_decay", "a", "`ema_decay` must be a number .* Received: ema_decay='a'"),
            ("conditional", True, "networks take x alone: .* Received: conditional=True"),
            ("conditional", "yes", "must be True, False or None. Received: conditional='yes'"),
        ],
    )
    def test_values(self, strategy, name, value, message):
        with strategy.scope(), pytest.raises(UsageError, match=message):
            DQGAN(*players(), **{name: value})

    def test_a_layer_of_both_networks_is_refused(self, strategy):
        with strategy.scope():
            shared = keras.layers.Dense(2)
            generator = keras.Sequential([keras.Input((2,)), shared])
            discriminator = keras.Sequential([keras.Input((2,)), shared, keras.layers.Dense(1)])
            with pytest.raises(UsageError, match="trainable weights of its own.*Received: .*kernel in both networks"):
                DQGAN(generator, discriminator)
            shared.trainable = False
            generator = keras.Sequential([keras.Input((2,)), shared, keras.layers.Dense(2)])
            DQGAN(generator, keras.Sequential([keras.Input((2,)), shared, keras.layers.Dense(1)]))

    def test_a_generator_that_does_not_say_its_latents(self, strategy):
        class Own(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = L.Dense(2)

            def call(self, x):
                return self.dense(x)

        with strategy.scope():
            own, discriminator = Own(), players()[1]
            own(LATENT)
            with pytest.raises(UsageError, match="does not say how many dimensions the latents have"):
                DQGAN(own, discriminator)
            model = DQGAN(own, discriminator, latent_dim=3, ema_decay=0)
        assert model.latent_dim == 3


class TestCompile:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            *(
                ({"steps_per_execution": value}, f"a multiple of local_steps, such as 1. Received: .*={value!r}, ")
                for value in (0, -3, "auto", 2.5)
            ),
            ({"compression": "sign:bucket=512"}, "must be a dqgan_tf.CompressionConfig, .* Received: 'sign:"),
            ({"total_steps": "a"}, "`total_steps` must be a number of steps, .* Received: total_steps='a'"),
            ({"run_eagerly": True}, "DQGAN.compile takes optimizer, .* Received: run_eagerly"),
            ({"loss": "mse", "metrics": ["mse"]}, r"the loss is an argument of DQGAN\(...\). Received: loss, metrics"),
        ],
    )
    def test_refused(self, strategy, arguments, message):
        model = build(strategy, compiled=False)
        with pytest.raises(UsageError, match=message):
            model.compile(**arguments)

    def test_comes_first(self, strategy):
        model = build(strategy, compiled=False)
        for call in (
            lambda: model.fit(REAL),
            lambda: model.evaluate(REAL),
            lambda: model.train_on_batch(REAL),
            lambda: model.test_on_batch(REAL),
            lambda: model.train_steps(iter([]), 1),
            model.drain_metrics,
            model.weight_digests,
            model.bytes_per_step,
        ):
            with pytest.raises(UsageError, match=r"is not compiled: call gan.compile\("):
                call()

    def test_attributes_that_take_effect_there(self, strategy):
        model = build(strategy)
        for name, value, message in (
            ("run_eagerly", True, "Received: run_eagerly=True, jit_compile=False"),
            ("jit_compile", True, "Received: run_eagerly=False, jit_compile=True"),
            ("steps_per_execution", -3, "Received: steps_per_execution=-3"),
            ("optimizer", keras.optimizers.Adam(), "DQGAN has an update rule of its own"),
            ("generator", players()[0], "keeps its networks: .* call gan.generator.set_weights"),
        ):
            before = getattr(model, name)
            setattr(model, name, value)
            for call in (model.fit, model.evaluate, model.train_on_batch):
                with pytest.raises(UsageError, match=message):
                    call(REAL[:16])
            setattr(model, name, before)


class TestAverage:
    def test_set_weights_starts_it_anew(self, strategy, trained):
        model, other = trained, build(strategy)
        other.set_weights(model.get_weights())
        assert np.array_equal(other.generate(LATENT), model.generate(LATENT, use_ema=False))

    def test_weights_of_the_generator_alone_start_it_anew(self, strategy, caplog, tmp_path):
        model = build(strategy, compiled=False)
        model.generator.set_weights(model.generator.get_weights())
        assert "starts anew" not in caplog.text  # nothing was averaged
        model.step.assign(8)  # as if it had trained: the average counts
        values = model.shared_values()
        model.set_shared_values(values | {n: v + 0.1 for n, v in values.items() if n.startswith("ema/")})
        model.discriminator.set_weights(model.discriminator.get_weights())
        assert not np.array_equal(model.generate(LATENT), model.generate(LATENT, use_ema=False))
        model.generator.save_weights(tmp_path / "g.weights.h5")
        model.generator.load_weights(tmp_path / "g.weights.h5")
        assert np.array_equal(model.generate(LATENT), model.generate(LATENT, use_ema=False))
        assert "load_weights: the averaged generator, from which generate draws, starts anew" in caplog.text
        model.generator.set_weights([0.0 * weight for weight in model.generator.get_weights()])
        assert np.array_equal(model.generate(LATENT), model.generate(LATENT, use_ema=False))
        assert "set_weights: the averaged generator" in caplog.text

    def test_set_weights_leaves_the_counters(self, strategy):
        """Schedules and random numbers follow the step, as they follow `iterations` of an optimizer of Keras."""
        model = build(strategy, compiled=False)
        model.step.assign(4)
        early = model.get_weights()
        model.step.assign(16)
        model.set_weights(early)
        assert int(model.step.numpy()) == 16

    def test_the_weights_of_the_best_epoch_restore_it(self, strategy, caplog):
        """EarlyStopping hands the list of `get_weights` to `set_weights`, epochs later."""
        model = build(strategy, compiled=False)
        model.step.assign(8)  # as if it had trained: the average counts
        values = model.shared_values()
        averages = {name: value + 0.1 for name, value in values.items() if name.startswith("ema/")}
        model.set_shared_values(values | averages)
        callback = keras.callbacks.EarlyStopping("loss", patience=0, mode="min", restore_best_weights=True)
        callback.set_model(model)
        callback.on_train_begin()
        callback.on_epoch_end(0, {"loss": 1.0})
        best = [model.generate(LATENT, use_ema=use_ema).numpy() for use_ema in (True, False)]
        assert np.abs(best[0] - best[1]).max() > 1e-3
        model.set_shared_values({n: 2.0 * v if v.dtype == tf.float32 else v for n, v in (values | averages).items()})
        callback.on_epoch_end(1, {"loss": 2.0})
        callback.on_epoch_end(2, {"loss": 2.0})
        callback.on_train_end()
        for use_ema, drawn in zip((True, False), best, strict=True):
            assert np.array_equal(model.generate(LATENT, use_ema=use_ema), drawn)
        assert "starts anew" not in caplog.text and len(model.get_weights()) == len(model.weights)

        model.set_weights(pickle.loads(pickle.dumps(model.get_weights())))  # a plain list
        assert np.array_equal(model.generate(LATENT), best[1])
        assert "the averaged generator, from which generate draws, starts anew" in caplog.text

    @pytest.mark.slow
    def test_warm_start_of_the_generator_alone(self, strategy, trained):
        """Before the first step the average is the weights, whoever has set them."""
        model, other = trained, build(strategy)
        other.generator.set_weights(model.generator.get_weights())
        drawn = model.generate(LATENT, use_ema=False).numpy()
        assert np.array_equal(other.generate(LATENT), drawn)
        other.train_on_batch(REAL[:16])
        # w_ema = 2/11 w_0 + 9/11 w_1
        assert (
            np.abs(other.generate(LATENT) - drawn).max() < 0.2 < np.abs(build(strategy).generate(LATENT) - drawn).max()
        )


@pytest.mark.parametrize("rows, replicas", [(3, 3), (4, 3), (5, 4), (9, 4)])
def test_a_batch_gives_every_replica_a_sample_if_it_has_enough(rows, replicas):
    model = build(local_strategy(replicas))
    assert np.all(np.isfinite(model.train_on_batch(REAL[:rows])))
    assert int(model.skipped.numpy()) == 0


@pytest.mark.parametrize("devices, workers", [(1, 2), (2, 1), (1, 1)])
def test_the_length_of_a_batch_is_unknown_to_the_step_of_several_replicas(devices, workers):
    """Workers whose batches differ in length must not trace anew one by one: the new collectives would not meet."""
    strategy = types.SimpleNamespace(
        local_devices=["CPU:0"] * devices,
        num_workers=workers,
        distribute_datasets_from_function=lambda make: make(None),
    )
    parts = KerasFit._iterator_of(types.SimpleNamespace(_strategy=strategy), REAL[:5], None)
    assert parts.element_spec.shape.as_list() == [5 if devices == workers == 1 else None, 2]
    np.testing.assert_array_equal(np.concatenate(list(parts)), REAL[:5])


@pytest.mark.parametrize("total_steps", [float("inf"), float("nan"), -1, True, "100"])
def test_a_length_that_is_no_number_of_steps(strategy, total_steps):
    model = build(strategy, compiled=False)
    with pytest.raises(
        UsageError, match="`total_steps` must be a number of steps, such as 10000, .*Received: total_steps="
    ):
        model.compile(OptimizerConfig(learning_rate_schedule="linear"), CompressionConfig(), total_steps=total_steps)


class TestLayers:
    @pytest.mark.slow
    def test_constraints_and_spectral_normalization(self, strategy):
        constraint = keras.constraints.MaxNorm(0.05, axis=[0, 1])
        model = build(strategy, discriminator=[L.SpectralNormalization(L.Dense(4))], kernel_constraint=constraint)
        assert np.all(np.isfinite(train(model, epochs=1).history["discriminator_loss"]))
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

    def test_spectral_normalization_of_the_generator_is_refused(self, strategy):
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
        with strategy.scope(), caplog.at_level("WARNING"):
            generator, discriminator = players()
            DQGAN(generator, keras.Sequential([discriminator, L.Activation("sigmoid")]))
        assert "ends in a sigmoid" in caplog.text


class Hands(keras.Model):
    """A subclass whose `call` hands `training` on, or leaves that to Keras; the same network as `Sequential`."""

    def __init__(self, layers):
        super().__init__()
        self.parts = layers


class HandsOn(Hands):
    def call(self, inputs, training=None):
        for part in self.parts:
            inputs = part(inputs, training=training) if isinstance(part, L.Dropout) else part(inputs)
        return inputs


class LeavesItToKeras(Hands):
    def call(self, inputs, training=False):
        for part in self.parts:
            inputs = part(inputs)
        return inputs


class DoesNotAsk(Hands):
    def call(self, inputs):
        for part in self.parts:
            inputs = part(inputs)
        return inputs


class TestSubclasses:
    @staticmethod
    def build(strategy, kind):
        with strategy.scope():
            keras.utils.set_random_seed(3)
            parts = [[L.Dense(6, "tanh"), L.BatchNormalization(), L.Dropout(0.5, seed=5), L.Dense(2)] for _ in "gd"]
            parts[1][-1] = L.Dense(1)
            sizes = 3, 2
            if kind is keras.Sequential:
                networks_ = [
                    keras.Sequential([keras.Input([n]), *layers]) for n, layers in zip(sizes, parts, strict=True)
                ]
            else:
                networks_ = [kind(layers) for layers in parts]
                for network, size in zip(networks_, sizes, strict=True):
                    network(np.zeros([1, size], np.float32))
            model = DQGAN(*networks_, loss="non_saturating", latent_dim=3, seed=4)
        rates = OptimizerConfig(learning_rate_g=1e-2, learning_rate_d=1e-2)
        model.compile(rates, CompressionConfig(compressor="none"))
        return model

    @pytest.mark.parametrize("kind", [HandsOn, LeavesItToKeras, DoesNotAsk])
    def test_train_as_the_same_sequential_network(self, strategy, kind):
        """Dropout draws, and batch norm takes the batch's statistics, however `call` is written."""
        model, same = self.build(strategy, kind), self.build(strategy, keras.Sequential)
        for one in (model, same):
            one.train_on_batch(REAL[:16])
        for mine, others in zip(model.generator.get_weights(), same.generator.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, others)
        moved = [np.any(v) for v in model.generator.non_trainable_variables if "moving_mean" in v.path]
        assert moved == [True]
        np.testing.assert_array_equal(model.generate(LATENT), same.generate(LATENT))


class TestEvaluation:
    def test_layers_do_not_train_in_it(self, strategy):
        """Its losses are those of the networks called with training=False."""
        layers = {"generator": [L.BatchNormalization()], "discriminator": [L.BatchNormalization(), L.Dropout(0.5)]}
        model = build(strategy, loss=LossConfig(r1_gamma=0.0), **layers)
        train(model, epochs=1)
        before = weights(model)
        figures = model.evaluate(batches(REAL[:16]), return_dict=True, verbose=0)
        np.testing.assert_array_equal(weights(model), before)
        fake = [
            model.generator(
                tf.random.stateless_normal([8, 3], steps.stream_seed(4, steps.LATENT, model.step.value, replica, 2))
            )
            for replica in range(2)
        ]
        fake_logits = model.discriminator(tf.concat(fake, 0)).numpy()
        real_logits = model.discriminator(REAL[:16]).numpy()
        expected = np.mean(np.logaddexp(0, -real_logits)) + np.mean(np.logaddexp(0, fake_logits))
        np.testing.assert_allclose(figures["generator_loss"], np.mean(np.logaddexp(0, -fake_logits)), rtol=1e-5)
        np.testing.assert_allclose(figures["discriminator_loss"], expected, rtol=1e-5)

    def test_after_another_compile_it_is_of_the_layers_of_now(self, strategy):
        model = build(strategy, generator=[L.BatchNormalization()])
        model.evaluate(batches(), verbose=0)
        model.generator.layers[1].trainable = False
        with pytest.raises(UsageError, match="has changed since compile"):
            model.evaluate(batches(), verbose=0)
        model.compile(model.optimizer_config, model.compression_config)
        first = model.evaluate(batches(), verbose=0)
        train(model, epochs=1)
        assert model.evaluate(batches(), verbose=0) != first


class TestFreezing:
    def test_samples_are_of_the_layers_of_now(self, strategy):
        """Two layers of one shape, frozen in turn: an old trace would exchange their values."""
        model = build(strategy, generator=[L.Dense(6, "tanh"), L.Dense(6, "tanh")])
        for frozen in ([], [1], [2], [1, 2], []):
            for index in (1, 2):
                model.generator.layers[index].trainable = index not in frozen
            expected = model.generator(LATENT).numpy()
            np.testing.assert_allclose(model.generate(LATENT, use_ema=False), expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.slow
    def test_takes_effect_at_compile(self, strategy, tmp_path):
        """Three replicas: the mean of three equal values is not always that value."""
        model = build(local_strategy(3), generator=[L.BatchNormalization()])
        train(model, epochs=1)
        bytes_before = model.channel.dense_bytes
        frozen = [model.generator.layers[0], model.generator.layers[1]]  # a kernel, and statistics
        for layer in frozen:
            layer.trainable = False
        with pytest.raises(UsageError, match="has changed since compile, .* 6 weights were trainable then, 2 are now"):
            model.train_on_batch(REAL[:15])
        model.compile(model.optimizer_config, model.compression_config)
        assert bytes_before - model.channel.dense_bytes == 4 * sum(np.size(w) for w in frozen[0].get_weights()) + 4 * 12
        before = [layer.get_weights() for layer in model.generator.layers]
        drawn = model.generate(LATENT).numpy()
        train(model, epochs=3)
        for layer, old in zip(model.generator.layers, before, strict=True):
            same = [np.array_equal(a, b) for a, b in zip(layer.get_weights(), old, strict=True)]
            assert same == [layer in frozen] * len(same)
        assert not np.array_equal(model.generate(LATENT), drawn)
        drawn = model.generate(LATENT)
        model.save_weights(tmp_path / "x.weights.h5")
        train(model, epochs=1)
        model.load_weights(tmp_path / "x.weights.h5")
        assert np.array_equal(model.generate(LATENT), drawn)
        for layer in frozen:
            layer.trainable = True
        model.compile(model.optimizer_config, model.compression_config)
        assert model.channel.dense_bytes == bytes_before
        train(model, epochs=1)
        assert not np.array_equal(frozen[0].get_weights()[0], before[0][0])

    def test_a_whole_network(self, strategy):
        model = build(strategy, compiled=False)
        model.discriminator.trainable = False
        with pytest.raises(UsageError, match="The discriminator has no trainable weight"):
            model.compile()

    @pytest.mark.slow
    def test_a_second_model_after_clear_session(self, strategy):
        """Keras then numbers layers and models from the beginning."""
        keras.backend.clear_session()
        model = build(strategy)
        first = train(model).history["generator_loss"]
        keras.backend.clear_session()
        other = build(strategy)
        assert other.name == model.name and train(other).history["generator_loss"] == first


class TestLearningRates:
    def optimizers(self, schedules=None, **config):
        return Optimizers(OptimizerConfig(**config), schedules, ["CPU:0", "CPU:0"], keras.Variable(3, dtype="int64"))

    def test_both_are_read_and_set(self):
        both = self.optimizers(learning_rate_g=0.5, learning_rate_d=0.25)
        assert [optimizer.learning_rate for optimizer in both.optimizers] == [0.5, 0.25]
        with pytest.raises(UsageError, match="different learning rates: .* They are 0.5 and 0.25"):
            float(both.learning_rate)
        both.learning_rate = 0.125
        assert both.learning_rate == both.generator.learning_rate == both.discriminator.learning_rate == 0.125
        both.generator.learning_rate = np.float32(2.0)
        assert [float(o.rate(tf.constant(7))) for o in both.optimizers] == [2.0, 0.125]
        for value in (0.0, float("nan"), -1.0):
            with pytest.raises(UsageError, match="`learning_rate_d` must be a number above 0. Received"):
                both.discriminator.learning_rate = value

    def test_schedules_of_keras(self):
        """Step 3 has the rate of 2 steps done: (1 - 2/4) of 0.5."""
        decay = keras.optimizers.schedules.PolynomialDecay(0.5, 4, end_learning_rate=0.0)
        both = self.optimizers(decay)
        assert both.learning_rate == 0.25 and float(both.generator.rate(tf.constant(1))) == 0.5
        with pytest.raises(UsageError, match="is a Keras schedule and cannot be set: .* omit the callback"):
            both.learning_rate = 0.1
        again = self.optimizers(both.serialized)
        assert again.learning_rate == 0.25

    @pytest.mark.parametrize(
        ("schedules", "config", "message"),
        [
            (0.1, {}, "must be a keras.optimizers.schedules.LearningRateSchedule"),
            ([keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)] * 3, {}, "or a pair"),
            (keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5), {"warmup_steps": 3}, "leave warmup_steps"),
            (
                keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5),
                {"learning_rate_d": 3.0},
                "leave learning_rate_d",
            ),
        ],
    )
    def test_refused(self, schedules, config, message):
        with pytest.raises(UsageError, match=message):
            self.optimizers(schedules, **config)

    @pytest.mark.slow
    def test_callbacks(self, strategy, tmp_path, capsys):
        """Halved from epoch to epoch; after a plateau; and the file holds the rate. As with a schedule of Keras."""
        callbacks = [
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.5 * rate if epoch else rate),
            keras.callbacks.TensorBoard(tmp_path),
            keras.callbacks.EarlyStopping("val_generator_loss", patience=9, mode="min"),
        ]
        model = build(strategy)
        data = batches()
        history = model.fit(data, epochs=3, validation_data=data, callbacks=callbacks, shuffle=False, verbose=1).history
        assert history["learning_rate/generator"] == history["learning_rate_discriminator"]
        np.testing.assert_allclose(history["learning_rate_generator"], [1e-2, 5e-3, 2.5e-3], rtol=1e-6)
        other = build(strategy, compiled=False)
        steps_ = keras.optimizers.schedules.PiecewiseConstantDecay([3, 7], [1e-2, 5e-3, 2.5e-3])  # 4 steps an epoch
        other.compile(OptimizerConfig(), model.compression_config, learning_rates=steps_)
        train(other, epochs=3)
        assert np.array_equal(weights(model), weights(other))
        shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
        lines = [part.strip("\b") for part in re.split(r"[\r\n]", shown) if "loss G" in part]
        ends = [line for line in lines if "val" in line]
        assert len(ends) == 3 and all(
            re.search(r"loss D: \S+ - val loss G: \S+ - val loss D: \S+ *$", end) for end in ends
        )
        assert len(lines) > 3 and all(len(line) < 80 for line in lines if "val" not in line)

        model.save_weights(tmp_path / "x.weights.h5")
        loaded = build(strategy)
        loaded.load_weights(tmp_path / "x.weights.h5")
        assert loaded.optimizer.generator.learning_rate == model.optimizer.generator.learning_rate
        plateau = keras.callbacks.ReduceLROnPlateau("wire_bytes", factor=0.1, patience=1, mode="min")
        history = loaded.fit(data, epochs=2, callbacks=[plateau], shuffle=False, verbose=0).history
        np.testing.assert_allclose(loaded.optimizer.learning_rate, 2.5e-4, rtol=1e-6)

    @pytest.mark.slow
    def test_a_schedule_is_saved(self, strategy, tmp_path):
        model = build(strategy, compiled=False)
        model.compile(learning_rates=keras.optimizers.schedules.ExponentialDecay(1e-2, 10, 0.5))
        train(model)
        model.save(tmp_path / "x.keras")
        with strategy.scope():
            other = keras.saving.load_model(tmp_path / "x.keras")
        assert other.optimizer.learning_rate == model.optimizer.learning_rate < 1e-2


class TestWarmStart:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["x.weights.h5", "x.keras"])
    def test_networks_and_average_alone(self, strategy, trained, tmp_path, name):
        model = trained
        (model.save_weights if "weights" in name else model.save)(tmp_path / name)
        other = build(strategy)
        other.warm_start(tmp_path / name)
        for use_ema in (True, False):
            drawn = model.generate(LATENT, use_ema=use_ema)
            assert np.array_equal(other.generate(LATENT, use_ema=use_ema), drawn)
        assert not int(other.step.numpy())
        state = [v for replica in range(2) for v in other.replica_values(replica).values()]
        assert state and not any(np.any(value) for value in state)
        # w_ema <- d w_ema + (1 - d) w from the first step on, with d = ema_decay = 0.999
        averages = other.shared_values()["ema/generator/000_kernel"].numpy()
        other.train_on_batch(REAL[:16])
        raw = other.generator.trainable_variables[0].value.values[0].numpy()
        expected = 0.999 * averages + 0.001 * raw
        np.testing.assert_allclose(other.shared_values()["ema/generator/000_kernel"], expected, rtol=1e-6, atol=1e-7)
        with pytest.raises(UsageError, match="comes before the first step. Received: a model after 1 steps"):
            other.warm_start(tmp_path / name)

    @pytest.mark.slow
    def test_extragradient_starts_from_the_loaded_weights(self, tmp_path):
        """Its anchors are copies of the weights: two steps are those of a model that was given the weights."""
        strategy, models = local_strategy(1), []
        donor = build(strategy)
        train(donor)
        donor.save_weights(tmp_path / "x.weights.h5")
        for load in (lambda m: m.warm_start(tmp_path / "x.weights.h5"), lambda m: m.set_weights(donor.get_weights())):
            model = build(strategy, compiled=False)
            model.compile(
                OptimizerConfig(direction="sgd", step_rule="extragradient", exchange="gradient", half_step=False),
                CompressionConfig(compressor="none", error_feedback=False),
            )
            load(model)
            model.step.assign(0)
            train(model, REAL[:32], epochs=1)
            models.append(weights(model.generator))
        np.testing.assert_allclose(*models, rtol=1e-6)

    @pytest.mark.parametrize(
        ("layers", "message"),
        [
            ({"generator": [L.Dense(2)]}, "this model has no|it has no"),
            ({"discriminator": [L.Dense(2)]}, "it has 8 variables, and this model has 10"),
            ({"units": 7}, "of other networks than this model: "),
        ],
    )
    def test_other_networks(self, strategy, tmp_path, layers, message):
        units = layers.pop("units", None)
        build(strategy, compiled=False).save_weights(tmp_path / "x.weights.h5")
        model = build(strategy, compiled=False, **layers)
        if units:
            with strategy.scope():
                generator, discriminator = players()
                wide = keras.Sequential([keras.Input([2]), L.Dense(units), L.Dense(1)])
                model = DQGAN(generator, wide)
        with pytest.raises(UsageError, match=message):
            model.warm_start(tmp_path / "x.weights.h5")

    def test_other_files(self, strategy, tmp_path):
        model = build(strategy, compiled=False)
        model.generator.save_weights(tmp_path / "g.weights.h5")
        (tmp_path / "x.keras").write_text("no archive")
        for name, message in {
            "g.weights.h5": "was not written by DQGAN.save_weights",
            "x.keras": "cannot be read",
            "none.weights.h5": "cannot be read",
            "x.npz": "takes a file X.weights.h5 or X.keras",
        }.items():
            with pytest.raises(UsageError, match=message):
                model.warm_start(tmp_path / name)


class TestLabels:
    LABELS = np.arange(64, dtype=np.int64) % 4

    def build(self, strategy):
        with strategy.scope():
            made = networks.build(NetworkConfig(width=8, latent_dim=3), (2,), 3, num_classes=4)
            model = DQGAN(made.generator, made.discriminator, loss="hinge", seed=4)
        model.compile(OptimizerConfig(learning_rate_g=1e-2), CompressionConfig("sign:bucket=32"))
        return model

    def test_losses_are_those_of_labelled_samples(self):
        """Against the networks called by Keras, with the latents of the stream; R1 is left out by its own figure."""
        model = self.build(local_strategy(1))
        # Labels may have any numeric type.
        x, y = tf.constant(REAL[:16]), tf.constant(self.LABELS[:16], tf.float32)
        loss_g, loss_d = model.test_on_batch(x, y)
        seed = steps.stream_seed(4, steps.LATENT, tf.constant(0), tf.constant(0), 1)
        fake = model.generator([tf.random.stateless_normal([16, 3], seed), y])
        logits = [np.ravel(model.discriminator([values, y])) for values in (x, fake)]
        assert loss_g == pytest.approx(-np.mean(logits[1]), rel=1e-4)
        hinge = np.mean(np.maximum(0, 1 - logits[0])) + np.mean(np.maximum(0, 1 + logits[1]))
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = model.discriminator([x, y])
        penalty = 0.05 * np.mean(np.sum(np.square(tape.gradient(value, x)), 1))
        assert loss_d == pytest.approx(hinge + penalty, rel=1e-4)
        with pytest.raises(UsageError, match=r"needs labels: generate\(latent, labels\)"):
            model.generate(LATENT)
        with pytest.raises(UsageError, match=r"must be \(samples, labels\), or a dict .* Received: "):
            model.test_on_batch(x)
        for label in (4.0, 1.5, np.nan, np.inf):
            strange = tf.tensor_scatter_nd_update(y, [[3]], [tf.constant(label, y.dtype)])
            with pytest.raises(UsageError, match=f"from 0 to 3: an Embedding .* Received: label {label:g}$"):
                model.test_on_batch(x, strange)
            with pytest.raises(UsageError, match=f"Received: label {label:g}$"):
                model.generate(LATENT, np.full(32, label))
        with pytest.raises(UsageError, match="Received: label -1"):
            model.generate(LATENT, np.full(32, -1))
        with pytest.raises(UsageError, match="Received: label .*a"):
            model.generate(LATENT, ["a"] * 32)
        for labels in (2, np.zeros(3)):
            with pytest.raises(UsageError, match="one for each of 32 latents. Received: shape"):
                model.generate(LATENT, labels)
        with pytest.raises(UsageError, match="no use for `sample_weight`: pass samples and labels"):
            model.evaluate(x, y, sample_weight=y)

    @pytest.mark.slow
    @pytest.mark.parametrize("local_steps", [1, 2])
    def test_a_label_out_of_range_moves_nothing_and_is_said(self, strategy, local_steps):
        """The second replica alone sees it, in the second step."""
        model = self.build(strategy)
        model.compile(OptimizerConfig(), CompressionConfig("sign:bucket=32", local_steps=local_steps))
        labels = self.LABELS.copy()
        labels[30] = 7
        with pytest.raises(UsageError, match="Received: label 7"):
            model.fit(REAL[:32], labels[:32], batch_size=16, shuffle=False, verbose=0)
        assert [int(v.numpy()) for v in (model.step, model.skipped)] == [2, local_steps]
        before = weights(model)
        model.fit(REAL, self.LABELS, batch_size=16, shuffle=False, verbose=0)
        assert np.all(np.isfinite(weights(model))) and not np.array_equal(before, weights(model))
        assert int(model.skipped.numpy()) == local_steps

    @pytest.mark.slow
    def test_fit_generate_and_files(self, strategy, tmp_path):
        model, other = self.build(strategy), self.build(strategy)
        history = model.fit(REAL, self.LABELS, batch_size=16, epochs=2, shuffle=False, verbose=0).history
        named = {"image": REAL, "label": self.LABELS}
        again = train(other, named).history
        assert history["generator_loss"] == again["generator_loss"] and np.array_equal(weights(model), weights(other))
        drawn = [model.generate(LATENT, np.full(32, label)) for label in range(4)]
        assert all(np.abs(drawn[0] - values).max() > 1e-3 for values in drawn[1:])
        model.save(tmp_path / "x.keras")
        with strategy.scope():
            loaded = keras.saving.load_model(tmp_path / "x.keras")
        assert np.array_equal(loaded.generate(LATENT, np.full(32, 2)), drawn[2])
        averaged = model.averaged_generator()
        np.testing.assert_allclose(averaged([LATENT, np.full(32, 2)]), drawn[2], rtol=1e-5, atol=1e-6)
        # A last batch of one sample: a replica without samples and labels skips the step with all others.
        model.train_on_batch(REAL[:1], self.LABELS[:1])
        assert int(model.skipped.numpy()) == 1

    @pytest.mark.slow
    def test_each_class_is_learned(self):
        """Four points, one a class: the mean of the samples of each class comes near its point."""
        points = np.array([[1, 1], [-1, 1], [1, -1], [-1, -1]], np.float32)
        strategy = local_strategy(1)
        model = self.build(strategy)
        model.compile(OptimizerConfig(learning_rate_g=5e-3, learning_rate_d=5e-3), CompressionConfig())
        x = points[self.LABELS] + np.random.default_rng(0).normal(0, 0.05, (64, 2)).astype(np.float32)
        data = tf.data.Dataset.from_tensors((x, self.LABELS)).repeat()
        model.train_steps(iter(strategy.distribute_datasets_from_function(lambda _: data)), 600)
        for label in range(4):
            mean = np.mean(model.generate(LATENT, np.full(32, label)), 0)
            assert np.linalg.norm(mean - points[label]) < 0.5, (label, mean)


class TestRangeOfSamples:
    @pytest.mark.slow
    def test_is_looked_at_once_on_all_replicas(self, strategy, caplog):
        model = build(strategy, activation="tanh")
        values = np.abs(REAL[:32])
        values[15] = 200.0  # on the second replica alone
        with pytest.raises(
            UsageError, match=r"draws values in \[-1, 1\], but the first batch has values from .* to 200"
        ):
            train(model, values)
        with caplog.at_level("WARNING"):
            train(build(strategy, activation="tanh"), np.abs(REAL[:32]))
        assert caplog.text.count("none of them negative") == 1
        train(build(strategy), 100.0 * REAL[:32])  # a linear end draws anything


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
            ((REAL, np.zeros(64), np.ones(64)), "no use for sample weights: .* Received: a batch of 3 parts"),
            # Keras' networks drop a last dimension of 1, so both networks would take it.
            (REAL[..., None], r"that the generator draws, \[batch, 2\]; .* Received: \[batch, 2, 1\]"),
        ],
    )
    def test_refused_forms(self, strategy, values, message):
        with pytest.raises(UsageError, match=message):
            train(build(strategy), values)

    def test_a_shape_that_is_known_at_run_time_only(self):
        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 1])])
        def checked(real):
            return inputs.of_shape(real, tf.TensorShape([8, 8, 1]))

        assert checked(tf.zeros([4, 8, 8, 1])).shape == [4, 8, 8, 1]
        with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with expected shape"):
            checked(tf.zeros([4, 9, 9, 1]))
        samples = tf.function(inputs.real_samples, input_signature=[tf.TensorSpec(None)], autograph=False)
        with pytest.raises(UsageError, match="must say how many dimensions its batches have"):
            samples.get_concrete_function()

    def test_arguments_without_effect(self, trained):
        labels = np.zeros(64)
        for call in (
            lambda: trained.evaluate(REAL, labels),
            lambda: trained.evaluate(REAL, sample_weight=labels),
            lambda: trained.fit(REAL, validation_data=(REAL, labels)),
            lambda: trained.fit(REAL, validation_data=(REAL, None, labels)),
        ):
            with pytest.raises(UsageError, match="DQGAN has no use for `(y|sample_weight)`: pass real samples alone"):
                call()

    def test_an_average_of_keras_and_copies_outside_of_the_scope(self, trained):
        with pytest.raises(UsageError, match="keeps the average itself .ema_decay.: generate, averaged_generator"):
            trained.fit(REAL, callbacks=[keras.callbacks.SwapEMAWeights()], verbose=0)
        with pytest.raises(UsageError, match="created, loaded or copied in the scope.*with strategy.scope"):
            copy.deepcopy(trained)

    def test_latents(self, trained):
        drawn = trained.generate(LATENT)
        assert np.array_equal(trained.generate(LATENT.tolist()), drawn)
        assert trained.generate(np.ones((4, 3), int)).shape == [4, 2]
        for values, received in (
            (np.ones((4, 5)), r"shape \(4, 5\)"),
            (np.ones(3), r"shape \(3,\)"),
            (np.ones((2, 2, 3)), r"shape \(2, 2, 3\)"),
            (5, r"shape \(\)"),
            ("a", "'a'"),
            (None, "None"),
        ):
            with pytest.raises(UsageError, match=rf"`latent` must be numbers \[batch, 3\], .* Received: {received}"):
                trained.generate(values)

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
            for method in (model.train_on_batch, model.fit):
                with pytest.raises(UsageError, match="DQGAN has no use for"):
                    method(REAL[:16], **refused)
        with pytest.raises(UsageError, match="has no labels: generate"):
            model.generate(LATENT, np.zeros(32))


class TestFigures:
    @pytest.mark.slow
    def test_an_epoch_without_a_step_is_nan(self, strategy):
        model = build(strategy, settings={"max_skipped_in_row": 0})
        history = train(model, np.full_like(REAL, np.nan), epochs=1).history
        assert np.all(np.isnan(history["generator_loss"])) and history["skipped"] == [4]

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
