"""Several packets at once: one is encoded while another one travels.

A packet's reduction is a generator: it yields a `Request` wherever it needs a collective, is sent the result, and
returns its `Outcome`. All workers must launch collectives in one order: it is fixed here, while the graph is built, and
transports keep the order of construction.
"""

import collections
import time
from collections.abc import Generator, Iterable, Sequence

import numpy as np
import tensorflow as tf

from dqgan_tf import private_tensorflow

PHASES = ("encode", "exchange", "decode")
"""Parts of a reduction. With several packets they overlap, and each contains waiting for the others."""

TIMES = (*PHASES, "reduction")
"""What a reduction measures: the time in each phase, and the whole from the last input to the last mean."""


def run(
    reductions: Sequence[Generator], inputs: Sequence[Sequence[tf.Tensor]], group, options
) -> tuple[list, tf.Tensor]:
    """Returns the outcome of every reduction, and the seconds spent, float64 [len(TIMES)].

    All first collectives are launched before the result of any is awaited, so that the link is busy while later packets
    are computed and encoded and earlier ones decoded. Encodings are chained: the first packet leaves before the last is
    encoded, and as soon as its own inputs exist.

    Args:
      reductions: not started yet, in the order in which their inputs come to exist.
      inputs: what each of them reads.
      group: the transport's `Collectives`.
      options: communication options.
    """
    stopwatch, outcomes, waiting = _Stopwatch(inputs), {}, collections.deque()

    def advance(index, generator, result, phase):
        try:
            request = generator.send(result)
        except StopIteration as finished:
            outcomes[index] = finished.value
            stopwatch.end(phase, index, [finished.value.finite])
            return [finished.value.finite]
        sent = tf.nest.flatten(request.value)
        stopwatch.end(phase, index, sent)
        waiting.append((index, generator, group.begin(request.kind, request.value, options)))
        return sent

    encoded = []
    for index, generator in enumerate(reductions):
        with tf.control_dependencies(encoded):
            encoded = advance(index, generator, None, "encode")
    computed = encoded
    while waiting:
        index, generator, finish = waiting.popleft()
        # In one order too: a thread that waits for a packet computes nothing, and packets that can be sent go first.
        with tf.control_dependencies(computed):
            received = finish()
            stopwatch.end("exchange", index, tf.nest.flatten(received))
            computed = advance(index, generator, received, "decode")
    return [outcomes[index] for index in range(len(reductions))], stopwatch.seconds()


class _Stopwatch:
    """Reads the clock at the end of every stage. A stage begins when its input exists and the one before has ended."""

    def __init__(self, inputs):
        self._available = {index: now(read) for index, read in enumerate(inputs)}
        self._start = _latest(self._available)
        self._ended = {phase: self._available[0] for phase in PHASES}
        self._spent = {phase: tf.zeros([], tf.float64) for phase in TIMES}

    def end(self, phase, index, tensors):
        """Packet `index` has left `phase` once `tensors` exist."""
        end = now(tensors)
        self._spent[phase] += tf.maximum(end - tf.maximum(self._available[index], self._ended[phase]), 0.0)
        self._available[index] = self._ended[phase] = end

    def seconds(self):
        self._spent["reduction"] = _latest(self._available) - self._start
        return tf.stack([self._spent[phase] for phase in TIMES])


def _latest(times):
    return tf.reduce_max(tf.stack(list(times.values())))


def now(after: Iterable[tf.Tensor]) -> tf.Tensor:
    """Returns seconds since the epoch, float64 scalar, once the tensors `after` exist.

    Only readers of the time wait for it. On a GPU a tensor exists when its kernel is enqueued: use a profiler there for
    the phases of a step.
    """
    with tf.control_dependencies(list(after)), tf.device("/device:CPU:0"):
        if private_tensorflow.is_op_determinism_enabled():
            # tf.timestamp refuses to run then (TensorFlow 2.21.0); only figures depend on the time, never weights.
            seconds = tf.numpy_function(lambda: np.float64(time.time()), [], tf.float64)
        else:
            seconds = tf.timestamp()
        if not tf.executing_eagerly():
            # Packets would wait for all that is computed, otherwise.
            private_tensorflow.run_independently(seconds.op)
        return tf.ensure_shape(seconds, [])
