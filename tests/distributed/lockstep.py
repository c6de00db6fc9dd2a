"""Reductions of M replicas in one process without a strategy: generators advance together, numpy is the network."""

import numpy as np
import tensorflow as tf


def reduce(topology, given):
    """Returns every replica's `Reduced`.

    Args:
      topology: whose generators are run.
      given: every replica's `Given`, in the order of their ranks.
    """
    generators = [topology.reduce(one) for one in given]
    answers = [None] * len(generators)
    while True:
        requests, results = [], []
        for generator, answer in zip(generators, answers, strict=True):
            try:
                requests.append(generator.send(answer))
            except StopIteration as finished:
                results.append(finished.value)
        if results:
            assert not requests, "all replicas take part in every collective"
            return results
        (kind,) = {request.kind for request in requests}
        answers = _COLLECTIVES[kind]([request.value for request in requests])


def _all_gather(words):
    rows = tf.constant(np.stack(words))
    return [rows] * len(words)


def _all_to_all(rows):
    received = np.stack(rows, axis=1)  # [to, from, W]
    return [tf.constant(one) for one in received]


def _all_reduce(values):
    sums = []
    for parts in zip(*values, strict=True):
        total = parts[0].numpy()
        for part in parts[1:]:
            total = total + part.numpy()
        sums.append(tf.constant(total))
    return [sums] * len(values)


_COLLECTIVES = {"all_gather": _all_gather, "all_to_all": _all_to_all, "all_reduce": _all_reduce}
