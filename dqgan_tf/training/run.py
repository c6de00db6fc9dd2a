"""Runs one worker: checks that all workers agree, builds the job, restores a checkpoint, trains."""

import contextlib
import hashlib
import json
import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import dqgan_tf
from dqgan_tf.config import RunConfig
from dqgan_tf.distribute import tf_config
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.errors import (
    EXIT_FAULT,
    EXIT_USAGE,
    LostConnectionError,
    PeerLostError,
    TrainingError,
    UsageError,
)
from dqgan_tf.tensorflow_texts import first_line, is_full_disk, is_peer_lost, reason
from dqgan_tf.training import evaluation, restore, summary
from dqgan_tf.training import evaluator as evaluator_task
from dqgan_tf.training import job as job_lib
from dqgan_tf.training.checkpoint import Checkpoints
from dqgan_tf.training.evaluation import Evaluator
from dqgan_tf.training.loop import Loop, StopSignal, describe_start
from dqgan_tf.training.reporter import Reporter

# A file of the model_dir that cannot be read or written, as Python and as TensorFlow's file system report it.
_FILE_ERRORS = (OSError, tf.errors.PermissionDeniedError)

_READY_SECONDS = 600.0  # how long a worker that is ready waits for the others
_EVALUATOR_SECONDS = 7200.0  # limit for the chief to train the small classifier of an evaluation

_AGAIN = "Start all workers again: the run resumes from its last complete checkpoint."


def run(config: RunConfig) -> int:
    """Trains, or resumes, or prints that the run is finished. Returns the exit code: 0, or 128 + the signal.

    As the task `evaluator` of TF_CONFIG, it evaluates the checkpoints of the workers; see `evaluator.run`.

    Raises:
      UsageError: a setting, a file or the cluster cannot be used; on every worker.
      TrainingError: the run cannot continue; on every worker.
      PeerLostError: another worker is lost.
    """
    job_lib.check(config)
    if tf_config.is_evaluator(os.environ):
        return evaluator_task.run(config)
    try:
        strategy = job_lib.start_strategy(config)
    except tf.errors.OpError as error:
        text = f"{type(error).__name__}: {reason(error)}"
        raise PeerLostError(f"The workers of TF_CONFIG could not connect ({text}). {_AGAIN}") from None
    with StopSignal() as stop:  # after the strategy, whose preemption notifier handles SIGTERM (TensorFlow 2.21)
        board = strategy.message_board()
        try:
            code = _run(config, strategy, board, stop)
            board.leave()
            return code
        except (UsageError, TrainingError):  # raised by all workers
            board.leave()
            raise
        except LostConnectionError as error:  # while connecting, or in the message board
            raise PeerLostError(f"Worker {strategy.worker_index} has no connection: {error}. {_AGAIN}") from None
        except tf.errors.OpError as error:
            if strategy.num_workers == 1 or not is_peer_lost(error):
                raise
            raise PeerLostError(
                f"Worker {strategy.worker_index} lost another worker ({type(error).__name__}: "
                f"{reason(error)}). {_AGAIN}"
            ) from None


def _run(config, strategy, board, stop):
    check_agreement(board, config)
    spec = run_on_all_workers(board, lambda: _describe(config, strategy), _reading_seconds(config))
    _check_equal_data(board, spec)
    job = job_lib.build(config, spec, strategy, board)
    with contextlib.closing(Checkpoints(job)) as checkpoints:
        return _train(job, checkpoints, stop)


def _describe(config, strategy):
    spec = job_lib.describe(config, strategy)
    evaluation.check(config.evaluation, spec)
    return spec


def _train(job, checkpoints, stop):
    config, strategy, board = job.config, job.strategy, job.board
    restored = run_on_all_workers(board, checkpoints.restore)
    if restored.step:
        run_on_all_workers(board, lambda: restore.check_data(config, job.data_spec))
    if config.train.warm_start and not restored.step:
        run_on_all_workers(board, lambda: restore.warm_start(job.model, config.train.warm_start))
    if restored.step >= config.train.steps and _is_finished(board, config.model_dir, restored.step):
        return _nothing_to_do(config, strategy, board, restored.step)
    # Faulty data leave no files.
    dataset = run_on_all_workers(board, lambda: job.dataset(restored.step), _reading_seconds(config))
    evaluator = None
    if config.train.eval_every:  # before the first step: it may be refused, and may train a classifier
        evaluator = run_on_all_workers(board, lambda: _evaluator(job), _EVALUATOR_SECONDS)
    reporter = run_on_all_workers(board, lambda: Reporter(job, restored.step))
    reporter.say(describe_start(config, restored.step, job))
    if restored.num_replicas != strategy.num_replicas_in_sync:
        reporter.say(
            f"The number of replicas changed from {restored.num_replicas} to {strategy.num_replicas_in_sync}. Every "
            "replica starts from the mean of the old residuals, directions and moments; see docs/operations.md."
        )
    if restored.step == 0:
        several = strategy.num_replicas_in_sync > strategy.num_workers
        longer = ", with several replicas on one worker longer" if several else ""
        reporter.say(f"The first call traces and compiles the step, which takes about half a minute{longer}.")
    if config.evaluation.best_figure != "none" and not config.train.eval_every:
        reporter.say("--best_figure: an evaluator chooses the best checkpoint, because this run has --eval_every=0.")
    loop = Loop(job, checkpoints, reporter, stop, restored.step, evaluator)
    if restored.step == 0 and config.train.sample_every:
        reporter.sample(0, dataset)
    received = loop.run(job.iterator(dataset))
    if not received:
        loop.finish()
        return 0
    reporter.say(f"Saved a checkpoint and stopped by signal {received}. The same command resumes the run.")
    loop.close()
    return 128 + received


