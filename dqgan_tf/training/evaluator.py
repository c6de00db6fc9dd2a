"""The task `evaluator` of TF_CONFIG: a process beside a job that evaluates every checkpoint of its run.

MODEL_DIR/evaluator/evaluations.jsonl    a line for each checkpoint: step, name of the run, hash of the weights, figures
MODEL_DIR/tensorboard/evaluator/         the same for TensorBoard: a run below that of the chief
MODEL_DIR/evaluator/reading/             links to the files of the checkpoint that is read, which the job may remove

It takes no part in the cluster: workers neither know of it nor wait for it.
"""

import contextlib
import dataclasses
import pathlib
import shutil
import sys
import time
import traceback

import tensorflow as tf

from dqgan_tf.config import RunConfig
from dqgan_tf.errors import CheckpointError, PeerLostError, UsageError
from dqgan_tf.telemetry import json_lines, tensorboard
from dqgan_tf.training import checkpoint, evaluation, folder_lock, restore, summary
from dqgan_tf.training.loop import StopSignal

_POLL_SECONDS = 1.0
_NOTICE_SECONDS = 30.0  # time between two lines that say that there is no job


def run(config: RunConfig) -> int:
    """Evaluates the checkpoints of the run in `config.model_dir` until it is finished.

    Returns:
      0 when the run is finished and its last checkpoint is evaluated, or 128 + the signal that ended this process.

    Raises:
      UsageError: the run has other settings, another evaluator is at work, or figures cannot be computed.
      PeerLostError: no job has worked in the model_dir for `start_timeout` seconds, and the run is not finished.
    """
    for gpu in tf.config.list_physical_devices("GPU"):  # workers may use it, too
        tf.config.experimental.set_memory_growth(gpu, True)
    output = pathlib.Path(config.model_dir) / "evaluator"
    folder_lock.acquire(output)
    with StopSignal() as stop, contextlib.closing(_Task(config, output)) as task:
        try:
            with stop.interrupting():
                if stop.received is None:  # it may have come before this line
                    task.follow()
                    return 0
        finally:
            folder_lock.release(output)
    _say(f"The evaluator ends by signal {stop.received}. The same command goes on with the newest checkpoint.")
    return 128 + (stop.received or 0)


class _Task:
    """Follows one run.

    Args:
      config: settings of the run, equal to those of its workers.
      output: folder of the evaluator's files.
    """

    def __init__(self, config, output):
        self._config, self._output = config, output
        self._checkpoints = pathlib.Path(config.model_dir) / "checkpoints"
        self._entries = json_lines.read(output / "evaluations.jsonl")
        self._lines = json_lines.JsonLinesWriter(output / "evaluations.jsonl", sys.maxsize)  # drops a torn last line
        self._curves = None
        self._run = self._trained = self._evaluator = None  # random name of the run, its model, the evaluator
        self._passed = set()  # folders of checkpoints that could not be evaluated, with their COMMIT's time

    def close(self):
        self._lines.close()
        if self._curves is not None:
            self._curves.close()
        shutil.rmtree(self._output / "reading", ignore_errors=True)

    def follow(self):
        """Returns when the run is finished and its last checkpoint evaluated."""
        clock = _JobClock(self._config)
        while True:
            folders = checkpoint.committed(self._checkpoints)
            pending = [folder for folder in folders if self._is_pending(folder)]
            if pending:
                self._take(pending[-1])
                clock.restart()
            elif self._is_finished(folders):
                _say(f"The run is finished. {len(self._entries)} evaluations are in {self._output}.")
                return
            else:
                clock.check("its next checkpoint" if folders else "its first checkpoint")
                time.sleep(_POLL_SECONDS)

    def _is_pending(self, folder):
        """Whether a checkpoint is neither evaluated nor passed over. One that is removed meanwhile is not."""
        try:
            key = _key(folder)
            if key in self._passed:
                return False
            commit = checkpoint.read_commit(folder)
        except FileNotFoundError:
            return False
        except CheckpointError as error:
            if (folder / "COMMIT").exists():
                self._pass_over(folder, key, error)
            return False
        return not any(_is_of(entry, commit) for entry in self._entries)

    def _is_finished(self, folders):
        """As `run.run` decides whether there is nothing to do."""
        steps = summary.steps_of(self._config.model_dir)
        last = int(folders[-1].name[5:]) if folders else -1
        return steps is not None and steps == last >= self._config.train.steps

    def _take(self, folder):
        """Evaluates a checkpoint, through links to its files."""
        reading = self._output / "reading"
        shutil.rmtree(reading, ignore_errors=True)
        try:
            key = _key(folder)
            checkpoint.link(folder, reading / folder.name)
        except FileNotFoundError:
            _say(f"{folder.name} was removed before it could be read.")
            return
        try:
            self._evaluate(reading / folder.name)
        except CheckpointError as error:
            self._pass_over(folder, key, error)
        except UsageError:
            raise
        except Exception:  # figures of weights that are not finite, for example
            self._pass_over(folder, key, traceback.format_exc())

    def _pass_over(self, folder, key, reason):
        self._passed.add(key)
        _say(f"{folder.name} is passed over: {reason}")

    def _evaluate(self, folder):
        commit = checkpoint.check_files(folder)
        if commit["run"] != self._run:
            self._load(folder, commit)
        else:
            checkpoint.restore_shared(folder, self._trained.model)
        start = time.monotonic()
        figures = self._evaluator.evaluate(self._trained.model)
        _say(f"step {commit['step']}  {_line(figures)}  ({time.monotonic() - start:.1f} s)")
        entry = {"step": commit["step"], "run": commit["run"], "weights": _weights(commit)} | figures
        best = evaluation.best_value(self._config.evaluation.best_figure, figures)
        so_far = checkpoint.best(self._checkpoints)
        if best and checkpoint.is_better(so_far if so_far and so_far.run == commit["run"] else None, *best):
            try:
                checkpoint.keep_best(self._checkpoints, folder, *best)
            except OSError:
                self._record(entry)
                raise
            _say(f"step {commit['step']} has the best {best[0]} so far: {best[1]:.4g}")
        self._record(entry)  # last: a signal before this line makes the next start evaluate the checkpoint again

    def _load(self, folder, commit):
        """Builds the model of a run, and the evaluator with the features of the real images."""
        try:
            checkpoint.check_config(folder, commit["config"], self._config)
        except CheckpointError as error:
            raise UsageError(f"Start the evaluator with the flags of the workers: {error}") from None
        self._trained = restore.load(self._config.model_dir, self._config.data.data_dir, folder)
        config = dataclasses.replace(self._trained.config, evaluation=self._config.evaluation)
        self._evaluator = evaluation.Evaluator(config, self._trained.data_spec)
        self._run = commit["run"]
        self._write_curves()

    def _record(self, entry):
        self._lines.write(entry["step"], entry)
        self._entries.append(entry)
        if any(other["step"] >= entry["step"] for other in self._entries[:-1]):
            self._write_curves()  # TensorBoard drops points behind a step that comes again
            return
        with self._curves.as_default(entry["step"]):
            tensorboard.write_evaluation(entry)
        self._curves.flush()

    def _write_curves(self):
        """Writes the event file anew, in the order of steps."""
        if self._curves is not None:
            self._curves.close()
        folder = pathlib.Path(self._config.model_dir) / "tensorboard" / "evaluator"
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        self._curves = tf.summary.create_file_writer(str(folder))
        for entry in sorted(self._entries, key=lambda entry: entry["step"]):
            with self._curves.as_default(entry["step"]):
                tensorboard.write_evaluation(entry)
        self._curves.flush()


