"""Runs one cell of a suite in this process; prints lines of progress, and the row as JSON in the last line.

python -m benchmarks.suites_run --suite=games --cell=nonlinear/dqgan/sign:bucket=512/M=8/homogeneous/seed=0

With --processes this is one of M workers, which TF_CONFIG names; the first one judges.
"""

import collections
import dataclasses
import json
import math
import time

import tensorflow as tf
from absl import flags

from benchmarks import cells, suite_parts, suites
from dqgan_tf.errors import PeerLostError, UsageError
from dqgan_tf.tensorflow_texts import is_peer_lost, reason
from dqgan_tf.training import command

_SUITE = flags.DEFINE_enum("suite", None, list(suites.SUITES), "The suite.", required=True)
_CELL = flags.DEFINE_string("cell", None, "The run; see `cells.parse`.", required=True)
_PICTURE = command.define_path("picture", "PNG file for samples of the averaged generator at the end.")
_DATA_DIR = command.define_path("data_dir", "Prepared TensorFlow Datasets directory.")
_NETWORK = command.define_path("feature_network", "npz of the ResNet that judges images; see `evaluation.features`.")
_CACHE_DIR = command.define_path("cache_dir", "Folder of the small classifier that judges without --feature_network.")
_SMALL = flags.DEFINE_bool("small", False, "As in the small form of the suite.")
_PUBLISHED = flags.DEFINE_bool("published", False, "Network and steps of the preset; GPUs are used if there are any.")
_PROCESSES = flags.DEFINE_bool("processes", False, "Each worker of the cell is a process with one replica.")
_KEPT = []  # TensorFlow 2.21 destroys the iterator of 32 replicas in minutes of waiting: the process exits without that


def main(arguments):
    del arguments
    suite, cell = suites.get(_SUITE.value, _SMALL.value, _PUBLISHED.value), cells.parse(_CELL.value)
    run = _game if suite.kind == cells.GAMES else _training
    try:
        row = run(suite, cell)
    except tf.errors.OpError as error:
        if not (_PROCESSES.value and is_peer_lost(error)):
            raise
        raise PeerLostError(f"Another worker is lost: {reason(error)}") from None
    print(json.dumps(_finite(row)))


def _game(suite, cell):
    from benchmarks import games
    from dqgan_tf.training import job as job_lib

    game = games.GAMES[cell.problem]
    # Momentum has the size of a gradient.
    direction = "adam" if cells.method(cell.method).settings["optimizer.direction"] == "adam" else "sgd"
    rate = game.rates[direction]
    settings = {"train.steps": game.steps, "optimizer.learning_rate_g": rate, "optimizer.learning_rate_d": rate}
    config = cells.run_config(suite, cell, settings, _PROCESSES.value)
    if config.compression.flush_residuals:
        raise UsageError(f"A game is judged by its last quarter, where no residual is flushed. Received: {cell.name}")
    instance = games.Instance(game, direction, cell.workers, cell.shards, cell.seed)
    strategy = job_lib.start_strategy(config)
    _check_replicas(cell, strategy)
    iterator = games.batches(instance, strategy)
    _KEPT.append(iterator)
    return games.train(instance, config, strategy, iterator, suite.marks, _tell)


