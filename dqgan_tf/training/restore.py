"""Loads the trained model of a run in one process, to draw and evaluate samples."""

import dataclasses
import pathlib
from typing import NamedTuple

from dqgan_tf import config as config_lib
from dqgan_tf import data
from dqgan_tf.distribute.strategy import CompressedStrategy
from dqgan_tf.errors import CheckpointError, UsageError
from dqgan_tf.gan.model import DQGAN
from dqgan_tf.training import checkpoint, job


class TrainedRun(NamedTuple):
    """Configuration, data description, model and step of a run."""

    config: config_lib.RunConfig
    data_spec: data.DataSpec
    model: DQGAN
    step: int


def load(model_dir: str, data_dir: str | None = None) -> TrainedRun:
    """Returns the model of the newest complete checkpoint in `model_dir`. Reads no training data.

    Args:
      model_dir: folder of a run.
      data_dir: folder of prepared data sets on this machine, for an evaluation. None takes that of the run.

    Raises:
      UsageError: the folder holds no run or no complete checkpoint yet.
      CheckpointError: the configuration or the checkpoint is damaged.
    """
    path = pathlib.Path(model_dir) / "config.json"
    if not path.exists():
        raise UsageError(f"{model_dir} holds no run: there is no config.json in it.")
    try:
        config = config_lib.from_json(path.read_text())
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    folder = checkpoint.newest(pathlib.Path(model_dir) / "checkpoints")
    if folder is None:
        raise UsageError(f"{model_dir} holds no complete checkpoint yet.")
    commit = checkpoint.check_files(folder)
    if data_dir is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=data_dir))
    spec = _saved_spec(pathlib.Path(model_dir) / "data.json") or data.describe(config.data)
    model = job.build_model(config, spec, CompressedStrategy(job.no_cluster()))
    checkpoint.restore_shared(folder, model)
    return TrainedRun(config, spec, model, commit["step"])


def _saved_spec(path):
    """Returns the description of the data in data.json; None for a run of version 0.2 or older, which has none."""
    if not path.exists():
        return None
    try:
        return data.DataSpec.from_json(path.read_text())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
