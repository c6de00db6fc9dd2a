"""What is compared: compressed channels and TensorFlow's own all-reduces of the same vector."""

from typing import NamedTuple

import tensorflow as tf

from dqgan_tf.benchmarking import torch_baselines
from dqgan_tf.benchmarking.volume import DENSE, channel_of, sent_bytes
from dqgan_tf.distribute.channel import Channel
from dqgan_tf.distribute.strategy import CompressedStrategy

DEFAULT = (
    *DENSE,
    "none",
    "fp16",
    *(f"linear:bits={bits},bucket=512" for bits in (8, 4, 2)),
    "ternary:bucket=512",
    "sign:bucket=512",
    "natural",
    "topk:fraction=0.01+linear:bits=8,bucket=512",
    "adaptive:bits=3,bucket=512",
    "powersgd:rank=2",
    *(f"linear:bits={bits},bucket=512@auto@4" for bits in (8, 4)),
    "sign:bucket=512@auto@4",
)


class Variant(NamedTuple):
    """A way to exchange one vector.

    step: runs one exchange on all local replicas.
    channel: None for a dense one.
    sent_bytes: declared bytes that one replica sends per exchange.
    """

    step: object
    channel: Channel | None
    sent_bytes: int


def build(name: str, strategy: CompressedStrategy, vector: tf.Variable) -> Variant:
    """Returns the variant `name` over `vector`, float32 [n]: `float32` or `float16` for TensorFlow's dense all-reduce,
    else a channel; see `volume.channel_of`.

    Error feedback is on where the compressor is contractive.

    Raises:
      ValueError: unknown spec or topology.
    """
    size = vector.shape[0]
    if name in DENSE:
        return Variant(_dense(strategy, vector, name), None, sent_bytes(name, size, strategy.num_replicas_in_sync))
    segment, topology, bucket_mb = channel_of(name, size)
    channel = strategy.open_channel(
        name, [segment], error_feedback=segment.delta > 0, topology=topology, bucket_mb=bucket_mb
    )
    return Variant(_compressed(strategy, vector, channel), channel, channel.sent_bytes)


def check(name: str, num_workers: int) -> None:
    """Refuses a variant that no worker could build.

    Raises:
      ValueError: unknown spec, topology or torch baseline, with one that works.
    """
    if name.startswith(torch_baselines.PREFIX):
        torch_baselines.check(name)
        return
    try:
        sent_bytes(name, 1 << 16, num_workers)
    except ValueError as error:
        working = (
            f"{', '.join(DENSE)}, or a compressor and, if you like, topology and bucket_mb: {DEFAULT[4]}@two_step@4"
        )
        raise ValueError(f"A variant is {working}. Received: {name!r}. {error}") from error


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
