"""A trained model out of a model_dir, for generating and evaluating: one process, no cluster."""

import dataclasses
import pathlib
from typing import NamedTuple

from dqgan_tf import config as config_lib
from dqgan_tf import data
from dqgan_tf.distribute.strategy import CompressedStrategy
from dqgan_tf.gan.model import DQGAN
from dqgan_tf.training import checkpoint, job
from dqgan_tf.training.errors import CheckpointError, UsageError


class Trained(NamedTuple):
    """A run's configuration, data description, model and step."""

    config: config_lib.RunConfig
    data_spec: data.DataSpec
    model: DQGAN
    step: int


def load(model_dir: str, data_dir: str | None = None) -> Trained:
    """Returns the model of the newest complete checkpoint in `model_dir`.

    Args:
      model_dir: of a run.
      data_dir: where the data set lies here; None takes the run's.

    Raises:
      UsageError: there is no run, or no complete checkpoint yet.
      CheckpointError: the checkpoint is damaged.
    """
    config = read_config(model_dir)
    folder = checkpoint.newest(pathlib.Path(model_dir) / "checkpoints")
    if folder is None:
        raise UsageError(f"{model_dir} holds no complete checkpoint yet.")
    commit = checkpoint.check_files(folder)
    data_config = config.data if data_dir is None else dataclasses.replace(config.data, data_dir=data_dir)
    spec = data.describe(data_config)
    model = job.build_model(config, spec, CompressedStrategy(job.no_cluster()))
    checkpoint.restore_shared(folder, model)
    return Trained(dataclasses.replace(config, data=data_config), spec, model, commit["step"])


def read_config(model_dir: str) -> config_lib.RunConfig:
    """Returns the configuration of the run in `model_dir`.

    Raises:
      UsageError: there is no config.json.
      CheckpointError: it cannot be read.
    """
    path = pathlib.Path(model_dir) / "config.json"
    if not path.exists():
        raise UsageError(f"{model_dir} holds no run: there is no config.json in it.")
    try:
        return config_lib.from_json(path.read_text())
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
