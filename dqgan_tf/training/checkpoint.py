"""Complete checkpoints: written by all workers together, restored to the bit, refused by name when they do not fit.

checkpoints/step_00001000/replicated.*   state that is equal on all replicas, written by the chief
checkpoints/step_00001000/worker_0.*     state of worker 0's replicas: residuals, moments, directions
checkpoints/step_00001000/COMMIT         JSON, renamed into place last; without it the folder is ignored

Tensors have the names of the weights they belong to. None depends on how updates are cut into packets.
"""

import json
import pathlib
import re
import shutil
from typing import NamedTuple

import numpy as np
import tensorflow as tf

import dqgan_tf
from dqgan_tf.config import FREE_FIELDS, RunConfig, flatten
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.errors import CheckpointError, TrainingError
from dqgan_tf.telemetry import json_lines
from dqgan_tf.tensorflow_texts import first_line
from dqgan_tf.training import tensor_file

FORMAT = 2
_WRITERS = {1: "0.1", 2: "0.2 or later"}
"""Versions of this library that write each format."""


class Restored(NamedTuple):
    """What `Checkpoints.restore` found.

    step: of the checkpoint, 0 if there was none.
    num_replicas: that wrote it.
    """

    step: int
    num_replicas: int


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: `checkpoints/` of the run, on a file system that all workers share.
      config: of the run; a checkpoint of another configuration is refused.
      model: a compiled `DQGAN`.
      board: for agreement among the workers.
      strategy: whose replicas are saved.
      keep: complete checkpoints that stay.
    """

    def __init__(self, folder, config: RunConfig, model, board: MessageBoard, strategy, keep: int):
        self._folder = pathlib.Path(folder)
        self._config = config
        self._model = model
        self._board = board
        self._strategy = strategy
        self._keep = keep

    def save(self, step: int) -> pathlib.Path:
        """Writes a complete checkpoint of `step`. Every worker must call it.

        A kill at any moment leaves the last complete checkpoint as it was.

        Raises:
          TrainingError: on every worker, if one could not write, with the reason.
        """
        folder = self._folder / f"step_{step:08d}"
        self._attempt(f"prepare {step}", lambda: self._prepare(folder))
        self._attempt(f"write {step}", lambda: self._write(folder))
        self._attempt(f"commit {step}", lambda: self._commit(folder, step))
        return folder

    def restore(self) -> Restored:
        """Loads the newest complete checkpoint, if there is one. Every worker must call it.

        With another number of replicas than at saving, every replica starts from the mean over the old ones of each
        per-replica vector: mean(e) and mean(u) are what the virtual iterate and the mean half step are made of, so both
        continue where they were.

        Raises:
          CheckpointError: it does not fit this run, or is damaged; nothing has been changed.
        """
        folder = newest(self._folder)
        seen = self._board.exchange("resume from", folder.name if folder else "nothing")
        if len(set(seen)) > 1:
            raise CheckpointError(
                f"The workers see different checkpoints in {self._folder}: {seen}. It must be shared."
            )
        if folder is None:
            return Restored(0, self._strategy.num_replicas_in_sync)
        commit = check_files(folder)
        self.check_settings(folder, commit["config"])
        replicas = self._read_replicas(folder, commit)
        restore_shared(folder, self._model)
        self._restore_replicas(replicas, commit)
        return Restored(commit["step"], commit["num_replicas"])

    def check_settings(self, folder: pathlib.Path, saved: dict) -> None:
        """Raises CheckpointError when a checkpoint's configuration does not fit this run; see `check_config`."""
        check_config(folder, saved, self._config)

    def _attempt(self, what, action):
        """Runs `action` on this worker and learns how it went on the others: a barrier that carries reasons."""
        reason = ""
        try:
            action()
        except (OSError, tf.errors.OpError) as error:
            reason = first_line(error)
        for index, other in enumerate(self._board.exchange(what, reason)):
            if other:
                raise TrainingError(
                    f"Worker {index} could not {what.split()[0]} a checkpoint in {self._folder}: {other}. "
                    "The last complete checkpoint is intact."
                )

    def _prepare(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        if self._strategy.is_chief:
            (folder / "COMMIT").unlink(missing_ok=True)

    def _write(self, folder):
        if self._strategy.is_chief:
            tensor_file.write(folder / "replicated", self._model.shared_values())
        # Names carry the global replica id, so that replicas may move between workers.
        values = {
            f"{name}/{replica}": value
            for index, replica in enumerate(self._strategy.local_replica_ids)
            for name, value in self._model.replica_values(index).items()
        }
        tensor_file.write(folder / f"worker_{self._strategy.worker_index}", values)

    def _commit(self, folder, step):
        if not self._strategy.is_chief:
            return
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.suffix != ".tmp"}
        text = json.dumps(
            {
                "format": FORMAT,
                "version": dqgan_tf.__version__,
                "step": step,
                "num_workers": self._strategy.num_workers,
                "num_replicas": self._strategy.num_replicas_in_sync,
                "config": json.loads(self._config.to_json()),
                "files": files,
            },
            indent=2,
            sort_keys=True,
        )
        json_lines.write_atomically(folder / "COMMIT", text)
        self._prune()

    def _prune(self):
        complete = committed(self._folder)
        for folder in complete[: -self._keep]:
            (folder / "COMMIT").unlink()  # first: a kill between here and the end leaves no half checkpoint that counts
            shutil.rmtree(folder)

    def _read_replicas(self, folder, commit):
        """Returns every replica's state at saving, by name and global replica id."""
        saved = {}
        for worker in range(commit["num_workers"]):
            saved |= tensor_file.read(folder / f"worker_{worker}")
        expected = {
            f"{name}/{replica}": tuple(value.shape)
            for name, value in self._model.replica_values(0).items()
            for replica in range(commit["num_replicas"])
        }
        check_tensors(folder, expected, saved)
        return saved

    def _restore_replicas(self, saved, commit):
        same, count = commit["num_replicas"] == self._strategy.num_replicas_in_sync, commit["num_replicas"]
        names = list(self._model.replica_values(0))
        for index, replica in enumerate(self._strategy.local_replica_ids):
            if same:
                values = {name: saved[f"{name}/{replica}"] for name in names}
            else:
                values = {name: merge_replicas([saved[f"{name}/{old}"] for old in range(count)]) for name in names}
            self._model.set_replica_values(index, values)


