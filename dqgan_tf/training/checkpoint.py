"""Complete checkpoints: all workers write them, a resumed run is bit-identical, and one that does not fit is refused.

checkpoints/step_00001000/replicated.*   state that is equal on all replicas, written by the chief
checkpoints/step_00001000/worker_0.*     state of worker 0's replicas, see `SavedState.replica_values`
checkpoints/step_00001000/COMMIT         JSON with the files' digests, renamed into place last; without it the folder is
                                         ignored
checkpoints/best/step_00001000/          links to the files of the checkpoint with the best --best_figure, and FIGURE
checkpoints/LOCK                         held by the job that writes; see folder_lock.py

Tensors are named after their weights. No name depends on the cuts into packets. Each file also says of which run, step
and worker it is.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import uuid
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

import dqgan_tf
from dqgan_tf.config import FREE_FIELDS, RunConfig, flatten
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.distribute.replica_local import merge_replicas
from dqgan_tf.distribute.strategy import CompressedStrategy
from dqgan_tf.errors import CheckpointError, TrainingError, UsageError
from dqgan_tf.telemetry import json_lines
from dqgan_tf.tensorflow_texts import first_line
from dqgan_tf.training import folder_lock
from dqgan_tf.training.job import Job

FORMAT = 3
# Format -> versions of this library that write it.
_WRITERS = {1: "0.1", 2: "0.2 before its release", 3: "0.2 or later"}
_ENDS = ("index", "data-00000-of-00001")  # endings of the two files of `write_tensors`
_ORIGIN = "origin"  # the tensor in which a file says of which run, step and worker it is
_READ_ERRORS = (tf.errors.OpError, ValueError, IndexError)  # raised by TensorFlow's checkpoint reader for damaged files
_BEST, _FIGURE = "best", "FIGURE"  # folder of the best checkpoint, and the file in it that says why it is the best
_DISTANCES = ("frechet_distance", "kernel_distance", "FID", "KID", "mode_distance")  # the smaller, the better
_DIGEST_BYTES = 1 << 22  # read at a time
_ADVICE = "remove this folder to resume from the checkpoint before it"


class Restored(NamedTuple):
    """Result of `Checkpoints.restore`.

    step: step of the checkpoint, 0 if there was none.
    num_replicas: number of replicas that wrote it.
    """

    step: int
    num_replicas: int


class Best(NamedTuple):
    """The best checkpoint.

    folder: complete checkpoint.
    run: random name of its run.
    figure: full name of the figure, such as `frechet_distance(resnet20,n=10000)`.
    value: value of the figure.
    """

    folder: pathlib.Path
    run: str
    figure: str
    value: float


class CheckpointFolder:
    """Complete checkpoints of the state of a model.

    A subclass has `settings`, what a checkpoint says of the run, as JSON can hold it, and `check_settings`.

    Args:
      folder: on a file system that all workers share.
      model: has shared_values, set_shared_values, replica_values and set_replica_values, as `DQGAN` has.
      board: message board of the workers.
      strategy: strategy of the model.
      keep: number of complete checkpoints that stay.
      wait_seconds: how long a worker waits for the others in each exchange.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        model,
        board: MessageBoard,
        strategy: CompressedStrategy,
        keep: int,
        wait_seconds: float = 600.0,
    ):
        self._folder, self._model, self._board = pathlib.Path(folder), model, board
        self._strategy, self._keep, self._wait_seconds = strategy, keep, wait_seconds
        self._run = ""  # random name of the run, equal on all workers

    def settings(self) -> dict:
        raise NotImplementedError

    def check_settings(self, folder: pathlib.Path, saved: dict) -> None:
        """Raises CheckpointError when a checkpoint's settings do not fit this run."""
        raise NotImplementedError

    def save(self, step: int) -> pathlib.Path:
        """Writes a complete checkpoint of `step`. Every worker must call it.

        If the process is killed at any moment, the last complete checkpoint is intact.

        Raises:
          TrainingError: on every worker, with the reason, if one could not write.
        """
        folder = self._folder / _name_of(step)
        self._run = self._run or self._exchange("name of the run", uuid.uuid4().hex)[0]
        self._attempt(f"prepare {step}", lambda: self._prepare(folder))
        digests = self._attempt(f"write {step}", lambda: self._write(folder, step))
        files = {name: digest for digests_of_worker in digests for name, digest in digests_of_worker.items()}
        self._attempt(f"commit {step}", lambda: self._commit(folder, step, files))
        return folder

    def keep_best(self, step: int, figure: str, value: float) -> None:
        """Makes the complete checkpoint of `step` the best one; see `keep_best`. Every worker must call it.

        Raises:
          TrainingError: on every worker, if the chief could not write.
        """

        def keep():
            if self._strategy.is_chief:
                keep_best(self._folder, self._folder / _name_of(step), figure, value)

        self._attempt(f"keep {step}", keep)

    def best(self) -> Best | None:
        """Returns the best checkpoint of this run so far."""
        so_far = best(self._folder)
        return so_far if so_far and so_far.run == self._run else None

    def close(self) -> None:
        """Unlocks the folder for other jobs."""
        folder_lock.release(self._folder)

    def restore(self) -> Restored:
        """Locks the folder and loads the newest complete checkpoint, if there is one. Every worker must call it.

        If the number of replicas has changed, every replica starts from the mean of the old replicas' vectors. This
        keeps mean(e) and mean(u), hence the virtual iterate and the mean half-step point.

        Raises:
          CheckpointError: it does not fit this run, or is damaged, or another job writes into the folder; the model is
            unchanged.
        """
        self._lock()
        folder, problem = None, ""
        try:
            folder = newest(self._folder)
        except OSError as error:
            problem = f"Worker {self._strategy.worker_index} cannot read {self._folder}: {first_line(error)}"
        answers = [
            json.loads(text)
            for text in self._exchange("resume from", json.dumps([folder.name if folder else "nothing", problem]))
        ]
        for _, other in answers:
            if other:
                raise CheckpointError(other)
        seen = [name for name, _ in answers]
        if len(set(seen)) > 1:
            raise CheckpointError(
                f"The workers see different checkpoints in {self._folder}: {seen}. It must be shared."
            )
        if folder is None:
            return Restored(0, self._strategy.num_replicas_in_sync)
        commit = check_files(folder)
        _check_same_run(self._folder, commit["run"])
        self.check_settings(folder, commit["config"])
        replicas = self._read_replicas(folder, commit)
        restore_shared(folder, self._model)
        self._restore_replicas(replicas, commit)
        self._run = commit["run"]
        return Restored(commit["step"], commit["num_replicas"])

    def _lock(self):
        """The chief locks the folder; if it cannot, all workers raise."""
        refusal = ""
        if self._strategy.is_chief:
            try:
                folder_lock.acquire(self._folder)
            except UsageError as error:
                refusal = str(error)
            except OSError as error:
                refusal = f"{self._folder} cannot be written: {error.strerror}"
        refusal = self._exchange("lock", refusal)[0]  # the chief is worker 0
        if refusal:
            raise CheckpointError(refusal)

    def _exchange(self, topic, text):
        return self._board.exchange(topic, text, self._wait_seconds)

    def _attempt(self, what, action):
        """Runs `action` on all workers and returns their results. Raises TrainingError if it failed on one of them."""
        result, reason = None, ""
        try:
            result = action()
        except (OSError, tf.errors.OpError) as error:
            reason = first_line(error)
        answers = [json.loads(text) for text in self._exchange(what, json.dumps([result, reason]))]
        for index, (_, other) in enumerate(answers):
            if other:
                raise TrainingError(
                    f"Worker {index} could not {what.split()[0]} a checkpoint in {self._folder}: {other}. "
                    "The last complete checkpoint is intact."
                )
        return [other_result for other_result, _ in answers]

    def _prepare(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        if self._strategy.is_chief:
            (folder / "COMMIT").unlink(missing_ok=True)

    def _write(self, folder, step):
        """Writes this worker's files. Returns their digests by name, for the chief."""
        # Names end in the global replica id, so that another worker can load the replica.
        values = {
            f"{name}/{replica}": value
            for index, replica in enumerate(self._strategy.local_replica_ids)
            for name, value in self._model.replica_values(index).items()
        }
        files = {f"worker_{self._strategy.worker_index}": values}
        if self._strategy.is_chief:
            files["replicated"] = self._model.shared_values()
        for name, tensors in files.items():
            write_tensors(folder / name, tensors | {_ORIGIN: tf.constant(json.dumps(_origin(self._run, step, name)))})
        return {f"{name}.{end}": _digest(folder / f"{name}.{end}") for name in files for end in _ENDS}

    def _commit(self, folder, step, files):
        if not self._strategy.is_chief:
            return
        commit = {
            "format": FORMAT,
            "version": dqgan_tf.__version__,
            "run": self._run,
            "step": step,
            "num_workers": self._strategy.num_workers,
            "num_replicas": self._strategy.num_replicas_in_sync,
            "config": self.settings(),
            "files": files,
        }
        json_lines.write_atomically(folder / "COMMIT", json.dumps(commit, indent=2, sort_keys=True))
        for old in committed(self._folder)[: -self._keep]:
            _remove_old(old)

    def _read_replicas(self, folder, commit):
        """Returns the state at saving of the replicas that this worker needs, by name and global replica id.

        Another number of replicas needs all. All files are checked, one after the other: they may need much memory.
        """
        count = commit["num_replicas"]
        is_same = count == self._strategy.num_replicas_in_sync
        needed = set(self._strategy.local_replica_ids if is_same else range(count))
        expected = {
            f"{name}/{replica}": tuple(value.shape)
            for name, value in self._model.replica_values(0).items()
            for replica in range(count)
        }
        saved = {}
        for worker in range(commit["num_workers"]):
            of_worker = read_tensors(folder / f"worker_{worker}")
            check_tensors(folder, {name: expected.pop(name) for name in of_worker if name in expected}, of_worker)
            saved |= {name: value for name, value in of_worker.items() if int(name.rpartition("/")[2]) in needed}
        check_tensors(folder, expected, {})  # what no file has
        return saved

    def _restore_replicas(self, saved, commit):
        count, names = commit["num_replicas"], list(self._model.replica_values(0))
        for index, replica in enumerate(self._strategy.local_replica_ids):
            if count == self._strategy.num_replicas_in_sync:
                values = {name: saved[f"{name}/{replica}"] for name in names}
            else:
                values = {name: merge_replicas([saved[f"{name}/{old}"] for old in range(count)]) for name in names}
            self._model.set_replica_values(index, values)


class Checkpoints(CheckpointFolder):
    """The checkpoints of one run, in checkpoints/ of its model_dir, which all workers share.

    Args:
      job: the run on this worker.
    """

    def __init__(self, job: Job):
        folder, self._config = pathlib.Path(job.config.model_dir) / "checkpoints", job.config
        super().__init__(folder, job.model, job.board, job.strategy, job.config.train.keep_checkpoints)

    def settings(self):
        return dataclasses.asdict(self._config)

    def check_settings(self, folder, saved):
        check_config(folder, saved, self._config)


def restore_shared(folder: pathlib.Path, model) -> None:
    """Loads the state that is equal on all replicas into `model`.

    Raises:
      CheckpointError: the file is damaged or does not fit the model, which is unchanged.
    """
    saved = read_tensors(folder / "replicated")
    check_tensors(folder, {name: tuple(value.shape) for name, value in model.shared_values().items()}, saved)
    model.set_shared_values(saved)


def committed(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the complete checkpoints in `folder`, oldest first."""
    steps = [path for path in pathlib.Path(folder).glob("step_*") if re.fullmatch(r"step_\d{8,}", path.name)]
    return sorted((path for path in steps if (path / "COMMIT").exists()), key=lambda path: int(path.name[5:]))


def newest(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the newest complete checkpoint, or None."""
    complete = committed(folder)
    return complete[-1] if complete else None


def link(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Makes the new folder `target` the same checkpoint as `folder`, by hard links, so that it outlives `folder`.

    Files are copied where the file system has no hard links. COMMIT comes last.

    Raises:
      FileNotFoundError: `folder` was removed meanwhile.
      OSError: `target` cannot be written.
    """
    target.mkdir(parents=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "COMMIT"):
        _link_file(path, target / path.name)
    if not (target / "COMMIT").exists():
        raise FileNotFoundError(f"{folder} is no complete checkpoint any more")


def _link_file(path, target):
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(path, target)


def is_better(best_so_far: Best | None, figure: str, value: float) -> bool:
    """Returns whether a checkpoint with this figure is better. A figure of another name begins anew."""
    if best_so_far is None or best_so_far.figure != figure:
        return True
    is_distance = figure.partition("(")[0] in _DISTANCES
    return value < best_so_far.value if is_distance else value > best_so_far.value


def best(folder: pathlib.Path) -> Best | None:
    """Returns the best checkpoint in `folder`/best, or None.

    There are two of one run if `keep_best` was killed before it removed the old one.
    """
    found = None
    for path in committed(folder / _BEST):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, CheckpointError):
            figure = json.loads((path / _FIGURE).read_text())
            one = Best(path, read_commit(path)["run"], str(figure["figure"]), float(figure["value"]))
            if found is None or one.run != found.run or is_better(found, one.figure, one.value):
                found = one
    return found


def keep_best(folder: pathlib.Path, source: pathlib.Path, figure: str, value: float) -> None:
    """Makes `folder`/best hold the complete checkpoint `source` alone, by `link`. The old one is removed last.

    Raises:
      OSError: `source` was removed, or `folder` cannot be written.
    """
    place, staging = folder / _BEST, folder / _BEST / f".{socket.gethostname()}_{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    link(source, staging / source.name)
    json_lines.write_atomically(staging / source.name / _FIGURE, json.dumps({"figure": figure, "value": value}))
    if (place / source.name).exists():  # of the same step, in a run that was resumed before it
        _remove(place / source.name)
    os.rename(staging / source.name, place / source.name)
    shutil.rmtree(staging)
    for old in committed(place):
        if old.name != source.name:
            _remove_old(old)


def _remove_old(folder):
    """Removes a checkpoint that is no longer needed. A warning if that fails: the newer one is complete."""
    try:
        _remove(folder)
    except OSError as error:
        logging.warning("%s is not needed any more and cannot be removed: %s", folder, first_line(error))


def _remove(folder):
    (folder / "COMMIT").unlink(missing_ok=True)  # first, so that a half-removed folder is ignored after a kill
    shutil.rmtree(folder)


def check_files(folder: pathlib.Path) -> dict:
    """Returns the contents of COMMIT after comparing every file with the digest in it.

    Raises:
      CheckpointError: COMMIT is unreadable or of another format, or a file is missing or is not the one that was saved.
    """
    commit = read_commit(folder)
    prefixes = ["replicated", *(f"worker_{worker}" for worker in range(commit["num_workers"]))]
    expected = {f"{prefix}.{end}" for prefix in prefixes for end in _ENDS}
    if set(commit["files"]) != expected:
        name = min(set(commit["files"]) ^ expected)
        raise CheckpointError(f"{folder / 'COMMIT'} does not list the files of its workers: see {name!r}; {_ADVICE}")
    for name, saved in commit["files"].items():
        path = folder / name
        try:
            actual = _digest(path)
        except FileNotFoundError:
            raise CheckpointError(f"Checkpoint file {path} is missing; {_ADVICE}") from None
        except OSError as error:
            raise CheckpointError(f"Checkpoint file {path} cannot be read: {error.strerror}; {_ADVICE}") from None
        if actual != saved:
            raise CheckpointError(f"Checkpoint file {path} {_difference(path, actual, saved, commit)}; {_ADVICE}")
    return commit


def _difference(path, actual, saved, commit):
    """Says why a file is not the one that was saved."""
    prefix = path.name.partition(".")[0]
    origin, due = _found_origin(path.with_name(prefix)), _origin(commit["run"], commit["step"], prefix)
    other = [f"{key} {origin[key]} and not of {due[key]}" for key in due if origin.get(key, due[key]) != due[key]]
    if other:
        return f"does not belong there: it is of {', '.join(other)}"
    if actual["bytes"] != saved.get("bytes"):
        return f"has {actual['bytes']} bytes instead of {saved.get('bytes')}"
    return "is not the one that was saved: its sha256 differs"


_MOST_REPLICAS = 1 << 16
_COMMIT_TYPES = {"run": str, "step": int, "num_workers": int, "num_replicas": int, "config": dict, "files": dict}


def read_commit(folder: pathlib.Path) -> dict:
    """Returns the contents of COMMIT after a check of its format and types.

    Raises:
      CheckpointError: it is unreadable, or of another format.
    """
    path = folder / "COMMIT"
    try:
        commit = json.loads(path.read_text())
        version = commit["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {_ADVICE}") from None
    if version != FORMAT:
        known = isinstance(version, int) and version in _WRITERS
        writer = f"dqgan-tf {_WRITERS[version]}" if known else "an unknown version of dqgan-tf"
        raise CheckpointError(
            f"{folder} was written by {writer} (checkpoint format {version}); this is dqgan-tf {dqgan_tf.__version__}, "
            f"which reads format {FORMAT}. Finish the run with the version that began it, or use another --model_dir."
        )
    for key, kind in _COMMIT_TYPES.items():
        if key not in commit:
            raise CheckpointError(f"{path} has no {key!r}; {_ADVICE}")
        if type(commit[key]) is not kind:
            raise CheckpointError(f"{path} has {key} = {commit[key]!r}, which is no {kind.__name__}; {_ADVICE}")
    if not all(isinstance(digest, dict) for digest in commit["files"].values()):
        raise CheckpointError(f"{path} holds no digests of its files; {_ADVICE}")
    # A name is made for every worker and replica: a damaged number must not fill the memory.
    are_counts = all(0 < commit[key] <= _MOST_REPLICAS for key in ("num_workers", "num_replicas"))
    if folder.name != _name_of(commit["step"]) or not are_counts:
        counts = ", ".join(f"{key} {commit[key]}" for key in ("step", "num_workers", "num_replicas"))
        raise CheckpointError(f"{path} does not belong there: it is of {counts}; {_ADVICE}")
    return commit


def _check_same_run(folder, run):
    """Raises CheckpointError if the folder also holds complete checkpoints of another run."""
    for path in committed(folder):
        try:
            other = read_commit(path)["run"]
        except CheckpointError:  # an older one that is damaged does no harm
            continue
        if other != run:
            raise CheckpointError(
                f"{folder} holds checkpoints of two runs: {path.name} is of run {other}, the newest of run {run}. "
                "Remove those of one run."
            )


def _name_of(step):
    return f"step_{step:08d}"


def _origin(run, step, prefix):
    return {"run": run, "step": step, "file": prefix}


def _found_origin(prefix):
    """Returns what a file says of its origin, {} if it says nothing."""
    try:
        return dict(json.loads(tf.train.load_checkpoint(os.fspath(prefix)).get_tensor(_ORIGIN)))
    except (*_READ_ERRORS, TypeError):
        return {}


def _digest(path):
    """Returns size and sha256 of a file, as COMMIT holds them."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while piece := file.read(_DIGEST_BYTES):
            digest.update(piece)
            size += len(piece)
    return {"bytes": size, "sha256": digest.hexdigest()}


def check_config(folder: pathlib.Path, saved: dict, config: RunConfig) -> None:
    """Raises CheckpointError if a setting differs from the checkpoint's and is not one of `FREE_FIELDS`.

    A setting that the checkpoint does not have, because a version without it wrote the checkpoint, had its default.
    """
    before, now = RunConfig().flat() | flatten(saved), config.flat()
    free = set(FREE_FIELDS)
    if config.optimizer.learning_rate_schedule != "constant":
        free.remove("train.steps")  # length of the schedule
    for key in sorted(set(before) | set(now)):
        if key not in free and before.get(key) != now.get(key):
            flag = key.split(".")[-1]
            raise CheckpointError(
                f"{folder} was trained with --{flag}={before.get(key)}, this run asks for --{flag}={now.get(key)}. "
                "Use another --model_dir or the old setting."
            )


def check_tensors(folder: pathlib.Path, expected: dict[str, tuple], tensors: dict[str, np.ndarray]) -> None:
    """Raises CheckpointError for the first name or shape that is not as expected, or value that is not finite."""
    for name in sorted(set(expected) | set(tensors)):
        wanted, got = expected.get(name), tensors[name].shape if name in tensors else None
        if wanted is None or wanted != got:
            raise CheckpointError(f"{folder} does not fit: {name} has shape {got} there and {wanted} in this run.")
        if not np.isfinite(tensors[name]).all():
            raise CheckpointError(f"{folder} holds values in {name} that are not finite; {_ADVICE}")


def write_tensors(prefix: str | os.PathLike, tensors: Mapping[str, tf.Tensor]) -> None:
    """Writes a TensorFlow checkpoint, `prefix`.index and `prefix`.data-00000-of-00001, and waits for the disk.

    Raises:
      OSError, tf.errors.OpError: the disk is full or cannot be written.
    """
    prefix, names, values = os.fspath(prefix), list(tensors), list(tensors.values())
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)
    for end in _ENDS:
        with open(f"{prefix}.{end}", "rb") as file:
            os.fsync(file.fileno())


def read_tensors(prefix: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the tensors that `write_tensors` wrote, by name.

    Raises:
      CheckpointError: a file is missing, truncated or damaged (TensorFlow compares checksums).
    """
    try:
        reader = tf.train.load_checkpoint(os.fspath(prefix))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if name != _ORIGIN}
    except _READ_ERRORS as error:
        raise CheckpointError(f"Checkpoint file {prefix} cannot be read: {first_line(error)}") from None