def _reading_seconds(config):
    """Returns how long a worker that has read its data waits for the others."""
    return max(_READY_SECONDS, config.train.start_timeout)


def _is_finished(board, model_dir, step):
    """Whether summary.json says that the run ended at `step`: the chief's answer, because others may see it later."""
    return json.loads(board.exchange("finished", json.dumps(summary.steps_of(model_dir) == step))[0])


def _evaluator(job):
    return Evaluator(job.config, job.data_spec) if job.strategy.is_chief else None


def run_on_all_workers(board: MessageBoard, action, timeout_seconds: float = _READY_SECONDS):
    """Runs `action` on every worker and returns its result; if it fails on one worker, all workers raise.

    `action` must not use collectives: if it fails on one worker, the others would wait in the collective forever.
    A worker that is ready waits `timeout_seconds` at most for the others.

    Raises:
      UsageError: on every worker, if one raised it or could not use a file.
      PeerLostError: another worker raised any other exception; the message names the worker and the exception.
      Exception: this worker raised it.
    """
    result, error, code, text = None, None, 0, ""
    try:
        result = action()
    except (UsageError, *_FILE_ERRORS) as caught:
        error, code, text = caught, EXIT_USAGE, " ".join(str(caught).split())
    except Exception as caught:
        if is_full_disk(caught):
            error, code, text = caught, EXIT_USAGE, first_line(caught)
        else:
            error, code, text = caught, EXIT_FAULT, f"{type(caught).__name__}: {first_line(caught)}"
    answers = [json.loads(answer) for answer in board.exchange("ready", json.dumps([code, text]), timeout_seconds)]
    failures = [(first_code, index, answer) for index, (first_code, answer) in enumerate(answers) if first_code]
    if not failures:
        return result
    first_code, index, answer = min(failures)  # a usage error before a fault, then the lowest index
    if EXIT_FAULT in (code, first_code):
        board.leave()
    if error is not None and code == EXIT_FAULT:
        raise error
    if first_code == EXIT_FAULT:
        raise PeerLostError(f"Worker {index} met a fault: {answer}. Its own output has the traceback.")
    raise UsageError(text if error else f"Worker {index}: {answer}") from error


def check_agreement(board: MessageBoard, config: RunConfig) -> None:
    """Compares settings, code and versions of all workers before the first step.

    Raises:
      UsageError: on every worker, naming the first differences and each side's value.
    """
    texts = board.exchange("configuration", json.dumps(identity(config), sort_keys=True))
    differences = find_differences([json.loads(text) for text in texts])
    if differences:
        raise UsageError(
            "The workers disagree: " + "; ".join(differences[:3]) + ". Start all with the same flags and code."
        )


def identity(config: RunConfig) -> dict:
    """Returns the values that must be equal on all workers: shared settings, hash of the library's code, versions."""
    return (
        config.shared()
        | {
            "code": code_hash(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": ".".join(np.__version__.split(".")[:2]),  # another minor version may draw other random numbers
            "python": ".".join(map(str, sys.version_info[:2])),
        }
    )


def find_differences(identities: list[dict]) -> list[str]:
    """Returns a sentence for each key in which a worker differs from worker 0."""
    differences = []
    for key in sorted(set().union(*identities)):
        values = [identity_.get(key) for identity_ in identities]
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            name = "--" + key.split(".")[-1] if "." in key else key
            differences.append(f"{name} is {values[0]!r} on worker 0 and {values[other]!r} on worker {other}")
    return differences


def code_hash() -> str:
    """Returns the sha256 (hex, first 16 digits) of the library's Python files, without the binaries of a wheel."""
    root = pathlib.Path(dqgan_tf.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(set(root.rglob("*.py")) - set((root / "_commands").rglob("*.py"))):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _check_equal_data(board, spec):
    """Compares the data sets, because each worker reads its own copy."""
    classes = f" in {spec.num_classes} classes" if spec.num_classes else ""
    text = f"{spec.name} with {spec.num_examples} examples of shape {spec.shape}{classes}"
    texts = board.exchange("data", text)
    for index, other in enumerate(texts):
        if other != texts[0]:
            raise UsageError(f"The workers see different data: {texts[0]} on worker 0, {other} on worker {index}.")


def _nothing_to_do(config, strategy, board, step):
    if strategy.is_chief:
        print(f"Nothing to do: {config.model_dir} holds a finished run of {step} steps.", file=sys.stderr, flush=True)
        path = pathlib.Path(config.model_dir) / "summary.json"
        print(summary.table(json.loads(path.read_text()), config.model_dir), flush=True)
    board.exchange("end", "")
    return 0
