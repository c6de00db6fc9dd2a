"""Several reductions at once: one is encoded while another one's packets travel.

A reduction is a generator: it yields a `Request` wherever it needs a collective, is resumed with what that returns, and
returns its `topologies.Reduced` at the end. All workers must launch collectives in one order: it is fixed here, while
the graph is built, and TensorFlow chains the collectives of a launcher in the order of construction.
"""

import collections
from collections.abc import Generator, Sequence
from typing import NamedTuple

import tensorflow as tf

from dqgan_tf.distribute import clock

PHASES = ("encode", "exchange", "decode")
"""Parts of a reduction. With several buckets they overlap, and each contains waiting for the others."""

TIMES = (*PHASES, "reduction")
"""What a reduction measures: the time in each phase, and the whole from the last input to the last mean."""


class Request(NamedTuple):
    """A collective that a reduction waits for.

    kind: `all_gather`, `all_to_all` or `all_reduce`; see `transport.contract.Collectives`.
    value: its argument, a tensor or, for `all_reduce`, a list of tensors.
    """

    kind: str
    value: object


def run(
    reductions: Sequence[Generator], inputs: Sequence[Sequence[tf.Tensor]], group, options
) -> tuple[list, tf.Tensor]:
    """Returns what every reduction returns, and the seconds spent, float64 [len(TIMES)].

    All first collectives are launched before the result of any is awaited, so that the link is busy while later
    buckets are computed and encoded and earlier ones averaged or decoded. Encodings are chained: the first packet
    leaves before the last is encoded, and as soon as its own inputs exist.

    Args:
      reductions: not started yet, in the order in which their inputs come to exist.
      inputs: what each of them reads.
      group: whose collectives are called.
      options: communication options.
    """
    stopwatch, results, waiting = _Stopwatch(inputs), {}, collections.deque()

    def advance(index, generator, value, phase):
        try:
            request = generator.send(value)
        except StopIteration as finished:
            results[index] = finished.value
            stopwatch.computed(index, [finished.value.finite], phase)
            return [finished.value.finite]
        sent = tf.nest.flatten(request.value)
        stopwatch.computed(index, sent, phase)
        waiting.append((index, generator, group.begin(request.kind, request.value, options)))
        return sent

    encoded = []
    for index, generator in enumerate(reductions):
        with tf.control_dependencies(encoded):
            encoded = advance(index, generator, None, "encode")
    computed = encoded
    while waiting:
        index, generator, finish = waiting.popleft()
        # In one order too: a thread that waits for a packet computes nothing, and what can be sent goes first.
        with tf.control_dependencies(computed):
            received = finish()
            stopwatch.received(index, tf.nest.flatten(received))
            computed = advance(index, generator, received, "decode")
    return [results[index] for index in range(len(reductions))], stopwatch.seconds()


class _Stopwatch:
    """Reads the clock around every stage; a stage begins when its input exists and the one before it has ended."""

    def __init__(self, inputs):
        self._available = {index: clock.now(read) for index, read in enumerate(inputs)}
        self._start = _latest(self._available)
        self._ended = {phase: self._available[0] for phase in PHASES}
        self._spent = {phase: tf.zeros([], tf.float64) for phase in TIMES}

    def computed(self, index, tensors, phase):
        """`tensors` of reduction `index` have been computed, in `phase`."""
        self._available[index] = self._end(phase, self._available[index], tensors)

    def received(self, index, tensors):
        """`tensors` of reduction `index` have arrived."""
        self._available[index] = self._end("exchange", self._available[index], tensors)

    def seconds(self):
        self._spent["reduction"] = _latest(self._available) - self._start
        return tf.stack([self._spent[phase] for phase in TIMES])

    def _end(self, phase, available, tensors):
        now = clock.now(tensors)
        self._spent[phase] += tf.maximum(now - tf.maximum(available, self._ended[phase]), 0.0)
        self._ended[phase] = now
        return now


def _latest(times):
    return tf.reduce_max(tf.stack(list(times.values())))
