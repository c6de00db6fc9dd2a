"""A part of what a channel sends."""

from typing import NamedTuple

from dqgan_tf.compressors import Compressor


class Segment(NamedTuple):
    """One flat float32 vector with a compressor of its own.

    name: for messages, checkpoints and telemetry, e.g. `generator`.
    size: number of values, at least 1.
    compressor: what encodes it.
    """

    name: str
    size: int
    compressor: Compressor
