"""The contract of a compressor: what travels, how many bytes it is and how much it may lose."""

import abc
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dqgan_tf.compressors import wire
from dqgan_tf.compressors.compression import Compression

ROUNDING_SLACK = 1e-6


class Compressor(Compression):
    """Maps a flat float32 vector to a payload of 32-bit tensors and back.

    `encode` and `decode` are pure TensorFlow functions and may be called eagerly, inside `tf.function` and inside
    `tf.function(jit_compile=True)`; `decode` returns the same bits in all three.

    `delta` returns a proven lower bound. Two limits of float32 apply: a bucket whose largest absolute value is below
    2^-100 may decode to zeros, and a bucket that holds inf or NaN decodes to at least one non-finite value, without a
    change to any other bucket.

    A compressor may fit itself to the data. Its state is a vector that all replicas hold with the same bits; a channel
    owns it and, each step, encodes and decodes by `bind(state)`, adds up `statistics` over the replicas and takes
    `next_state(state, total)` if the step is accepted. Bound or not, equal parameters are equal: only unbound
    compressors are keys. One that `draws_in_common` has no such state and is bound to a seed.
    """

    @property
    def is_identity(self) -> bool:
        """Whether decode(encode(x)) = x bit for bit."""
        return False

    @property
    def draws_in_common(self) -> bool:
        """Whether replicas draw alike: `bind` then takes int32 [2], a seed that is equal on all of them."""
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

    def encode_and_error(self, vector: tf.Tensor, seed: tf.Tensor) -> tuple[NamedTuple, tf.Tensor]:
        """Returns (payload, vector - decode(payload, n)), equal to the two calls bit for bit."""
        payload = self.encode(vector, seed)
        return payload, vector - self.decode(payload, vector.shape[0])

    @abc.abstractmethod
    def payload_spec(self, n: int) -> NamedTuple:
        """Returns the payload of a vector of n values, with a `tf.TensorSpec` in place of each tensor."""

    def scales(self, payload: Any, n: int) -> list[tf.Tensor]:
        """Returns float32 tensors that bound what a payload decodes to, and are not finite where a value is not.

        The payload's own float32 fields, a few numbers per bucket; where it has none, the decoded vector.
        """
        return [field for field in payload if field.dtype == tf.float32] or [self.decode(payload, n)]

    def wire_bytes(self, n: int) -> int:
        """Returns the bytes of the payload of n values."""
        return 4 * wire.wire_words(self.payload_spec(n))

    def initial_state(self, n: int) -> np.ndarray | None:
        """Returns float32 [s], the state before the first step for vectors of n values; None: it has none."""
        return None

    def bind(self, state: tf.Tensor) -> "Compressor":
        """Returns an equal compressor that encodes and decodes by `state`; unbound, by the initial one."""
        return self

    @property
    def num_statistics(self) -> int:
        """k of `statistics`, float32 numbers that replicas add up in each step."""
        return 0

    def sampling(self, n: int) -> int:
        """Returns of how many buckets `statistics` looks at one, for vectors of n values."""
        return 1

    def statistics(self, vector: tf.Tensor, every: int | None = None) -> tf.Tensor:
        """Returns float32 [k], whose sum over the replicas says how to fit: whole numbers, so that it is exact.

        The sum over pieces, each but the last a multiple of `every` buckets long, is what the whole vector gives.

        Args:
          vector: float32 [n].
          every: of how many buckets one is looked at, the first and so on; None: `sampling(n)`.
        """
        return tf.zeros([0])

    def next_state(self, state: tf.Tensor, total: tf.Tensor) -> tf.Tensor:
        """Returns float32 [s]; `state` itself if `total`, the sum of `statistics`, is not finite."""
        return state