def _training(suite, cell):
    """Trains as `trainers.train` does, without its files; evaluates at the marks."""
    from dqgan_tf.distribute.message_board import MessageBoard
    from dqgan_tf.training import job as job_lib
    from dqgan_tf.training import summary

    settings = cells.preset(cell.problem) | {"data.data_dir": _DATA_DIR.value}
    config = cells.run_config(suite, cell, settings, _PROCESSES.value)
    strategy = job_lib.start_strategy(config)
    _check_replicas(cell, strategy)
    judges = strategy.worker_index == 0
    spec = job_lib.describe(config, strategy)
    job = job_lib.build(config, spec, strategy, MessageBoard(strategy.worker_index, strategy.num_workers))
    model, steps, iterator = job.model, config.train.steps, job.iterator(job.dataset(0))
    judge = dict
    if judges:
        judge = _points_judge(spec, model) if spec.kind == "points" else _image_judge(config, spec, model)
    _KEPT.append(iterator)
    curve, seconds, done = collections.defaultdict(list), 0.0, 0
    for mark in range(1, suite.marks + 1):
        count = steps * mark // suite.marks - done
        started = time.perf_counter()
        model.train_steps(iterator, count)
        seconds += (time.perf_counter() - started) * (mark > 1)
        done += count
        spread = cells.spread(model)  # before residuals are flushed
        if done == steps and config.compression.flush_residuals:
            model.flush_residuals()
        figures = judge() | {"spread": spread}
        for name, value in ({"step": done, "seconds": round(seconds, 3)} | figures).items():
            curve[name].append(value)
        _tell(done, steps)
    if _PICTURE.value and judges:
        _draw(spec, model)
    volume, flushed = model.bytes_per_step(range(1, steps + 1)), 0.0
    if config.compression.flush_residuals:  # float32 of both players, and of the averages of the generator's residuals
        sizes = [
            sum(math.prod(weight.shape) for weight in player.trainable_variables)
            for player in (model.generator, model.discriminator)
        ]
        flushed = volume["dense_sent_bytes"] * (1 + sizes[0] / sum(sizes)) / steps
    return figures | {
        "steps": done,
        "skipped": int(model.local_value(model.skipped)),
        "sent_bytes_per_step": volume["sent_bytes"] + flushed,
        "weights_sha256": summary.weights_sha256(model),
        "train_command": cells.train_command(config, strategy.num_workers),
        "curve": curve,
    }


def _check_replicas(cell, strategy):
    if strategy.num_replicas_in_sync == cell.workers:
        return
    found = strategy.num_replicas_in_sync
    if _PROCESSES.value:
        raise UsageError(f"{cell.name} needs {cell.workers} processes in TF_CONFIG. Received: {found} replicas")
    raise UsageError(
        f"{cell.name} needs {cell.workers} GPUs or none, for as many replicas: hide the others with "
        f"CUDA_VISIBLE_DEVICES. Received: {found} GPUs"
    )


def _points_judge(spec, model):
    """Returns a function () -> figures of the modes of points."""
    from dqgan_tf.training import summary

    return lambda: summary.quality(spec, model)


def _image_judge(config, spec, model):
    """Returns a function () -> figures of images, averaged generator and raw one, by a network no run has seen."""
    from dqgan_tf.config import EvaluationConfig
    from dqgan_tf.training.evaluation import Evaluator

    count = suite_parts.SMALL_IMAGES if _SMALL.value else suite_parts.IMAGES
    judge = EvaluationConfig(count, feature_network=_NETWORK.value, cache_dir=_CACHE_DIR.value)
    config = dataclasses.replace(config, evaluation=judge)
    evaluator = Evaluator(config, spec)

    def judged():
        rows = {"num_samples": count}
        for prefix in ("raw_", ""):
            figures = evaluator.evaluate(model, use_ema=not prefix)
            figures = {name.partition("(")[0]: value for name, value in figures.items()}
            rows |= {f"{prefix}{name}": figures[name] for name in ("frechet_distance", "precision", "recall")}
            rows |= {name: value for name, value in figures.items() if name.startswith("feature_network")}
        return rows

    return judged


def _draw(spec, model):
    """Writes the picture; all runs of a suite draw from equal latents."""
    import pathlib

    from dqgan_tf.telemetry import pictures
    from dqgan_tf.training import samples

    count = samples.POINTS_PER_PICTURE if spec.kind == "points" else samples.IMAGES_PER_PICTURE
    pathlib.Path(_PICTURE.value).parent.mkdir(parents=True, exist_ok=True)
    pictures.write_png(_PICTURE.value, samples.picture(spec, samples.draw(model, count, use_ema=True)))


def _tell(done, steps):
    print(f"{done}/{steps} steps", flush=True)


def _finite(value):
    """JSON has neither infinity nor NaN: null stands for both."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    command.run(main, exits_at_once=True)
