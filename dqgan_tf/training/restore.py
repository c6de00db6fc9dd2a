"""Loads the trained model of a run in one process, to draw and evaluate samples."""

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from dqgan_tf import config as config_lib
from dqgan_tf import data
from dqgan_tf.distribute.strategy import CompressedStrategy, no_cluster
from dqgan_tf.errors import CheckpointError, UsageError
from dqgan_tf.gan.model import DQGAN
from dqgan_tf.training import checkpoint, job


def warm_start(model: DQGAN, path: str) -> None:
    """Loads networks and averaged generator of another run's newest checkpoint, or of a file; see `DQGAN.warm_start`.

    Args:
      model: without steps.
      path: model_dir of a run, X.weights.h5 or X.keras.

    Raises:
      UsageError: there is nothing to load, or it is of other networks.
    """
    if not (pathlib.Path(path) / "checkpoints").is_dir():
        if pathlib.Path(path).is_dir():
            raise UsageError(f"--warm_start={path} holds no complete checkpoint of a run.")
        model.warm_start(path)
        return
    folder = checkpoint.newest(pathlib.Path(path) / "checkpoints")
    if folder is None:
        raise UsageError(f"--warm_start={path} holds no complete checkpoint yet.")
    checkpoint.check_files(folder)
    counters = {name: value for name, value in model.shared_values().items() if "/" not in name}
    saved = {name: value for name, value in checkpoint.read_tensors(folder / "replicated").items() if "/" in name}
    expected = {name: tuple(value.shape) for name, value in model.shared_values().items() if "/" in name}
    checkpoint.check_tensors(folder, expected, saved)
    model.set_shared_values(counters | saved)


class TrainedRun(NamedTuple):
    """Configuration, data description, model and step of a run."""

    config: config_lib.RunConfig
    data_spec: data.DataSpec
    model: DQGAN
    step: int


def find(model_dir: str, name: str) -> pathlib.Path:
    """Returns the folder of a complete checkpoint: `newest`, `best` (see --best_figure), or a step such as `4000`.

    Raises:
      UsageError: the folder holds no run, or the run has no such checkpoint; the message lists those that it has.
    """
    _check_run(model_dir)
    folder = pathlib.Path(model_dir) / "checkpoints"
    steps = {str(int(path.name[5:])): path for path in checkpoint.committed(folder)}
    best = checkpoint.best(folder)
    newest = checkpoint.newest(folder)
    known = steps | ({"newest": newest} if newest else {}) | ({"best": best.folder} if best else {})
    if not known:
        raise UsageError(f"{model_dir} holds no complete checkpoint yet.")
    if name not in known:
        raise UsageError(f"{model_dir} holds no complete checkpoint {name!r}. It has: {', '.join(known)}.")
    return known[name]


def _check_run(model_dir):
    """Returns the path of the configuration."""
    path = pathlib.Path(model_dir) / "config.json"
    if not path.exists():
        raise UsageError(f"{model_dir} holds no run: there is no config.json in it.")
    return path


def load(
    model_dir: str, data_dir: str | None = None, folder: pathlib.Path | None = None, dataset: str | None = None
) -> TrainedRun:
    """Returns the model of a checkpoint of the run in `model_dir`. Reads no training data.

    Args:
      model_dir: folder of a run.
      data_dir: folder of prepared data sets on this machine, for an evaluation. None takes that of the run.
      folder: folder of the checkpoint. None takes the newest complete one.
      dataset: name, file or folder of the run's data set, if it has moved. None takes that of the run.

    Raises:
      UsageError: the folder holds no run or no complete checkpoint yet, or `dataset` is a set of other images.
      CheckpointError: the configuration or the checkpoint is damaged.
    """
    path = _check_run(model_dir)
    try:
        config = config_lib.from_json(path.read_text())
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    folder = folder or find(model_dir, "newest")
    commit = checkpoint.check_files(folder)
    trained_on = config.data
    moved = dataclasses.replace(
        trained_on,
        data_dir=trained_on.data_dir if data_dir is None else data_dir,
        dataset=trained_on.dataset if dataset is None else dataset,
    )
    config = dataclasses.replace(config, data=moved)
    spec = _saved_spec(pathlib.Path(model_dir) / "data.json") or data.describe(config.data)
    if dataset is not None:
        _check_moved(spec, data.describe(config.data), dataset)
    model = job.build_model(config, spec, CompressedStrategy(no_cluster()))
    checkpoint.restore_shared(folder, model)
    return TrainedRun(config, spec, model, commit["step"])


def check_data(config: config_lib.RunConfig, spec: data.DataSpec) -> None:
    """Compares the data of a run that goes on with those of its beginning, data.json.

    Raises:
      CheckpointError: the data differ, or an older version dealt them in another way.
    """
    before = _saved_spec(pathlib.Path(config.model_dir) / "data.json")
    if before is None:  # the file is missing, as in a folder of checkpoints alone
        return
    if not _is_like(before, spec):
        raise CheckpointError(
            f"{config.model_dir} was trained on {_size(before)}, --dataset={config.data.dataset} has now {_size(spec)}."
            f" Use the old data, or another --model_dir with --warm_start={config.model_dir}."
        )
    if before.dealing != spec.dealing and config.data.shards.startswith("dirichlet"):
        raise CheckpointError(
            f"{config.model_dir} was trained by a version that dealt the images of --shards={config.data.shards} in "
            f"another way. Use that version, or another --model_dir with --warm_start={config.model_dir}."
        )


def _check_moved(trained, found, dataset):
    """Raises UsageError unless a data set has the kind, number and shape of the samples that a run was trained on."""
    if not _is_like(trained, found):
        raise UsageError(
            f"--dataset={dataset} holds other data than the run's {trained.name!r}, which has {_size(trained)}. "
            f"Received: {_size(found)}"
        )


def _is_like(one, other):
    fields = ("kind", "shape", "num_examples", "num_classes")
    return all(getattr(one, name) == getattr(other, name) for name in fields) and np.array_equal(one.modes, other.modes)


def _size(spec):
    count = "a mixture" if spec.num_examples is None else f"{spec.num_examples} {spec.kind}"
    return f"{count} of shape {spec.shape}" + (f" in {spec.num_classes} classes" if spec.num_classes else "")


def _saved_spec(path):
    """Returns the description of the data in data.json; None if the file is missing."""
    if not path.exists():
        return None
    try:
        return data.DataSpec.from_json(path.read_text())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
