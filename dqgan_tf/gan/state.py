"""What is saved of a `DQGAN`: its state by name for checkpoints, and the files of Keras, with warm starts from them."""

import dataclasses
import functools
import io
import os
import weakref
import zipfile
from collections.abc import Mapping
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from absl import logging

from dqgan_tf.config import CompressionConfig, LossConfig, OptimizerConfig
from dqgan_tf.distribute.replica_local import first_local_value, merge_replicas
from dqgan_tf.errors import UsageError
from dqgan_tf.gan.player import PLAYERS
from dqgan_tf.tensorflow_texts import first_line

_COUNTERS = ("step", "skipped", "skipped_in_row")


class SavedState:
    """The state of `DQGAN`, the only subclass, by name, and Keras' methods for saving and loading.

    Checkpoints of runs hold `shared_values` once and `replica_values` of every replica. Into files of Keras, Keras
    writes the variables of the networks by itself; `save_own_variables` adds the rest, with means over this worker's
    replicas.
    """

    def shared_values(self) -> dict[str, tf.Tensor]:
        """Returns the state that is equal on all replicas, by name: counters, networks, averaged generator. Eager."""
        values = {name: first_local_value(variable) for name, variable in self._shared_variables().items()}
        return values | {name: average.variables[0].read_value() for name, average in self._averaged.state().items()}

    def set_shared_values(self, values: Mapping[str, np.ndarray]) -> None:
        """Sets the values that `shared_values` returned, on all local replicas. Eager only."""
        for name, variable in self._shared_variables().items():
            variable.assign(values[name])
        for name, average in self._averaged.state().items():
            for variable in average.variables:
                variable.assign(values[name])

    def replica_values(self, replica: int) -> dict[str, tf.Tensor]:
        """Returns the state of one replica, by name. Eager only.

        It has residuals and their averages, shifts, moments, directions, learned levels, the last mean update
        (`look_ahead`) and the start of extragradient steps (`anchor`). Names contain those of weights and do not depend
        on the cuts into packets.

        Args:
          replica: index of the local replica.
        """
        states = [channel.state(replica) for channel in self._channels]
        values = {
            f"{kind}/{name}": value
            for kind in states[0]
            for name, value in zip(self._weight_names(), [v for state in states for v in state[kind]], strict=True)
            if value is not None
        }
        return values | {name: local.variables[replica].read_value() for name, local in self._replica_state().items()}

    def set_replica_values(self, replica: int, values: Mapping[str, np.ndarray]) -> None:
        """Sets the values that `replica_values` returned. Eager only."""
        names = iter(self._weight_names())
        for channel in self._channels:
            old = channel.state(replica)
            channel_names = [next(names) for _ in old["residual"]]
            channel.set_state(replica, {kind: [values.get(f"{kind}/{name}") for name in channel_names] for kind in old})
        for name, local in self._replica_state().items():
            local.variables[replica].assign(values[name])

    def _shared_variables(self):
        variables = {name: getattr(self, name) for name in _COUNTERS}
        for player in self._players:
            variables |= player.saved_names
        return variables

    def _replica_state(self):
        states = {f"learned/{name}": learned for channel in self._channels for name, learned in channel.learned.items()}
        states["calls"] = self._channels[-1].calls
        if self._generator_moves:
            states |= {"generator_calls": self._channels[0].calls, "generator_moves": self._generator_moves}
        for player in self._players:
            states |= player.state()
        return states | self._averaged.replica_state()

    def _weight_names(self):
        """Names in checkpoints of all trainable weights, in the order of the channel."""
        return [name for player in self._players for name in player.trainable_names]

    def get_config(self) -> dict:
        """Returns the arguments of the constructor, without the name, which a second model may not share.

        `keras.saving.load_model` needs the scope of a strategy.

        Raises:
          UsageError: the loss is a `losses.Loss`, which has no name.
        """
        loss = self._settings["loss"]
        if not isinstance(loss, LossConfig):
            raise UsageError(
                "A model with a loss of your own cannot be saved whole: call save_weights, or give a LossConfig. "
                f"Received: loss={loss}"
            )
        networks = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in PLAYERS}
        return networks | self._settings | {"loss": dataclasses.asdict(loss)}

    def game(self) -> dict[str, Any]:
        """Returns the loss and the decay of the average by name, of which checkpoints must be."""
        loss = self._settings["loss"]
        settings = dataclasses.asdict(loss) if isinstance(loss, LossConfig) else {"loss": loss.name}
        return {f"loss.{name}": value for name, value in settings.items()} | {"ema_decay": self._settings["ema_decay"]}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        networks = [keras.saving.deserialize_keras_object(config.pop(name), custom_objects) for name in PLAYERS]
        return cls(*networks, **config | {"loss": LossConfig(**config["loss"])})

    def get_compile_config(self) -> dict | None:
        """Returns the arguments of `compile`; None before it."""
        return None if self.channel is None else self._compiled

    def compile_from_config(self, config):
        optimizer, compression = OptimizerConfig(**config["optimizer"]), CompressionConfig(**config["compression"])
        self.compile(**config | {"optimizer": optimizer, "compression": compression})

    def get_weights(self) -> list:
        """As `keras.Model.get_weights`. The list also holds the averaged generator, for `set_weights` of this model."""
        averages = [average.variables[0].numpy() for average in self._averaged.state().values()]
        return _Weights(super().get_weights(), self, averages)

    def set_weights(self, weights) -> None:
        """As `keras.Model.set_weights`.

        The very list that `get_weights` of this model returned restores the averaged generator, too, as
        `EarlyStopping(restore_best_weights=True)` needs. From any other one the average starts anew. The counters stay,
        and with them schedules and random numbers, as `iterations` of an optimizer of Keras does.
        """
        counters = {name: int(getattr(self, name).numpy()) for name in _COUNTERS}
        super().set_weights(weights)
        for name, value in counters.items():
            getattr(self, name).assign(value)
        self.reset_copies()
        averages = list(self._averaged.state().values())
        if isinstance(weights, _Weights) and weights.model() is self and len(weights.averages) == len(averages):
            for average, value in zip(averages, weights.averages, strict=True):
                for variable in average.variables:
                    variable.assign(value)
        elif self.has_average:
            _warn_of_new_average("set_weights")

    def watch_networks(self) -> None:
        """Makes `set_weights` and `load_weights` of the generator start the average anew, with a warning.

        They are methods of the networks, which know no DQGAN. Weights of single layers are not watched.
        """
        for player in PLAYERS:
            network = getattr(self, player)
            for name in ("set_weights", "load_weights"):
                setattr(network, name, _watched(getattr(network, name), name, player, weakref.ref(self)))

    def weights_were_set(self, player: str, method: str) -> None:
        """Starts the copies of a player's weights anew after a method of its network."""
        if player == "discriminator":
            self.reset_anchors()
            return
        self.reset_copies()
        if self.has_average:
            _warn_of_new_average(method)

    def save(self, filepath, *arguments, **options) -> None:
        """As `keras.Model.save`, to X.keras.

        Raises:
          UsageError: X.h5, the old format of Keras, which has no place for the average.
        """
        check_file(filepath)
        super().save(filepath, *arguments, **options)

    def export(self, filepath, format="tf_saved_model", **options) -> None:
        """As `keras.Model.export`, of the averaged generator."""
        self.averaged_generator().export(filepath, format=format, **options)

    def quantize(self, *arguments, **options) -> None:
        """Raises UsageError: weights that are trained are float32."""
        del arguments, options
        raise UsageError(
            "A DQGAN trains float32 weights, and is not quantized: call quantize of gan.averaged_generator() after the "
            "training."
        )

    def warm_start(self, path: str | os.PathLike) -> None:
        """Loads the networks and the averaged generator of a file that `save_weights` or `save` of a DQGAN wrote.

        Counters, moments, directions and residuals start anew. The average continues with d = ema_decay from the first
        step, without a warm-up. Call it before the first step, on every worker, with one file.

        Args:
          path: X.weights.h5 or X.keras.

        Raises:
          UsageError: steps were taken; or the file cannot be read, was not written by DQGAN, or is of other networks.
        """
        if int(self.step.numpy()):
            steps = int(self.step.numpy())
            raise UsageError(f"A warm start comes before the first step. Received: a model after {steps} steps")
        own_values, num_variables = _contents(path)
        average = {f"ema/{name}" for name in self._players[0].trainable_names}
        saved = {name.replace(".", "/") for name in own_values if name.startswith("ema.")}
        if average != saved:
            name = sorted(average ^ saved)[0]
            where = "it has no" if name in average else "this model has no"
            raise UsageError(f"{path} is of other networks than this model: {where} {name}.")
        count = len(self.generator.variables) + len(self.discriminator.variables)
        if num_variables != count:
            raise UsageError(
                f"{path} is of other networks than this model: it has {num_variables} variables, and this model "
                f"has {count}."
            )
        self._loads_average_alone = True
        try:
            self.load_weights(path)
        except ValueError as error:
            raise UsageError(f"{path} is of other networks than this model: {first_line(error)}") from None
        finally:
            self._loads_average_alone = False
        self.set_warm()

    @property
    def has_average(self) -> bool:
        """Whether the average is that of some steps, or was loaded; before, weights may be set without it."""
        return self._averaged.is_warm or int(self.step.numpy()) > int(self.skipped.numpy())

    def set_warm(self) -> None:
        """Declares the averaged generator as loaded: see `warm_start`."""
        self._averaged.is_warm = True

    _loads_average_alone = False

    def save_own_variables(self, store) -> None:
        for name, value in self._own_values().items():
            store[name.replace("/", ".")] = value

    def load_own_variables(self, store) -> None:
        current, saved = self._own_values(), {name: store[name] for name in store.keys()}  # noqa: SIM118, a group of HDF5
        missing = sorted(set(_COUNTERS) - set(saved))
        if missing:
            raise UsageError(f"The file was not written by DQGAN.save_weights or .save: it has no {missing[0]!r}.")
        rates = {name: saved.pop(f"learning_rate.{name}", None) for name in PLAYERS}
        current = {name: value for name, value in current.items() if not name.startswith("learning_rate/")}
        values: dict[str, Any] = {name: saved.get(name.replace("/", ".")) for name in current}
        fits = all(value is not None and value.shape == current[name].shape for name, value in values.items())
        frozen = [name for name, value in values.items() if name.startswith("ema/") and value is None]
        if frozen:
            logging.warning(
                "The file has no average of %d weights, such as %s: they were frozen there. Call reset_ema() after "
                "loading to begin the average anew.",
                len(frozen),
                frozen[0],
            )
        for name, average in self._averaged.state().items():
            for variable in average.variables if name not in frozen else ():
                variable.assign(values[name])
        if self._loads_average_alone:
            return
        for name in _COUNTERS:
            getattr(self, name).assign(values[name])
        if not fits or len(saved) != len(current):
            logging.warning("The file's optimizer is another one: moments, directions and residuals are not loaded.")
            self.anchors_are_stale = True  # Keras loads the networks after this
        elif self.channel is not None:
            for name, rate in rates.items():
                if rate is not None:
                    getattr(self.optimizer, name).learning_rate = rate
            replica_values = {name: values[f"replica/{name}"] for name in self.replica_values(0)}
            for replica in range(len(self._strategy.local_devices)):
                self.set_replica_values(replica, replica_values)

    def _own_values(self):
        """Returns the values that Keras does not save by itself, numpy arrays, by name."""
        values = {name: first_local_value(getattr(self, name)) for name in _COUNTERS}
        values |= {name: average.variables[0].read_value() for name, average in self._averaged.state().items()}
        if self.channel is not None:
            replicas = [self.replica_values(replica) for replica in range(len(self._strategy.local_devices))]
            values |= {
                f"replica/{name}": merge_replicas([np.asarray(of_one[name]) for of_one in replicas])
                for name in replicas[0]
            }
            rates = {o.name: o.changed_rate for o in self.optimizer.optimizers}
            values |= {f"learning_rate/{name}": rate for name, rate in rates.items() if rate is not None}
        return {name: np.asarray(value) for name, value in values.items()}