class _JobClock:
    """Says what the evaluator waits for, and ends it when no job has worked for `start_timeout` seconds."""

    def __init__(self, config):
        self._config = config
        self._folder = pathlib.Path(config.model_dir) / "checkpoints"
        self._last_seen = time.monotonic()
        self._said, self._said_at = "", 0.0

    def restart(self):
        """Begins to wait anew."""
        self._last_seen = time.monotonic()

    def check(self, what):
        """Raises PeerLostError if no job has held the lock of the checkpoints for too long."""
        now, limit = time.monotonic(), self._config.train.start_timeout
        if folder_lock.is_held(self._folder):
            self._last_seen = now
            self._tell(f"The evaluator waits for {what} in {self._folder}.", repeat=False)
            return
        if now - self._last_seen > limit:
            raise PeerLostError(
                f"No job has worked in {self._config.model_dir} for {limit:g} s (--start_timeout), and its run is not "
                "finished. Start the workers, then the evaluator again."
            )
        self._tell(f"The evaluator waits for a job that works in {self._config.model_dir}, at most {limit:g} s.")

    def _tell(self, text, repeat=True):
        now = time.monotonic()
        if text != self._said or repeat and now - self._said_at > _NOTICE_SECONDS:
            _say(text)
            self._said, self._said_at = text, now


def _key(folder):
    """Names one writing of a checkpoint: a run that is resumed may write the same step again."""
    return folder.name, (folder / "COMMIT").stat().st_mtime_ns


def _is_of(entry, commit):
    """Whether an evaluation is one of a checkpoint. A step may be saved again with other weights (flush_residuals)."""
    is_step = (entry["run"], entry["step"]) == (commit["run"], commit["step"])
    return is_step and entry.get("weights") in (None, _weights(commit))  # lines of older versions have none


def _weights(commit):
    """Names the weights of a checkpoint, by the digest of their file."""
    return commit["files"].get("replicated.data-00000-of-00001", {}).get("sha256", "")[:16]


def _line(figures):
    """Returns the figures that tell most, as a short text."""
    stems = ("modes_found", "high_quality_fraction", "frechet_distance", "FID", "precision", "recall")
    shown = {name.partition("(")[0]: value for name, value in figures.items() if name.partition("(")[0] in stems}
    return "  ".join(f"{name} {value:.4g}" for name, value in shown.items())


def _say(text):
    print(text, file=sys.stderr, flush=True)
