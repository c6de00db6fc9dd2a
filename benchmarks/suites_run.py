"""Runs one cell of a suite in this process; prints lines of progress, and the row as JSON in the last line.

python -m benchmarks.suites_run --suite=games --cell=nonlinear/dqgan/sign:bucket=512/M=8/homogeneous/seed=0
"""

import collections
import json
import math
import time

from absl import flags

from benchmarks import suites
from dqgan_tf.training import command

_SUITE = flags.DEFINE_enum("suite", None, list(suites.SUITES), "The suite.", required=True)
_CELL = flags.DEFINE_string("cell", None, "The run; see `suites.parse`.", required=True)
_SMALL = flags.DEFINE_bool("small", False, "As in the small form of the suite.")


def main(arguments):
    del arguments
    suite, cell = suites.get(_SUITE.value, _SMALL.value), suites.parse(_CELL.value)
    row = _game(suite, cell) if suite.kind == suites.GAMES else _training(suite, cell)
    print(json.dumps(_finite(row)))


def _game(suite, cell):
    from benchmarks import games
    from dqgan_tf.training import job as job_lib

    game = games.GAMES[cell.problem]
    rate = game.rates[suites.METHODS[cell.method].settings["optimizer.direction"]]
    settings = {"train.steps": game.steps, "optimizer.learning_rate_g": rate, "optimizer.learning_rate_d": rate}
    config = suites.run_config(suite, cell, settings)
    instance = games.Instance(game, cell.workers, cell.shards, cell.seed)
    return games.train(instance, config, job_lib.start_strategy(config), suite.marks, _tell)


def _training(suite, cell):
    """Trains as `trainers.train` does, in one process and without its files; evaluates at the marks."""
    from dqgan_tf.distribute.message_board import MessageBoard
    from dqgan_tf.training import job as job_lib
    from dqgan_tf.training import summary

    config = suites.run_config(suite, cell, suites.preset(cell.problem))
    strategy = job_lib.start_strategy(config)
    spec = job_lib.describe(config, strategy)
    job = job_lib.build(config, spec, strategy, MessageBoard(strategy.worker_index, strategy.num_workers))
    model, steps, iterator = job.model, config.train.steps, job.iterator(0)
    curve, seconds, done = collections.defaultdict(list), 0.0, 0
    for mark in range(1, suite.marks + 1):
        count = steps * mark // suite.marks - done
        started = time.perf_counter()
        model.train_steps(iterator, count)
        seconds += (time.perf_counter() - started) * (mark > 1)
        done += count
        figures = summary.quality(spec, model)
        for name, value in ({"step": done, "seconds": round(seconds, 3)} | figures).items():
            curve[name].append(value)
        _tell(done, steps)
    return figures | {
        "steps": done,
        "skipped": int(model.local_value(model.skipped)),
        "sent_bytes_per_step": model.channel.sent_bytes,
        "weights_sha256": summary.weights_sha256(model),
        "train_command": suites.train_command(config),
        "curve": curve,
    }


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
    command.run(main)
