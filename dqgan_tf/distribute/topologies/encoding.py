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

    def encode(self, compressor: Compressor, value, residual, seed, buffer=None) -> Encoded:
        """Returns the encoding of p = value + residual, float32 [n] each, `value` perhaps a window of a longer vector.

        In a compiled function. With a `buffer`, a variable [n] or None, see `writes_into_buffers`, the residual is
        written into it.
        """
        if not self.error_feedback:
            return encode_without_feedback(compressor, value, seed, block=self.block)
        if buffer is None:
            return encode_with_feedback(compressor, value, residual, seed, block=self.block)
        one = encode_with_feedback(compressor, value, residual, seed, block=self.block, buffer=buffer.read_value())
        buffer.assign(one.residual)
        return one

    def writes_into_buffers(self, compressor: Compressor) -> bool:
        """Returns whether residuals are written block by block: a buffer then saves the memory that each call takes."""
        return self.error_feedback and blocks.effective_block(compressor, self.block) is not None

    def seed(self, compressor: Compressor, seed, segment: int, start: int) -> tf.Tensor:
        """Returns the int32 [2] seed of the values from `start` on: block by block that of the whole segment."""
        block = blocks.effective_block(compressor, self.block)
        if block and start % block == 0:
            return blocks.block_seed(seed, start // block) + [0, segment]
        return seed + [start * _STREAM % 2**31, segment]

    def samples(self, coding, value, residual) -> tf.Tensor | None:
        """Returns what the compressor of a `segment.Coding` learns from this replica's p; None: it learns nothing."""
        if coding.compressor.initial_state(coding.size) is None:
            return None
        value = blocks.whole(value)
        return coding.compressor.histogram(value + residual if self.error_feedback else value, coding.sampling)


def states_of(parts, given) -> list[tf.Tensor | None]:
    """Returns what every part's compressor is to be bound to: what it has learned, or the seed of common draws."""
    return [
        given.common_seed + [0, part.segment] if part.compressor.uses_common_seed else state
        for part, state in zip(parts, given.states, strict=True)
    ]


def bound(compressor: Compressor, state: tf.Tensor | None) -> Compressor:
    """Returns the compressor bound to one of `states_of`."""
    return compressor if state is None else compressor.bind(state)


def window(vector: tf.Tensor, start: tf.Tensor, size: int):
    """Returns the values [start, start + size) of a vector as a `blocks.Window`, or the vector if these are all."""
    return vector if vector.shape[0] == size else blocks.Window(vector, start, size)


def kept(residuals: list, buffers: list) -> list[tf.Tensor]:
    """Returns new residuals: those in buffers, where `residuals` holds None, and the others."""
    return [r if b is None else b.read_value() for r, b in zip(residuals, buffers, strict=True)]


def write_mean(target: tf.Variable | None, mean: tf.Tensor, start: tf.Tensor) -> tf.Tensor | None:
    """Writes a part of the mean to its place in a variable; without one returns it. In a compiled function."""
    if target is None:
        return mean
    target.assign(blocks.write(target.read_value(), mean, start))
    return None


def starts(parts) -> list[tf.Tensor]:
    """Returns where the parts begin, as tensors: parts of one size then share one compiled function."""
    return [tf.constant(part.start) for part in parts]


def compiled(make):
    """Decorates `make(*hashable) -> function`: compiles what it returns, once for equal arguments."""

    @functools.cache
    def compiled_once(*arguments):
        return tf.function(make(*arguments), jit_compile=True, autograph=False)

    return compiled_once
