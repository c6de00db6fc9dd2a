"""Keras' `fit` and `evaluate` for a model that has its own training loop, and the optimizers that callbacks see."""

import contextlib
import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dqgan_tf import config as config_lib
from dqgan_tf.config import OptimizerConfig
from dqgan_tf.distribute import loop
from dqgan_tf.distribute.replica_local import ReplicaLocal, local_replica_index
from dqgan_tf.errors import TrainingError, UsageError
from dqgan_tf.gan import inputs
from dqgan_tf.gan.player import PLAYERS
from dqgan_tf.gan.state import check_file
from dqgan_tf.private_keras import LoopModel

_Schedule = keras.optimizers.schedules.LearningRateSchedule


class KerasFit(LoopModel):
    """Implements Keras' `fit` and `evaluate` for `DQGAN`, the only subclass."""

    def fit(self, x=None, y=None, batch_size=None, epochs=1, verbose="auto", callbacks=None, **arguments):
        """As `keras.Model.fit`; `y` are labels of a conditional GAN. The progress bar shows the losses, skipped steps
        and what callbacks monitor."""
        self._refuse(y=y, **{name: arguments.get(name) for name in ("sample_weight", "class_weight")})
        _, y_of_validation, weights = keras.utils.unpack_x_y_sample_weight(arguments.get("validation_data"))
        self._refuse(y=y_of_validation, sample_weight=weights)
        for callback in tf.nest.flatten(getattr(callbacks, "callbacks", callbacks)):
            if isinstance(callback, keras.callbacks.ModelCheckpoint) and not callback.save_weights_only:
                check_file(callback.filepath)
            if isinstance(callback, keras.callbacks.SwapEMAWeights):
                raise UsageError(
                    "SwapEMAWeights has no use for a DQGAN, which keeps the average itself (ema_decay): generate, "
                    "averaged_generator and export take it. Received: a callback SwapEMAWeights"
                )
        if verbose in ("auto", 1) and not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = list(tf.nest.flatten(callbacks)) if callbacks else []
            if not any(isinstance(callback, keras.callbacks.ProgbarLogger) for callback in callbacks):
                callbacks.append(_Progress([getattr(callback, "monitor", None) for callback in callbacks]))
        return super().fit(x, y, batch_size, epochs, verbose, callbacks, **arguments)

    def evaluate(self, x=None, y=None, batch_size=None, verbose="auto", sample_weight=None, **arguments):
        """As `keras.Model.evaluate`: layers do not train. `y` are labels of a conditional GAN."""
        self._refuse(y=y, sample_weight=sample_weight)
        return super().evaluate(x, y, batch_size, verbose, **arguments)

    def train_on(self, iterator):
        skipped, before = int(self.skipped.numpy()), int(self.step.numpy())
        if not self.train_steps(iterator, self.steps_per_execution):
            raise StopIteration
        self._check_skipped_in_row()
        if self._first_trained is None:
            self._first_trained = before + 1
        self._trained = self._trained + self._drained()
        self._skipped_in_epoch += int(self.skipped.numpy()) - skipped
        steps = range(self._first_trained, int(self.step.numpy()) + 1)
        return _with_sum(self.figures(self._trained, steps) | {"skipped": self._skipped_in_epoch})

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """Takes a step on this worker's batch; `y` are labels of a conditional GAN.

        Returns:
          [generator_loss, discriminator_loss], or a dict of all figures.
        """
        self._refuse(y=y, sample_weight=sample_weight, class_weight=class_weight)
        if (local_steps := self.compression_config.local_steps) > 1:
            raise UsageError(
                "train_on_batch takes one step, but an exchange ends several: call fit, or compile with local_steps=1. "
                f"Received: local_steps={local_steps}"
            )
        self.reset_metrics()
        return _losses(self.train_on(self._iterator_of(x, y)), return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """As `train_on_batch`, without a change of the weights."""
        self._refuse(y=y, sample_weight=sample_weight)
        self.reset_metrics()
        return _losses(self.test_on(self._iterator_of(x, y)), return_dict)

    def _refuse(self, *, y, **others):
        """Raises UsageError for arguments that have no effect, and see `check_compiled`."""
        self.check_compiled()
        if self.is_conditional:
            needed, refused = "samples and labels", others
        else:
            needed, refused = "real samples alone", {"y": y} | others
        for name, value in refused.items():
            if value is not None:
                raise UsageError(f"DQGAN has no use for `{name}`: pass {needed}. Received: {name}={value!r}")

    def check_compiled(self) -> None:
        """Raises UsageError before `compile`, or if an attribute that takes effect there was changed later."""
        if self.channel is None:
            raise UsageError(
                "The DQGAN is not compiled: call gan.compile(dqgan_tf.OptimizerConfig(), "
                "dqgan_tf.CompressionConfig()) first."
            )
        if self.run_eagerly or self.jit_compile:
            raise UsageError(
                "DQGAN compiles its steps itself, those parts by XLA that it can: set run_eagerly and jit_compile to "
                f"False. Received: run_eagerly={self.run_eagerly}, jit_compile={self.jit_compile}"
            )
        if not isinstance(self.optimizer, Optimizers):
            raise UsageError(
                "DQGAN has an update rule of its own: gan.compile(dqgan_tf.OptimizerConfig(...)) chooses it. Received: "
                f"gan.optimizer={self.optimizer!r}"
            )
        for player in self._players:
            if player.network is not getattr(self, player.name):
                raise UsageError(
                    f"A DQGAN keeps its networks: make a new one, or call gan.{player.name}.set_weights(...). "
                    f"Received: another {player.name}, {getattr(self, player.name)!r}"
                )
        check_steps_per_execution(self.steps_per_execution, self.compression_config.local_steps)

    def _iterator_of(self, x, y):
        batch = tf.data.Dataset.from_tensors(x if y is None else (x, y)).get_single_element()
        parts, size = len(self._strategy.local_devices), len(tf.nest.flatten(batch)[0])

        def part(index):
            first, last = size * index // parts, size * (index + 1) // parts
            return tf.nest.map_structure(lambda tensor: tensor[first:last], batch)

        if parts > 1 or self._strategy.num_workers > 1:
            # Of unknown length: a batch of another length would make one worker trace anew, and its collectives alone.
            dataset = tf.data.Dataset.range(parts).map(part)
        else:
            dataset = tf.data.Dataset.from_tensors(batch)
        return iter(self._strategy.distribute_datasets_from_function(lambda _: dataset))

    def _check_skipped_in_row(self):
        in_row = int(self.skipped_in_row.numpy())
        if self.max_skipped_in_row and in_row >= self.max_skipped_in_row:
            compression = self.compression_config
            noun = "steps" if compression.local_steps == 1 else "exchanges"
            shift = f"shift={compression.shift:g} or " if compression.shift else ""
            raise TrainingError(
                f"The last {in_row} {noun} up to step {int(self.step.numpy())} were skipped, because an update was not "
                f"finite on some replica. Lower {shift}the learning rates, or raise max_skipped_in_row of `compile`."
            )

    def test_on(self, iterator):
        for player in self._players:
            player.check_trainable()
        done, total = self._sum_losses_compiled(iterator, tf.constant(self.steps_per_execution))
        if not int(done):
            raise StopIteration
        self._evaluated += total.numpy()
        if self._num_labels and np.any(np.isnan(self._evaluated)):
            self._batch_checks.check_labels()
        generator_loss, discriminator_loss, samples = self._evaluated
        return _with_sum(
            {"generator_loss": generator_loss / samples, "discriminator_loss": discriminator_loss / samples}
        )

    def reset_metrics(self):
        super().reset_metrics()
        self._evaluated = np.zeros(3)
        self._trained, self._first_trained, self._skipped_in_epoch = 0.0, None, 0

    def _sum_losses(self, iterator, num_steps):
        def step(batch, total):
            return total + self._first_local(self._strategy.run(self._replica_losses, args=(batch,)))

        return loop.fold(step, iterator, num_steps, tf.zeros([3]))

    def _replica_losses(self, data):
        samples = tf.cast(tf.shape(inputs.real_samples(data))[0], tf.float32)
        real, labels = self._samples_and_labels(data)
        weights = tuple([v.value for v in p.network.trainable_variables] for p in self._players)
        at_point = self._gradients_at(weights, real, self.step.value, labels, training=False)
        sums = tf.stack([at_point.generator_loss, at_point.discriminator_loss, 1.0]) * samples
        sums = tf.where(samples > 0, sums, tf.zeros_like(sums))
        return tf.distribute.get_replica_context().all_reduce("sum", sums)


def check_steps_per_execution(value: Any, local_steps: int) -> int:
    """Returns a number of steps as an int, or raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1 or value % local_steps:
        raise UsageError(
            "A call of `fit` takes steps and ends with an exchange, so steps_per_execution must be a multiple of "
            f"local_steps, such as {local_steps}. Received: steps_per_execution={value!r}, local_steps={local_steps}"
        )
    return int(value)


class PlayerOptimizer:
    """The learning rate of one player, as callbacks of Keras read and set it: `gan.optimizer.generator`.

    Args:
      name: one of `PLAYERS`.
      base: the rate, or a Keras schedule of it.
      devices: the local replicas' devices.
      step: counter of the steps.
    """

    def __init__(self, name: str, base: Any, devices: Sequence[str], step: keras.Variable):
        self.name, self._step = name, step
        self._schedule = base if isinstance(base, _Schedule) else None
        if self._schedule is None:
            self._base, self._rate = base, ReplicaLocal(devices, [], f"{name}_learning_rate")
            self.learning_rate = base

    @property
    def learning_rate(self) -> float:
        """The rate before warm-up and decay of `OptimizerConfig`; of a Keras schedule, that of the last step."""
        if self._schedule is not None:
            return float(self.rate(tf.constant(max(int(self._step.numpy()), 1))))
        return float(self._rate.variables[0].numpy())

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        if self._schedule is not None:
            raise UsageError(
                f"The learning rate of the {self.name} is a Keras schedule and cannot be set: give compile no "
                f"schedule, or omit the callback. Received: learning_rate={value}"
            )
        with contextlib.suppress(TypeError, ValueError):  # a tensor, for example
            value = float(value)
        checked = config_lib.check_setting(f"optimizer.learning_rate_{self.name[0]}", value)
        for variable in self._rate.variables:
            variable.assign(checked)

    @property
    def changed_rate(self) -> np.float32 | None:
        """The rate, float32 scalar, if it was set after `compile`; else None."""
        if self._schedule is not None or np.float32(self._base) == np.float32(self.learning_rate):
            return None
        return np.float32(self.learning_rate)

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate of step t, from 1, before warm-up and decay: float32 scalar. In any context."""
        if self._schedule is not None:
            return tf.cast(self._schedule(tf.cast(step, tf.int64) - 1), tf.float32)
        in_replica = tf.distribute.get_replica_context() is not None and not tf.executing_eagerly()
        return self._rate.variables[local_replica_index() if in_replica else 0].read_value()


class Optimizers:
    """`gan.optimizer`: the learning rates of both players, in the form in which Keras' callbacks look for them.

    `LearningRateScheduler` and `ReduceLROnPlateau` set the rate of each of `optimizers` from its own old rate.

    Args:
      config: its rates apply unless there are schedules.
      schedules: a Keras schedule, a pair of them, the `serialized` of another object, or None.
      devices, step: see `PlayerOptimizer`.

    Attributes:
      generator, discriminator: a `PlayerOptimizer` each.
      serialized: the schedules in the form of `keras.saving.serialize_keras_object`, or None.

    Raises:
      UsageError: schedules of another kind, or rates given twice.
    """

    built = True

    def __init__(self, config: OptimizerConfig, schedules: Any, devices: Sequence[str], step: keras.Variable):
        rates: list[Any] = [config.learning_rate_g, config.learning_rate_d]
        self.serialized = None
        if schedules is not None:
            rates = self._check(config, schedules)
            self.serialized = [keras.saving.serialize_keras_object(schedule) for schedule in rates]
        self.optimizers = [PlayerOptimizer(*pair, devices, step) for pair in zip(PLAYERS, rates, strict=True)]
        self.generator, self.discriminator = self.optimizers
        self.iterations = step
        self.variables: list[keras.Variable] = []

    @staticmethod
    def _check(config, schedules):
        rates = list(schedules) if isinstance(schedules, (list, tuple)) else [schedules, schedules]
        rates = [keras.saving.deserialize_keras_object(r) if isinstance(r, dict) else r for r in rates]
        if len(rates) != 2 or not all(isinstance(rate, _Schedule) for rate in rates):
            raise UsageError(
                "`learning_rates` must be a keras.optimizers.schedules.LearningRateSchedule, such as "
                "CosineDecay(1e-3, 10000), or a pair (generator's, discriminator's). Constant rates are "
                f"learning_rate_g and learning_rate_d of OptimizerConfig. Received: learning_rates={schedules!r}"
            )
        for name in ("learning_rate_g", "learning_rate_d", "learning_rate_schedule", "warmup_steps"):
            if getattr(config, name) != getattr(OptimizerConfig, name):
                raise UsageError(
                    f"`learning_rates` gives the rate of every step: leave {name} of OptimizerConfig at its default. "
                    f"Received: {name}={getattr(config, name)}"
                )
        return rates

    @property
    def learning_rate(self) -> float:
        """The rate of both players; setting it sets both.

        Raises:
          UsageError: the players have different rates.
        """
        rates = [optimizer.learning_rate for optimizer in self.optimizers]
        if rates[0] != rates[1]:
            raise UsageError(
                "The players have different learning rates: read gan.optimizer.generator.learning_rate or "
                f"gan.optimizer.discriminator.learning_rate. They are {rates[0]} and {rates[1]}"
            )
        return rates[0]

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for optimizer in self.optimizers:
            optimizer.learning_rate = value


class _Progress(keras.callbacks.ProgbarLogger):
    """The progress bar of Keras with few figures, so that it stays on one line of 80 characters.

    Args:
      watched: names of figures that callbacks monitor, or None.
    """

    def __init__(self, watched: Sequence[str | None]):
        super().__init__()
        self._watched = [name for name in watched if name]

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, self._shown(logs))

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, self._shown(logs))

    def _shown(self, logs):
        logs = logs or {}
        names = {f"{val}{p}_loss": f"{val[:-1]} loss {p[0].upper()}".lstrip() for val in ("", "val_") for p in PLAYERS}
        shown = {short: logs[name] for name, short in names.items() if name in logs}
        if logs.get("skipped"):
            shown["skipped"] = logs["skipped"]
        return shown | {name: logs[name] for name in self._watched if name in logs and name not in names}


def _with_sum(figures):
    """Adds `loss`, the sum of both losses, which `TerminateOnNaN` and the progress bar look for."""
    return {"loss": figures["generator_loss"] + figures["discriminator_loss"]} | figures


def _losses(figures, return_dict):
    return figures if return_dict else [figures["generator_loss"], figures["discriminator_loss"]]
