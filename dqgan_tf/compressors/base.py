"""The contract of a compressor: what travels, how many bytes it is and how much it may lose."""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from dqgan_tf.compressors import wire

ROUNDING_SLACK = 1e-6


class Compressor(abc.ABC):
    """Maps a flat float32 vector to a payload of 32-bit tensors and back.

    Subclasses are frozen dataclasses of their parameters: equal by value, hashable, without state. `encode` and
    `decode` are pure TensorFlow functions and may be called eagerly, inside `tf.function` and inside
    `tf.function(jit_compile=True)`; `decode` returns the same bits in all three.

    A compressor is delta-approximate, 0 < delta <= 1, when for every x (in expectation when it is random)

        || decode(encode(x)) - x ||^2 <= (1 - delta) ||x||^2        Karimireddy et al. 2019, arXiv 1901.09847.

    `delta` returns a proven lower bound. Two limits of float32 apply: a bucket whose largest absolute value is below
    2^-100 may decode to zeros, and a bucket that holds inf or NaN decodes to at least one non-finite value, without a
    change to any other bucket.
    """

    name: ClassVar[str]

    @property
    def spec(self) -> str:
        """Canonical text: `get(compressor.spec) == compressor`."""
        parameters = [f"{field.name}={getattr(self, field.name)}" for field in self.parameters()]
        return ":".join([self.name, ",".join(parameters)]) if parameters else self.name

    @classmethod
    def parameters(cls) -> list[dataclasses.Field]:
        """Returns the fields that a spec may set: numbers and words that are given at construction."""
        return [field for field in dataclasses.fields(cls) if field.init and field.type in (int, float, str)]

    @property
    @abc.abstractmethod
    def unbiased(self) -> bool:
        """Whether E[decode(encode(x))] = x."""

    @property
    def is_identity(self) -> bool:
        """Whether decode(encode(x)) = x bit for bit."""
        return False

    @property
    def block_multiple(self) -> int | None:
        """A vector may be encoded in consecutive blocks of a multiple of this size; None: only as a whole.

        The payload of the whole is then its blocks' payloads, concatenated field by field (with other random numbers
        in a stochastic compressor).
        """
        return None

    @abc.abstractmethod
    def encode(self, vector: tf.Tensor, seed: tf.Tensor) -> NamedTuple:
        """Returns the payload of a vector.

        Args:
          vector: float32 [n], n >= 1 and static.
          seed: int32 [2]; read by stochastic compressors only.

        Returns:
          A NamedTuple of int32 and float32 tensors, of the shapes of `payload_spec(n)`.
        """

    @abc.abstractmethod
    def decode(self, payload: Any, n: int) -> tf.Tensor:
        """Returns the float32 [n] vector that a payload stands for: at most one multiplication per value."""

    def encode_and_decode(self, vector: tf.Tensor, seed: tf.Tensor) -> tuple[NamedTuple, tf.Tensor]:
        """Returns (payload, decode(payload, n)), equal to the two calls bit for bit, without unpacking."""
        payload = self.encode(vector, seed)
        return payload, self.decode(payload, vector.shape[0])

    def encode_and_error(self, vector: tf.Tensor, seed: tf.Tensor) -> tuple[NamedTuple, tf.Tensor]:
        """Returns (payload, vector - decode(payload, n)), equal to the two calls bit for bit."""
        payload, decoded = self.encode_and_decode(vector, seed)
        return payload, vector - decoded

    @abc.abstractmethod
    def payload_spec(self, n: int) -> NamedTuple:
        """Returns the payload of a vector of n values, with a `tf.TensorSpec` in place of each tensor."""

    @abc.abstractmethod
    def delta(self, n: int) -> float:
        """Returns a proven lower bound of delta for vectors of n values; 0.0 when none is proven."""

    def scales(self, payload: Any, n: int) -> list[tf.Tensor]:
        """Returns float32 tensors that bound what a payload decodes to, and are not finite where a value is not.

        The payload's own float32 fields, a few numbers per bucket; where it has none, the decoded vector.
        """
        return [field for field in payload if field.dtype == tf.float32] or [self.decode(payload, n)]

    def contractive(self, n: int) -> bool:
        """Returns whether error feedback is proven to converge: delta(n) > 0."""
        return self.delta(n) > 0.0

    def wire_bytes(self, n: int) -> int:
        """Returns the bytes of the payload of n values."""
        return 4 * wire.wire_words(self.payload_spec(n))