def restore_shared(folder: pathlib.Path, model) -> None:
    """Loads the state that is equal on all replicas into `model`.

    Raises:
      CheckpointError: the file is damaged or does not fit the model; nothing has been changed.
    """
    saved = tensor_file.read(folder / "replicated")
    check_tensors(folder, {name: tuple(value.shape) for name, value in model.shared_values().items()}, saved)
    model.set_shared_values(saved)


def merge_replicas(values: list[np.ndarray]) -> np.ndarray:
    """Returns what every replica starts from when their number has changed: the mean, or the maximum of a counter."""
    if np.issubdtype(values[0].dtype, np.integer):
        return np.max(values, axis=0)
    return np.mean(values, axis=0, dtype=np.float64).astype(values[0].dtype)


def committed(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the complete checkpoints in `folder`, oldest first."""
    steps = [path for path in pathlib.Path(folder).glob("step_*") if re.fullmatch(r"step_\d{8,}", path.name)]
    return sorted((path for path in steps if (path / "COMMIT").exists()), key=lambda path: int(path.name[5:]))


def newest(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the newest complete checkpoint, or None."""
    complete = committed(folder)
    return complete[-1] if complete else None


def check_files(folder: pathlib.Path) -> dict:
    """Returns the contents of COMMIT after comparing every file's size with it.

    Raises:
      CheckpointError: COMMIT is unreadable or of another format, or a file is missing or has another size.
    """
    try:
        commit = json.loads((folder / "COMMIT").read_text())
        files, version = dict(commit["files"]), commit["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'COMMIT'} cannot be read ({error}); {_ADVICE}") from None
    if version != FORMAT:
        writer = f"dqgan-tf {_WRITERS[version]}" if version in _WRITERS else "an unknown version of dqgan-tf"
        raise CheckpointError(
            f"{folder} was written by {writer} (checkpoint format {version}); this is dqgan-tf {dqgan_tf.__version__}, "
            f"which reads format {FORMAT}. Finish the run with the version that began it, or use another --model_dir."
        )
    missing = sorted({"step", "num_workers", "num_replicas", "config"} - set(commit))
    if missing:
        raise CheckpointError(f"{folder / 'COMMIT'} has no {missing[0]!r}; {_ADVICE}")
    for name, size in files.items():
        path = folder / name
        found = path.stat().st_size if path.exists() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise CheckpointError(f"Checkpoint file {path} {state}; {_ADVICE}")
    return commit


_ADVICE = "remove this folder to go on from the checkpoint before it"


def check_config(folder: pathlib.Path, saved: dict, config: RunConfig) -> None:
    """Raises CheckpointError when a setting that determines the weights is not the checkpoint's; see `FREE_FIELDS`."""
    before, now = flatten(saved), config.flat()
    free = set(FREE_FIELDS)
    if config.optimizer.learning_rate_schedule != "constant":
        free.remove("train.steps")  # the schedule's length
    for key in sorted(set(before) | set(now)):
        if key not in free and before.get(key) != now.get(key):
            flag = key.split(".")[-1]
            raise CheckpointError(
                f"{folder} was trained with --{flag}={before.get(key)}, this run asks for --{flag}={now.get(key)}. "
                "Use another --model_dir or the old setting."
            )


def check_tensors(folder: pathlib.Path, expected: dict[str, tuple], found: dict[str, np.ndarray]) -> None:
    """Raises CheckpointError when names or shapes are not those expected or a value is not finite, naming the first."""
    for name in sorted(set(expected) | set(found)):
        wanted, got = expected.get(name), found[name].shape if name in found else None
        if wanted is None or wanted != got:
            raise CheckpointError(f"{folder} does not fit: {name} has shape {got} there and {wanted} in this run.")
        if not np.isfinite(found[name]).all():
            raise CheckpointError(f"{folder} holds values in {name} that are not finite; {_ADVICE}")
