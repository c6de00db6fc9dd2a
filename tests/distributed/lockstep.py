"""Reductions of M replicas in one process without a strategy: generators advance together, numpy is the network."""

import numpy as np
import tensorflow as tf

from dqgan_tf.distribute.channel import _initial_state
from dqgan_tf.distribute.topologies import choice
from dqgan_tf.distribute.topologies.packet import PacketSettings


def settings(replicas, error_feedback=True, block=None):
    """Returns the `PacketSettings` of a packet whose M replicas all live in this process."""
    return PacketSettings(replicas, error_feedback, block, ("/cpu:0",) * replicas)


def build(topology, vectors, settings, packet_values=10**9, threads=1):
    """Returns the packets of `choice.build`, and what the compressors of the vectors have learned."""
    learned = [_initial_state(vector, settings.devices) for vector in vectors]
    return choice.build(topology, vectors, learned, settings, packet_values, threads), learned


def reduce(packet, updates, seeds):
    """Returns every replica's `Outcome`.

    Args:
      packet: whose generators are run; replica m has rank m.
      updates: per replica, one tensor [size] per slice.
      seeds: every replica's `Seeds`.
    """
    generators = [packet.reduce(update, m, m, seeds[m]) for m, update in enumerate(updates)]
    results = [None] * len(generators)
    while True:
        requests, outcomes = [], []
        for generator, result in zip(generators, results, strict=True):
            try:
                requests.append(generator.send(result))
            except StopIteration as finished:
                outcomes.append(finished.value)
        if outcomes:
            assert not requests, "all replicas take part in every collective"
            return outcomes
        (kind,) = {request.kind for request in requests}
        results = _COLLECTIVES[kind]([request.value for request in requests])


def _all_gather(words):
    rows = [tf.constant(row) for row in words]
    return [rows] * len(words)


def _all_to_all(rows):
    received = np.stack(rows, axis=1)  # [to, from, W]
    return [[tf.constant(row) for row in to_one] for to_one in received]


def _all_reduce(values):
    sums = []
    for parts in zip(*values, strict=True):
        total = parts[0].numpy()
        for part in parts[1:]:
            total = total + part.numpy()
        sums.append(tf.constant(total))
    return [sums] * len(values)


_COLLECTIVES = {"all_gather": _all_gather, "all_to_all": _all_to_all, "all_reduce": _all_reduce}


def mean(means, vector, size):
    """Returns the mean of one vector, numpy [size], of `Outcome.means`; NaN where it has no value."""
    result = np.full(size, np.nan, np.float32)
    for range_, value in means:
        if range_.vector == vector:
            result[range_.start : range_.start + range_.size] = value
    return result
