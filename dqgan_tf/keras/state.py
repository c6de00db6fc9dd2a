"""The training state of a Keras model by name: values that are equal on all replicas, and values of each replica."""

import dataclasses
import itertools
import json
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from dqgan_tf import private_keras
from dqgan_tf.config import FREE_FIELDS, CompressionConfig
from dqgan_tf.distribute.replica_local import first_local_value
from dqgan_tf.errors import CheckpointError
from dqgan_tf.keras.nested import compressed_leaves, optimizers_of


class ModelState:
    """The variables of a model and of its optimizers, and the residuals of its channels.

    Names count variables in the order of their creation. Paths of Keras count the layers of the process, so they differ
    between a run and its continuation, as do the names of optimizers' variables, which contain paths.

    Args:
      model: built and compiled, created in the scope of a `CompressedStrategy`.
    """

    def __init__(self, model: keras.Model):
        self._model, self._strategy = model, model.distribute_strategy
        self._optimizers = optimizers_of(model)
        self._steps = [leaf.compression for leaf in compressed_leaves(self._optimizers)]

    def settings(self) -> dict:
        """Returns what must not change between a run and its continuation, and which parts the state has."""
        places = {id(variable): index for index, variable in enumerate(self._model.variables)}
        built = [
            [places[id(variable)] for variable in private_keras.built_for(optimizer)] if optimizer.built else None
            for optimizer in self._optimizers
        ]
        channels = [[list(positions) for positions in steps.channels] for steps in self._steps]
        parts = {"variables": self._variables(), "built": built, "channels": channels}
        return {"settings": self._settings()} | parts

    def prepare(self, folder, saved: Mapping) -> None:
        """Gives the state the parts that a checkpoint has: builds optimizers and opens channels.

        Args:
          folder: folder of the checkpoint, for messages.
          saved: what `settings` returned.

        Raises:
          CheckpointError: a setting differs, or the model has other variables.
        """
        settings, saved_settings = json.loads(json.dumps(self._settings())), saved.get("settings")
        if isinstance(saved_settings, dict):  # older checkpoints have neither the loss nor newer settings
            saved_settings = {"loss": settings["loss"]} | saved_settings
            older = saved_settings.get("compression", [])
            saved_settings["compression"] = [_compression(CompressionConfig()) | one for one in older]
        check_settings(folder, saved_settings, settings)
        for index, (before, now) in enumerate(itertools.zip_longest(saved["variables"], self._variables())):
            if before != now:
                raise CheckpointError(
                    f"{folder} is of another model: its variable {index} is {before or 'missing'}, this model's is "
                    f"{now or 'missing'}. Use another folder or the old model."
                )
        variables = self._model.variables
        with self._strategy.scope():
            for optimizer, positions in zip(self._optimizers, saved["built"], strict=True):
                if positions is not None and not optimizer.built:
                    optimizer.build([variables[position] for position in positions])
            for steps, channels in zip(self._steps, saved["channels"], strict=True):
                for positions in channels:
                    steps.open_channel(tuple(positions))

    def shared_values(self) -> dict[str, tf.Tensor]:
        """Returns what is equal on all replicas, by name."""
        return {name: first_local_value(variable) for name, variable in self._shared_variables().items()}

    def set_shared_values(self, values: Mapping[str, np.ndarray]) -> None:
        """Inverse of `shared_values`."""
        for name, variable in self._shared_variables().items():
            variable.assign(values[name])

    def replica_values(self, replica: int) -> dict[str, tf.Tensor]:
        """Returns what differs between replicas, by name.

        Args:
          replica: index of the local replica.
        """
        values = {name: local.read_value() for name, local in self._replica_variables(replica).items()}
        for prefix, channel in self._channels():
            for kind, per_weight in channel.state(replica).items():
                for index, value in enumerate(per_weight):
                    if value is not None:
                        values[f"{prefix}/{kind}/{index:03d}"] = value
        return values

    def set_replica_values(self, replica: int, values: Mapping[str, np.ndarray]) -> None:
        """Inverse of `replica_values`."""
        for name, local in self._replica_variables(replica).items():
            local.assign(values[name])
        for prefix, channel in self._channels():
            count = sum(len(vector.weights) for vector in channel.vectors)
            channel.set_state(
                replica,
                {
                    kind: [values.get(f"{prefix}/{kind}/{index:03d}") for index in range(count)]
                    for kind in channel.state(replica)
                },
            )

    def _variables(self):
        return [f"{variable.name} {tuple(variable.shape)} {variable.dtype}" for variable in self._model.variables]

    def _settings(self):
        compressions = [
            {"where": steps.where, "seed": steps.seed}
            | ({"optimistic": True} if steps.optimistic else {})  # older checkpoints do not have it
            | _compression(steps.config)
            for steps in self._steps
        ]
        losses = [_loss_text(loss) for loss in keras.tree.flatten(self._model.loss)]
        names = [type(optimizer).__name__ for optimizer in self._optimizers]
        return {"optimizers": names, "compression": compressions, "loss": losses}

    def _shared_variables(self):
        alone = {id(variable) for steps in self._steps for variable in steps.replica_variables}
        variables = {
            f"model/{index:03d}_{variable.name}": variable for index, variable in enumerate(self._model.variables)
        }
        for number, optimizer in enumerate(self._optimizers):
            for index, variable in enumerate(optimizer.variables):
                if id(variable) not in alone:
                    variables[f"optimizer_{number}/{index:03d}"] = variable
        return variables

    def _replica_variables(self, replica):
        """A plain variable of one local replica by name."""
        variables = {}
        for number, steps in enumerate(self._steps):
            variables[f"compression_{number}/skipped"] = steps.skipped.variables[replica]
            for index, variable in enumerate(steps.replica_variables):
                local = self._strategy.experimental_local_results(variable.value)[replica]
                variables[f"compression_{number}/slot/{index:03d}"] = local
            for name, local in (steps.point.state() if steps.point else {}).items():
                variables[f"compression_{number}/{name}"] = local.variables[replica]
        for prefix, channel in self._channels():
            variables[f"{prefix}/calls"] = channel.calls.variables[replica]
            for name, learned in channel.learned.items():
                number = [vector.name for vector in channel.vectors].index(name)
                variables[f"{prefix}/learned/{number}"] = learned.variables[replica]
        return variables

    def _channels(self):
        """Yields (prefix of names, channel) of all channels."""
        for number, steps in enumerate(self._steps):
            for index, channel in enumerate(steps.channels.values()):
                yield f"compression_{number}/channel_{index}", channel


def _compression(config):
    """Returns the settings that a continued run may not change."""
    values = dataclasses.asdict(config).items()
    return {name: value for name, value in values if f"compression.{name}" not in FREE_FIELDS}


def _loss_text(loss):
    """Returns the name of a loss, with the plain arguments of an object, as a text that is equal in every process."""
    if not isinstance(loss, keras.losses.Loss):
        return loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    plain = (bool, int, float, str)
    config = {name: value for name, value in loss.get_config().items() if name != "name" and isinstance(value, plain)}
    return f"{type(loss).__name__}({', '.join(f'{name}={value!r}' for name, value in sorted(config.items()))})"


def check_settings(folder, saved, settings: Mapping) -> None:
    """Raises CheckpointError when settings are not those of a checkpoint, naming the first that differs."""
    saved = saved if isinstance(saved, dict) else {}
    for name in sorted(set(saved) | set(settings)):
        if saved.get(name) != settings.get(name):
            raise CheckpointError(
                f"{folder} was trained with {name}={saved.get(name)}, this run has {name}={settings.get(name)}. Use "
                "another folder or the old settings."
            )
