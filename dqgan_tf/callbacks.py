"""Callbacks of Keras' `fit`."""

import dataclasses
import itertools
import json
import math
import os
import pathlib

import keras
from absl import logging

from dqgan_tf import private_keras
from dqgan_tf.config import FREE_FIELDS, CompressionConfig, OptimizerConfig, flatten
from dqgan_tf.distribute.strategy import OPEN_SECONDS, CompressedStrategy
from dqgan_tf.errors import UsageError
from dqgan_tf.gan.model import DQGAN
from dqgan_tf.keras.state import ModelState, check_settings
from dqgan_tf.training import checkpoint

_serial = itertools.count()  # names the board of each `fit`; all workers begin them in the same order


class Checkpoint(private_keras.ListedCallback):
    """Saves the whole training state at the ends of epochs, and resumes from the newest checkpoint.

    `BackupAndRestore` of Keras saves what is equal on all replicas. This callback also saves the residuals and slots of
    every replica. If `fit` is killed and called again, it continues with the interrupted epoch and ends with the same
    weights, bit for bit, as without the interruption. This needs data that are the same in every epoch, or depend on
    the epoch's number alone: do not shuffle, or shuffle with `reshuffle_each_iteration=False` and a seed.

    The learning rates that callbacks have set are saved, and replace those of the model. Put this callback last: one
    behind it changes a rate after the epoch was saved. The state inside of other callbacks is not saved:
    `EarlyStopping` and `ReduceLROnPlateau` count their patience, and look for the best value, anew from the first epoch
    of the continued `fit`.

    `SwapEMAWeights(swap_on_epoch=True)` alone belongs behind this callback and is refused in front of it: it would have
    the averaged weights saved in place of those that are trained. Its swap rounds, so that a continued `fit` equals one
    without an interruption up to rounding.

    A second `fit` with the folder goes on, too, whatever its `initial_epoch` and whatever weights were set before. If
    the folder holds as many epochs as `epochs` asks for, nothing is trained. A warning says either.

    If the number of replicas has changed, every replica starts from the mean of the old residuals and slots.

    Args:
      folder: folder on a file system that all workers share; `folder/step_00000003` is the end of epoch 3.
      every: number of epochs between two checkpoints.
      keep: number of complete checkpoints that stay.

    Raises:
      CheckpointError: a UsageError; at the start of `fit`, when the checkpoint is of another model, loss, compression
        or version, or is damaged.
    """

    def __init__(self, folder: str, every: int = 1, keep: int = 3):
        super().__init__()
        for name, value in (("every", every), ("keep", keep)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"`{name}` must be a whole number of at least 1. Received: {name}={value!r}")
        is_path = isinstance(folder, (str, os.PathLike))
        if not is_path or "://" in os.fspath(folder):  # `pathlib` would make a folder of that name here
            raise UsageError(
                f"`folder` must be a path, such as that at which its storage is mounted. Received: folder={folder!r}"
            )
        self._folder, self._every, self._keep = pathlib.Path(folder).expanduser(), every, keep
        self._checkpoints = None
        self._swaps: list[keras.callbacks.SwapEMAWeights] = []  # in the same `fit`

    def set_callbacks(self, callbacks):
        self._swaps = [callback for callback in callbacks if isinstance(callback, keras.callbacks.SwapEMAWeights)]
        before = callbacks[: callbacks.index(self)]
        if any(callback.swap_on_epoch and callback in before for callback in self._swaps):
            raise UsageError(
                "SwapEMAWeights(swap_on_epoch=True) must stand behind dqgan_tf.callbacks.Checkpoint, as in "
                "callbacks=[Checkpoint(folder), SwapEMAWeights(swap_on_epoch=True)]: in front of it, the averaged "
                "weights would be saved in place of those that are trained."
            )

    def on_train_begin(self, logs=None):
        strategy = self.model.distribute_strategy
        if not isinstance(strategy, CompressedStrategy):
            raise UsageError(
                "dqgan_tf.callbacks.Checkpoint is for models of a dqgan_tf.CompressedStrategy. Received: a model of a "
                f"{type(strategy).__name__}. Use keras.callbacks.BackupAndRestore"
            )
        state = _DqganState(self.model) if isinstance(self.model, DQGAN) else ModelState(self.model)
        board = strategy.message_board(f"checkpoint/{next(_serial)}")
        # A worker may still read its data, as before the first channel.
        self._checkpoints = _FitCheckpoints(self._folder, state, board, strategy, self._keep, OPEN_SECONDS)
        epoch = self._checkpoints.restore().step
        if epoch:
            private_keras.set_initial_epoch(self.model, epoch)
            for swap in self._swaps:
                private_keras.expect_trained_weights(swap)
            self._say(epoch)

    def _say(self, epoch):
        """Logs that weights and epoch are those of a checkpoint, and whether anything is left to train."""
        epochs = (self.params or {}).get("epochs", math.inf)  # none: outside of `fit`
        if epoch < epochs:
            logging.warning(
                "`fit` goes on from %s after epoch %d of %s, with the weights and all state saved there.",
                self._folder,
                epoch,
                epochs,
            )
        else:
            logging.warning(
                "`fit` trains nothing: %s holds the end of epoch %d, and epochs=%d. The weights are those saved there. "
                "Raise `epochs` to go on, or give another folder for a new training.",
                self._folder,
                epoch,
                epochs,
            )

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self._every == 0:
            self._checkpoints.save(epoch + 1)

    def on_train_end(self, logs=None):
        self._checkpoints.close()
        private_keras.set_initial_epoch(self.model, None)


class _FitCheckpoints(checkpoint.CheckpointFolder):
    """`CheckpointFolder` of a model in `fit`, whose state says itself what a checkpoint must fit."""

    def settings(self):
        return self._model.settings()

    def check_settings(self, folder, saved):
        self._model.prepare(folder, saved)


class _DqganState:
    """A `DQGAN` in the form of a `ModelState`."""

    def __init__(self, model: DQGAN):
        self._model = model
        self._saved_rates: dict[str, float] = {}
        self.shared_values = model.shared_values
        self.replica_values, self.set_replica_values = model.replica_values, model.set_replica_values

    def settings(self):
        rates = {} if self._model.optimizer.serialized else {o.name: o.learning_rate for o in self._optimizers()}
        return {"settings": self._settings(), "rates": rates}

    def set_shared_values(self, values):
        self._model.set_shared_values(values)
        for optimizer in self._optimizers():
            if optimizer.name in self._saved_rates:
                optimizer.learning_rate = self._saved_rates[optimizer.name]

    def prepare(self, folder, saved):
        before = saved.get("settings")
        if isinstance(before, dict):  # a setting that is younger than the checkpoint had its default
            defaults = self._values(OptimizerConfig(), CompressionConfig()) | {"learning_rates": None}
            before = defaults | self._model.game() | before  # older checkpoints do not say which game they are of
        check_settings(folder, before, json.loads(json.dumps(self._settings())))
        self._saved_rates = saved.get("rates", {})  # older checkpoints have none

    def _optimizers(self):
        return self._model.optimizer.optimizers

    def _settings(self):
        model = self._model
        values = self._values(model.optimizer_config, model.compression_config)
        return values | {"learning_rates": model.optimizer.serialized, "seed": model.seed} | model.game()

    def _values(self, optimizer, compression):
        groups = {"optimizer": dataclasses.asdict(optimizer), "compression": dataclasses.asdict(compression)}
        return {name: value for name, value in flatten(groups).items() if name not in FREE_FIELDS}
