"""Several replicas in one process: one logical CPU each, real collectives."""

import itertools

from dqgan_tf.distribute.strategy import CompressedStrategy

_GROUPS = itertools.count(1)


def local_strategy(replicas: int) -> CompressedStrategy:
    """Returns a strategy of `replicas` logical CPUs whose collectives cannot meet those of another strategy.

    TensorFlow 2.21 numbers the groups of every strategy from 1 + `_collective_key_base`: a second one with
    another number of replicas in one process would be refused, and all collectives with it.
    """
    own = {"_collective_key_base": 10_000 * next(_GROUPS)}
    return type("LocalStrategy", (CompressedStrategy,), own)(replicas_per_worker=replicas)
