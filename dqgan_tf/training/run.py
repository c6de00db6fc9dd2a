"""One worker's run from start to end."""

import json
import pathlib
import sys

import tensorflow as tf

from dqgan_tf.config import RunConfig
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.errors import LostConnectionError
from dqgan_tf.training import agreement, job, peer_errors, summary
from dqgan_tf.training.checkpoint import Checkpoints
from dqgan_tf.training.errors import PeerLostError, TrainingError, UsageError
from dqgan_tf.training.loop import Loop, describe_start
from dqgan_tf.training.reporter import Reporter
from dqgan_tf.training.stop_signal import StopSignal


def run(config: RunConfig) -> int:
    """Trains, or resumes, or finds nothing to do. Returns the exit code: 0, or 128 + the signal that stopped it.

    Raises:
      UsageError, ValueError: the user's to mend.
      TrainingError: the run cannot go on.
      PeerLostError: another worker is gone.
    """
    job.check(config)
    try:
        strategy = job.start_strategy(config)
    except tf.errors.OpError as error:
        reason = peer_errors.reason(error)
        raise PeerLostError(
            f"The cluster of TF_CONFIG did not come together ({type(error).__name__}: {reason})."
        ) from None
    with StopSignal() as stop:  # after the strategy: its preemption notifier takes SIGTERM for itself (TensorFlow 2.21)
        board = MessageBoard(strategy.worker_index, strategy.num_workers)
        try:
            code = _run(config, strategy, board, stop)
            board.part()
            return code
        except (UsageError, TrainingError, ValueError):
            board.part()
            raise
        except LostConnectionError as error:  # while connecting
            raise PeerLostError(f"The workers could not connect: {error}.") from None
        except tf.errors.OpError as error:
            if strategy.num_workers == 1 or not peer_errors.is_peer_lost(error):
                raise
            raise PeerLostError(
                f"Worker {strategy.worker_index} lost another worker ({type(error).__name__}: "
                f"{peer_errors.reason(error)}). Start all workers again: the run resumes from its last complete "
                "checkpoint."
            ) from None


def _run(config, strategy, board, stop):
    agreement.check(board, config)
    spec = _together(board, lambda: job.describe(config, strategy))
    _compare_data(board, spec)
    the_job = job.build(config, spec, strategy, board)
    folder = pathlib.Path(config.model_dir) / "checkpoints"
    checkpoints = Checkpoints(folder, config, the_job.model, board, strategy, config.train.keep_checkpoints)
    restored = _together(board, checkpoints.restore)
    if restored.step >= config.train.steps and summary.steps_of(config.model_dir) == restored.step:
        return _nothing_to_do(config, strategy, board, restored.step)
    reporter = _together(board, lambda: Reporter(the_job, restored.step))
    iterator = _together(board, lambda: the_job.iterator(restored.step))
    reporter.say(describe_start(config, restored.step, the_job))
    if restored.num_replicas != strategy.num_replicas_in_sync:
        reporter.say(_world_changed(restored.num_replicas, strategy.num_replicas_in_sync))
    if restored.step == 0:
        reporter.say("The first call traces and compiles; that takes half a minute or so.")
    loop = Loop(the_job, checkpoints, reporter, stop, restored.step)
    received = loop.run(iterator)
    if not received:
        loop.finish()
        return 0
    reporter.say(f"Stopped by signal {received} after a checkpoint; the same command resumes.")
    loop.close()
    return 128 + received


def _compare_data(board, spec):
    """The data set lies where each worker keeps it, so its version may differ."""
    text = f"{spec.name} with {spec.num_examples} examples of shape {spec.shape}"
    texts = board.exchange("data", text)
    for index, other in enumerate(texts):
        if other != texts[0]:
            raise UsageError(f"The workers see different data: {texts[0]} on worker 0, {other} on worker {index}.")


def _together(board, action):
    """Runs `action`, which uses no collective; a worker's usage error ends all workers with its text."""
    error, result = None, None
    try:
        result = action()
    except (UsageError, ValueError, OSError, tf.errors.OpError) as caught:
        error = caught
    for index, text in enumerate(board.exchange("ready", "" if error is None else str(error))):
        if text:
            raise UsageError(
                " ".join(text.split()) if error is not None else f"Worker {index}: {' '.join(text.split())}"
            )
    return result


def _nothing_to_do(config, strategy, board, step):
    if strategy.is_chief:
        print(f"Nothing to do: {config.model_dir} holds a finished run of {step} steps.", file=sys.stderr, flush=True)
        path = pathlib.Path(config.model_dir) / "summary.json"
        print(summary.table(json.loads(path.read_text()), config.model_dir), flush=True)
    board.exchange("end", "")
    return 0


def _world_changed(before, now):
    return (
        f"The number of replicas changed from {before} to {now}. Every replica starts from the mean of the old "
        "residuals, directions and moments, so that what the residuals owe to the weights, (1/M) sum_m e^m, is kept."
    )