class _Weights(list):
    """Weights of a model in the order of Keras, with its averaged generator beside them.

    It is a list of as many items as `weights`, because Keras and its users pair both.
    """

    def __init__(self, weights, model, averages):
        super().__init__(weights)
        self.model, self.averages = weakref.ref(model), averages

    def __reduce__(self):
        return list, (list(self),)  # pickled and copied as a plain list, without the model


def check_file(path: str | os.PathLike) -> None:
    """Raises UsageError for a file to which a whole DQGAN cannot be saved."""
    if str(path).endswith((".h5", ".hdf5")):
        raise UsageError(
            "A DQGAN is saved as X.keras, or, by save_weights or ModelCheckpoint(save_weights_only=True), as "
            f"X.weights.h5. Received: {str(path)!r}"
        )


def _contents(path: str | os.PathLike) -> tuple[list[str], int]:
    """Returns the names of DQGAN's own values in a file of Keras, and the number of the networks' variables.

    Keras ignores variables of a file that a model lacks.
    """
    if not str(path).endswith((".weights.h5", ".keras")):
        raise UsageError(
            "A warm start takes a file X.weights.h5 or X.keras that a DQGAN has saved, or the model_dir of a run. "
            f"Received: {str(path)!r}"
        )
    names: list[str] = []
    source: Any = path
    try:
        if str(path).endswith(".keras"):
            with zipfile.ZipFile(path) as archive:
                source = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(source, "r") as file:
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read: {first_line(error)}") from None
    own_values = [name.removeprefix("vars/") for name in names if name.rpartition("/")[0] == "vars"]
    if "step" not in own_values:
        raise UsageError(f"{path} was not written by DQGAN.save_weights or .save: it has no 'step'.")
    return own_values, len(names) - len(own_values)


def _watched(method, name, player, model):
    """Returns a method of a network of `model()` that tells the model of its calls."""

    @functools.wraps(method)
    def call(*arguments, **options):
        result = method(*arguments, **options)
        if (owner := model()) is not None:
            owner.weights_were_set(player, name)
        return result

    return call


def _warn_of_new_average(method):
    logging.warning(
        "%s: the averaged generator, from which generate draws, starts anew from these weights. Files of save_weights "
        "hold the average, too.",
        method,
    )
