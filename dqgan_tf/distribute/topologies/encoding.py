"""What the compressing topologies share: how one replica encodes one part."""

import dataclasses
import functools

import tensorflow as tf

from dqgan_tf.compressors import Compressor, blocks
from dqgan_tf.error_feedback import Encoded, encode_with_feedback, encode_without_feedback

_STREAM = 0x27D4EB2F
"""Of random numbers: a part that is no run of blocks and begins at value s draws from stream s times this."""


@dataclasses.dataclass(frozen=True)
class Encoder:
    """How a topology encodes.

    error_feedback: without it p = x and e stays zero.
    block: values that are encoded at a time, or None for all; see `error_feedback.encode_with_feedback`.
    """

    error_feedback: bool
    block: int | None

    def encode(self, compressor: Compressor, value, residual, seed) -> Encoded:
        """Returns the encoding of p = value + residual, float32 [n] each, the value perhaps a window of a longer vector.

        In a compiled function.
        """
        if not self.error_feedback:
            return encode_without_feedback(compressor, value, seed, block=self.block)
        return encode_with_feedback(compressor, value, residual, seed, block=self.block)

    def seed(self, compressor: Compressor, seed, segment: int, start: int) -> tf.Tensor:
        """Returns the int32 [2] seed of the values from `start` on: block by block that of the whole segment."""
        block = blocks.effective_block(compressor, self.block)
        if block and start % block == 0:
            return blocks.block_seed(seed, start // block) + [0, segment]
        return seed + [start * _STREAM % 2**31, segment]

    def samples(self, compressor: Compressor, value, residual) -> tf.Tensor | None:
        """Returns what the compressor learns from this replica's p, or None if it learns nothing."""
        if compressor.initial_state(value.shape[0]) is None:
            return None
        value = blocks.whole(value)
        return compressor.statistics(value + residual if self.error_feedback else value)


def bound(compressor: Compressor, state: tf.Tensor | None) -> Compressor:
    """Returns the compressor with what it has learned."""
    return compressor if state is None else compressor.bind(state)


def window(vector: tf.Tensor, start: tf.Tensor, size: int):
    """Returns the values [start, start + size) of a vector as a `blocks.Window`, or the vector if these are all."""
    return vector if vector.shape[0] == size else blocks.Window(vector, start, size)


def starts(parts) -> list[tf.Tensor]:
    """Returns where the parts begin, as tensors: parts of one size then share one compiled function."""
    return [tf.constant(part.start) for part in parts]


def compiled(make):
    """Decorates `make(*hashable) -> function`: compiles what it returns, once for equal arguments."""

    @functools.cache
    def compiled_once(*arguments):
        return tf.function(make(*arguments), jit_compile=True, autograph=False)

    return compiled_once
