"""Runs one cell of a suite in this process; prints lines of progress, and the row as JSON in the last line.

python -m benchmarks.suites_run --suite=games --cell=nonlinear/dqgan/sign:bucket=512/M=8/homogeneous/seed=0
"""

import json
import math

from absl import flags

from benchmarks import suites
from dqgan_tf.training import command

_SUITE = flags.DEFINE_enum("suite", None, list(suites.SUITES), "The suite.", required=True)
_CELL = flags.DEFINE_string("cell", None, "The run; see `suites.parse`.", required=True)
_SMALL = flags.DEFINE_bool("small", False, "As in the small form of the suite.")
_MARKS = 64


def main(arguments):
    del arguments
    suite, cell = suites.get(_SUITE.value, _SMALL.value), suites.parse(_CELL.value)
    row = _game(suite, cell)
    print(json.dumps(_finite(row)))


def _strategy(workers):
    """Returns a strategy of `workers` replicas in this process, one logical CPU each."""
    import tensorflow as tf

    from dqgan_tf.distribute.strategy import CompressedStrategy
    from dqgan_tf.training.job import no_cluster

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * workers)
    return CompressedStrategy(cluster_resolver=no_cluster(), replicas_per_worker=workers)


def _game(suite, cell):
    strategy = _strategy(cell.workers)
    from benchmarks import games

    game = games.GAMES[cell.problem]
    rate = game.rates[suites.METHODS[cell.method].settings["optimizer.direction"]]
    settings = {"train.steps": game.steps, "optimizer.learning_rate_g": rate, "optimizer.learning_rate_d": rate}
    instance = games.Instance(game, cell.workers, cell.shards, cell.seed)
    return games.train(instance, suites.run_config(suite, cell, settings), strategy, _MARKS, _tell)


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
