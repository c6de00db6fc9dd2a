"""What is compared: compressed channels and TensorFlow's own all-reduces of the same vector."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.distribute.channel import Channel
from dqgan_tf.distribute.segment import Segment
from dqgan_tf.distribute.strategy import CompressedStrategy

DENSE = ("float32", "float16")


class Variant(NamedTuple):
    """A way to exchange one vector.

    name: `float32` or `float16` for TensorFlow's dense all-reduce, else `<spec>@<topology>`.
    step: runs one exchange on all local replicas.
    channel: None for a dense one.
    sent_bytes: declared bytes that one replica sends per exchange.
    """

    name: str
    step: object
    channel: Channel | None
    sent_bytes: int


def build(name: str, strategy: CompressedStrategy, vector: tf.Variable) -> Variant:
    """Returns the variant `name` over `vector`, float32 [n].

    Raises:
      ValueError: unknown spec or topology.
    """
    size, replicas = vector.shape[0], strategy.num_replicas_in_sync
    if name in DENSE:
        width = np.dtype(name).itemsize
        return Variant(name, _dense(strategy, vector, name), None, 2 * (replicas - 1) * width * size // replicas)
    spec, _, topology = name.partition("@")
    segments = [Segment("vector", size, compressors.get(spec))]
    contractive = segments[0].compressor.contractive(size)
    channel = strategy.open_channel(name, segments, error_feedback=contractive, topology=topology or "auto")
    return Variant(name, _compressed(strategy, vector, channel), channel, channel.sent_bytes)


def _dense(strategy, vector, dtype):
    def replica_fn():
        context = tf.distribute.get_replica_context()
        mean = context.all_reduce("mean", tf.cast(vector.read_value(), dtype))
        return tf.reduce_sum(tf.cast(mean, tf.float32)[:1])  # forces the cast back, moves one value out

    return _function(strategy, replica_fn)


def _compressed(strategy, vector, channel):
    def replica_fn():
        mean = tf.distribute.get_replica_context().all_reduce("mean", [vector.read_value()], options=channel.options)[0]
        return tf.reduce_sum(mean[:1])

    return _function(strategy, replica_fn)


def _function(strategy, replica_fn):
    return tf.function(lambda: strategy.run(replica_fn), autograph=False)
