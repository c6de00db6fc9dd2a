"""Runs the reductions of several packets at once: one packet is encoded while another one is sent."""

import collections
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from dqgan_tf import private_tensorflow
from dqgan_tf.compressors.blocks import Window
from dqgan_tf.distribute.topologies.packet import Outcome, Packet, Seeds
from dqgan_tf.distribute.transport.collectives import Collectives

PHASES = ("encode", "exchange", "decode")
"""Phases of a reduction. With several packets the phases overlap, and the time of one includes waiting for others."""

TIMES = (*PHASES, "reduction")
"""What a reduction measures: the time in each phase, and the whole from the last input to the last mean."""

SPANS = ("compute", *PHASES)
"""Kinds of spans: `compute`, from the first update to the last one, and the phases."""


def hidden(seconds: Mapping[str, float]) -> float:
    """Returns the time of the phases for which a step does not wait: encode + exchange + decode - reduction.

    It is 0 for one packet, whose phases follow one another, and never negative: until the last mean exists, at least
    one packet is in a phase.

    Args:
      seconds: by the names in `TIMES`, in any unit of time.
    """
    return sum(seconds[phase] for phase in PHASES) - seconds["reduction"]


def reduce_packets(
    packets: Sequence[Packet],
    updates: Sequence[Sequence[Window]],
    replica: int,
    seeds: Seeds,
    collectives: Collectives,
    options,
) -> tuple[list[Outcome], tf.Tensor, tf.Tensor]:
    """Returns the outcome of every packet's `reduce`, the seconds spent, float64 [len(TIMES)], and the spans.

    The spans, float64 [spans, 3], are (index in `SPANS`, beginning, end) in seconds since the first update existed.

    `Packet.reduce` is a generator. `advance` runs it to its next `yield`, starts the collective that it asks for, and
    later sends it the result. All workers must start collectives in the same order. This function fixes the order while
    the graph is built: the first collective of every packet, then the next one of each packet as results arrive. So
    packets are sent while later packets are encoded. Control dependencies let packet i+1 encode after packet i.

    Args:
      packets: packets of a channel, in the order in which their updates come to exist.
      updates: argument of `reduce` of each packet.
      replica, seeds: arguments of `Packet.reduce`.
      collectives: collectives of this replica.
      options: communication options.
    """
    inputs = [[update.vector for update in of_packet] for of_packet in updates]
    stopwatch, outcomes = _Stopwatch(inputs), {}
    waiting: collections.deque = collections.deque()  # (index, generator, finish) of the collectives that have started

    def advance(index, generator, result, phase):
        try:
            request = generator.send(result)  # runs `Packet.reduce` to its next `yield`
        except StopIteration as returned:
            outcomes[index] = returned.value
            stopwatch.end(phase, index, [returned.value.bounded])
            return [returned.value.bounded]
        words = tf.nest.flatten(request.value)
        stopwatch.end(phase, index, words)
        waiting.append((index, generator, collectives.begin(request.kind, request.value, options)))
        return words

    encoded: list[tf.Tensor] = []
    for index, (packet, of_packet) in enumerate(zip(packets, updates, strict=True)):
        with tf.control_dependencies(encoded):
            encoded = advance(index, packet.reduce(of_packet, replica, collectives.rank, seeds), None, "encode")
    computed = encoded
    while waiting:
        index, generator, finish = waiting.popleft()
        # A `finish` that waits blocks a thread. So the first one starts when all packets are encoded, and each later
        # one when the packet before it has gone on.
        with tf.control_dependencies(computed):
            received = finish()
            stopwatch.end("exchange", index, tf.nest.flatten(received))
            computed = advance(index, generator, received, "decode")
    return [outcomes[index] for index in range(len(packets))], stopwatch.seconds(), stopwatch.spans()


class _Stopwatch:
    """Reads the clock at the end of every phase. A phase begins when its input exists and the one before has ended."""

    def __init__(self, inputs):
        self._available = {index: now(tensors) for index, tensors in enumerate(inputs)}
        self._start = self._last()
        self._ended = {phase: self._available[0] for phase in PHASES}
        self._spent = {phase: tf.zeros([], tf.float64) for phase in TIMES}
        self._first = tf.reduce_min(tf.stack(list(self._available.values())))
        self._spans = [("compute", self._first, self._start)]

    def end(self, phase, index, tensors):
        """Packet `index` ends `phase` once `tensors` exist."""
        end = now(tensors)
        begin = tf.minimum(tf.maximum(self._available[index], self._ended[phase]), end)
        self._spent[phase] += end - begin
        self._spans.append((phase, begin, end))
        self._available[index] = self._ended[phase] = end

    def seconds(self):
        self._spent["reduction"] = self._last() - self._start
        return tf.stack([self._spent[phase] for phase in TIMES])

    def spans(self):
        phases, begins, ends = zip(*self._spans, strict=True)
        indices = tf.constant([SPANS.index(phase) for phase in phases], tf.float64)
        return tf.stack([indices, tf.stack(begins) - self._first, tf.stack(ends) - self._first], 1)

    def _last(self):
        return tf.reduce_max(tf.stack(list(self._available.values())))


def now(after: Iterable[tf.Tensor]) -> tf.Tensor:
    """Returns seconds since the epoch, float64 scalar, once the tensors `after` exist.

    Only operations that use the result wait for it. On a GPU a tensor exists when its kernel is enqueued: use a
    profiler there for the phases of a step.
    """
    with tf.control_dependencies(list(after)), tf.device("/device:CPU:0"):
        if private_tensorflow.is_op_determinism_enabled():
            # tf.timestamp refuses to run then (TensorFlow 2.21.0). Only metrics depend on the time, never weights.
            seconds = tf.numpy_function(lambda: np.float64(time.time()), [], tf.float64)
        else:
            seconds = tf.timestamp()
        if not tf.executing_eagerly():
            # Without this, automatic control dependencies would delay the packets until the last gradient exists.
            private_tensorflow.run_independently(seconds.op)
        return tf.ensure_shape(seconds, [])
