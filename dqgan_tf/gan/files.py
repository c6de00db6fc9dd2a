"""What Keras writes into files for `DQGAN`: `save_weights`, `save`, `ModelCheckpoint`."""

import dataclasses

import keras
import numpy as np
from absl import logging

from dqgan_tf.config import CompressionConfig, LossConfig, OptimizerConfig
from dqgan_tf.distribute.replica_local import first_local_value, merge_replicas
from dqgan_tf.errors import UsageError
from dqgan_tf.gan.player import PLAYERS

_COUNTERS = ("step", "skipped", "skipped_in_row")


class KerasFiles:
    """Implements Keras' methods for saving and loading for `DQGAN`, the only subclass.

    Keras saves the variables of the networks by itself. `save_own_variables` adds what else a model consists of.
    """

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

    @classmethod
    def from_config(cls, config, custom_objects=None):
        networks = [keras.saving.deserialize_keras_object(config.pop(name), custom_objects) for name in PLAYERS]
        return cls(*networks, **config | {"loss": LossConfig(**config["loss"])})

    def get_compile_config(self) -> dict | None:
        """Returns the arguments of `compile`; None before it."""
        return None if self.channel is None else self._compiled

    def compile_from_config(self, config):
        given = {"optimizer": OptimizerConfig(**config["optimizer"])}
        given["compression"] = CompressionConfig(**config["compression"])
        self.compile(**config | given)

    def set_weights(self, weights) -> None:
        """As `keras.Model.set_weights`; the averaged generator starts anew from the weights."""
        super().set_weights(weights)
        self.reset_copies()

    def save_own_variables(self, store) -> None:
        for name, value in self._own_values().items():
            store[name.replace("/", ".")] = value

    def load_own_variables(self, store) -> None:
        own, saved = self._own_values(), {name: store[name] for name in store.keys()}  # noqa: SIM118, a group of HDF5
        needed = {name.replace("/", ".") for name in own if not name.startswith("replica/")}
        missing = sorted(needed - set(saved))
        if missing:
            raise UsageError(f"The file was not written by DQGAN.save_weights or .save: it has no {missing[0]!r}.")
        values = {name: saved.get(name.replace("/", ".")) for name in own}
        fits = all(value is not None and value.shape == own[name].shape for name, value in values.items())
        for name in _COUNTERS:
            getattr(self, name).assign(values[name])
        for name, average in self._averaged.state().items():
            for variable in average.variables:
                variable.assign(values[name])
        if not fits or len(saved) != len(own):
            logging.warning("The file's optimizer is another one: moments, directions and residuals are not loaded.")
            self.anchors_are_stale = True  # Keras loads the networks after this
        elif self.channel is not None:
            named = {name: values[f"replica/{name}"] for name in self.replica_values(0)}
            for replica in range(len(self._strategy.local_devices)):
                self.set_replica_values(replica, named)

    def _own_values(self):
        """What Keras does not know as a variable, numpy, by name: see the class's docstring."""
        values = {name: first_local_value(getattr(self, name)) for name in _COUNTERS}
        values |= {name: average.variables[0].read_value() for name, average in self._averaged.state().items()}
        if self.channel is not None:
            replicas = [self.replica_values(replica) for replica in range(len(self._strategy.local_devices))]
            values |= {
                f"replica/{name}": merge_replicas([np.asarray(of_one[name]) for of_one in replicas])
                for name in replicas[0]
            }
        return {name: np.asarray(value) for name, value in values.items()}
