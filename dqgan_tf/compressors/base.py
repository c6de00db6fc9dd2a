"""The contract of a compressor: parameters with a canonical text, an encoding, and a bound of the error."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from dqgan_tf.lazy_tensorflow import tf

ROUNDING_SLACK = 1e-6
"""Subtracted from every delta: float32 rounding adds less than this share of ||x||^2 to the error."""


@dataclasses.dataclass(frozen=True)
class Compression(abc.ABC):
    """A frozen dataclass of parameters, each with a default; equal by value and hashable.

    `Compressor` maps one vector to a payload. `PowerSGD` is no `Compressor`: its second product needs the workers' mean
    of the first.

    A compression is delta-approximate, 0 < delta <= 1, if for every x (in expectation if it is random)

        || decode(encode(x)) - x ||^2 <= (1 - delta) ||x||^2        Karimireddy et al. 2019, arXiv:1901.09847.

    README has a table with a row for each subclass: the first line of its docstring, its default spec, its bits per
    value, delta and `use`. `python -m dqgan_tf.compressors` prints it.
    """

    name: ClassVar[str]
    """The first word of the spec."""
    use: ClassVar[str]
    """When to choose it, for README."""

    @property
    def spec(self) -> str:
        """The canonical text: `get(compression.spec) == compression`."""
        parameters = ",".join(f"{field.name}={getattr(self, field.name)}" for field in self.parameters())
        return f"{self.name}:{parameters}" if parameters else self.name

    @classmethod
    def parameters(cls) -> list[dataclasses.Field]:
        """Returns the fields that a spec may set: arguments of the constructor whose default is a number or a word."""
        return [f for f in dataclasses.fields(cls) if f.init and isinstance(f.default, (int, float, str))]

    @property
    def unbiased(self) -> bool:
        """Whether E[decode(encode(x))] = x."""
        return False

    @abc.abstractmethod
    def delta(self, n: int) -> float:
        """Returns a proven lower bound of delta for vectors of n values; 0.0 if none is proven."""

    def contractive_variant(self) -> Compression:
        """Returns the closest variant with delta > 0, or self."""
        return self


class Compressor(Compression):
    """Maps a flat float32 vector to a payload of 32-bit tensors and back.

    `encode` and `decode` are pure TensorFlow functions for eager calls, `tf.function` and
    `tf.function(jit_compile=True)`; `decode` returns the same bits in all three.

    `delta` is a proven bound, with two exceptions: a bucket whose largest absolute value is below 2^-100 may decode to
    zeros, and a bucket with inf or NaN decodes to at least one non-finite value. Other buckets do not change.

    A compressor may learn from the data (`Adaptive`). Its state is a vector that the caller owns, equal on all
    replicas. In each step the caller encodes and decodes with `bind(state)`, adds up `histogram(vector)` over the
    replicas and, if the step is accepted, replaces the state by `next_state(state, sum)`. Compressors with equal
    parameters are equal, bound or not; only unbound ones may be keys of a cache.

    >>> from dqgan_tf import compressors
    >>> sign = compressors.get("sign:bucket=32")
    >>> payload = sign.encode(tf.constant([1.0, -2.0, 3.0]), seed=tf.constant([0, 0]))
    >>> sign.decode(payload, n=3).numpy()  # the sign, times the mean absolute value of the bucket
    array([ 2., -2.,  2.], dtype=float32)
    """

    is_identity: ClassVar[bool] = False
    """Whether decode(encode(x)) = x bit for bit."""
    uses_common_seed: ClassVar[bool] = False
    """Whether all replicas must make the same random choices: `bind` then takes a common seed, int32 [2]."""
    histogram_size: ClassVar[int] = 0
    """k, the number of counts of `histogram`."""

    @property
    def block_multiple(self) -> int | None:
        """The length of a block must be a multiple of this number. None: the vector cannot be cut.

        The payloads of consecutive blocks, concatenated field by field, are the payload of the vector. A stochastic
        compressor draws other random numbers if the blocks differ.
        """
        return None

    @abc.abstractmethod
    def encode(self, vector: tf.Tensor, seed: tf.Tensor) -> NamedTuple:
        """Returns the payload of a vector, a NamedTuple with the shapes and dtypes of `payload_spec(n)`.

        Args:
          vector: float32 [n], n >= 1 and static.
          seed: int32 [2], used by stochastic compressors only.
        """

    @abc.abstractmethod
    def decode(self, payload: Any, n: int) -> tf.Tensor:
        """Returns the float32 [n] vector of a payload: at most one multiplication a value."""

    def encode_and_decode(self, vector: tf.Tensor, seed: tf.Tensor) -> tuple[NamedTuple, Any]:
        """Returns (payload, decoded) without unpacking the payload.

        `decoded` equals `decode(payload, n)`, bit for bit. It may be an object that only supports `vector - decoded`
        (`sparse.SparseVector`).
        """
        payload = self.encode(vector, seed)
        return payload, self.decode(payload, vector.shape[0])

    def mean_of_payloads(self, payloads: Sequence[Any], n: int) -> tf.Tensor:
        """Returns float32 [n], 1/M sum_m decode(payload_m), added in the order of the payloads.

        XLA decodes and adds all payloads in one pass, without a float32 vector for each.
        """
        total = self.decode(payloads[0], n)
        for payload in payloads[1:]:
            total += self.decode(payload, n)
        return total * (1.0 / len(payloads))

    @abc.abstractmethod
    def payload_spec(self, n: int) -> NamedTuple:
        """Returns the payload of a vector of n values with a `tf.TensorSpec`, int32 or float32, for each tensor."""

    def wire_bytes(self, n: int) -> int:
        """Returns the bytes of the payload of n values."""
        return 4 * wire_words(self.payload_spec(n))

    def scales(self, payload: Any, n: int) -> list[tf.Tensor]:
        """Returns float32 tensors that bound the decoded values and are not finite if a decoded value is not.

        They are the float32 fields of the payload (a few numbers per bucket), or the decoded vector if it has none.
        """
        return [field for field in payload if field.dtype == tf.float32] or [self.decode(payload, n)]

    def initial_state(self, n: int) -> np.ndarray | None:
        """Returns float32 [s], the state before the first step for vectors of n values; None: there is no state."""
        return None

    def bind(self, state: tf.Tensor) -> Compressor:
        """Returns an equal compressor that uses `state`; an unbound one uses the initial state."""
        return self

    def histogram_stride(self, n: int) -> int:
        """Returns the sampling stride for vectors of n values: the histogram counts every stride-th bucket."""
        return 1

    def histogram(self, vector: tf.Tensor, stride: int | None = None) -> tf.Tensor:
        """Returns float32 [k] counts, whole numbers, so that their sum over replicas is exact.

        The histogram of a vector is the sum of the histograms of its slices, if the length of every slice except the
        last is a multiple of `stride` buckets.

        Args:
          vector: float32 [n].
          stride: the sampling stride; None: `histogram_stride(n)`.
        """
        return tf.zeros([0])

    def next_state(self, state: tf.Tensor, histogram: tf.Tensor) -> tf.Tensor:
        """Returns float32 [s], the state after a step; `state` itself if `histogram`, the sum, is not finite."""
        return state


# A payload is sent as one flat float32 tensor, because all collectives support this type. Fields are bitcast, never
# converted, and copied in order.


def wire_words(payload_spec: Any) -> int:
    """Returns the number of 32-bit words of a payload with this `Compressor.payload_spec`."""
    return sum(math.prod(field.shape) for field in payload_spec)


def to_wire(payload: Any) -> tf.Tensor:
    """Returns float32 [wire_words]: the fields of a payload of static shapes, flattened in order, bit for bit."""
    flat = [tf.reshape(tf.bitcast(field, tf.float32), [-1]) for field in payload]
    return flat[0] if len(flat) == 1 else tf.concat(flat, axis=0)


def from_wire(words: tf.Tensor, payload_spec: Any) -> Any:
    """Returns the payload, of the type of `payload_spec`, of float32 [wire_words(payload_spec)]: undoes `to_wire`.

    Raises:
      ValueError: `words` has another static shape.
    """
    expected = wire_words(payload_spec)
    if words.shape.rank != 1 or words.shape[0] != expected:
        raise ValueError(f"`words` must be float32 [{expected}]. Received: shape={words.shape}")
    fields, start = [], 0
    for field in payload_spec:
        stop = start + math.prod(field.shape)
        fields.append(tf.bitcast(tf.reshape(words[start:stop], field.shape), field.dtype))
        start = stop
    return type(payload_spec)(*fields)
