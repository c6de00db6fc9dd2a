"""What compressors have in common that send few of the values: a fraction, and another compressor for those sent."""

import abc
import dataclasses
import math
from typing import NamedTuple

import tensorflow as tf

from dqgan_tf.compressors import wire
from dqgan_tf.compressors.base import ROUNDING_SLACK, Compressor

JOIN = "+"
_FRACTION = 1e-3  # of which every compressor of the values proves more than what rounding may cost


class Sparse(Compressor):
    """A frozen dataclass with the fields `fraction` and `values`, the compressor of the values sent.

    With the share s of ||x||^2 in the values that are sent, and delta_v of `values`:

        ||error||^2 = (1 - s) ||x||^2 + ||Q(sent) - sent||^2 <= (1 - delta_v s) ||x||^2.
    """

    fraction: float
    values: Compressor

    def __post_init__(self):
        if isinstance(self.fraction, (bool, str)) or not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"`fraction` must be in (0, 1]. Received: fraction={self.fraction}")
        if not isinstance(self.values, Compressor):
            raise ValueError(f"`values` must be a compressor. Received: values={self.values!r}")
        if isinstance(self.values, Sparse):
            raise ValueError(
                f"`values` must send every value, as in '{super().spec}{JOIN}linear:bits=8,bucket=512'. "
                f"Received: values={self.values.spec}"
            )
        if self.values.initial_state(1) is not None:
            raise ValueError(f"`values` must have no state, which nobody would update. Received: {self.values.spec}")

    @property
    def spec(self) -> str:
        return super().spec if self.values.is_identity else super().spec + JOIN + self.values.spec

    def contracting(self):
        return dataclasses.replace(self, fraction=max(_FRACTION, self.fraction), values=self.values.contracting())

    def k(self, n: int) -> int:
        """Returns how many of n values are sent."""
        return min(n, max(1, math.ceil(self.fraction * n)))

    def encode(self, vector, seed):
        return self.encode_sparse(vector, seed)[0]

    def encode_and_error(self, vector, seed):
        payload, values, indices = self.encode_sparse(vector, seed)
        n = vector.shape[0]
        missing = self.extent(n) - n
        padded = tf.pad(vector, [[0, missing]]) if missing else vector
        return payload, tf.tensor_scatter_nd_sub(padded, indices[:, None], values)[:n]

    @abc.abstractmethod
    def encode_sparse(self, vector, seed) -> tuple[NamedTuple, tf.Tensor, tf.Tensor]:
        """Returns the payload and what `decode_sparse` gives of it, without unpacking."""

    def decode(self, payload, n):
        return place(*self.decode_sparse(payload, n), self.extent(n))[:n]

    @abc.abstractmethod
    def decode_sparse(self, payload, n: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (float32 [k] values, int32 [k] distinct indices below `extent(n)`) of a payload."""

    def extent(self, n: int) -> int:
        """Returns what all indices are below: n, or more where the last block is padded."""
        return n

    def scales(self, payload, n):
        spec = self.values.payload_spec(self.k(n))
        return self.values.scales(wire.from_wire(payload.values, spec), self.k(n))

    def _delta(self, share, sent):
        """Returns delta where the `sent` values hold at least `share` of the energy."""
        return max(0.0, share * self.values.delta(sent) - ROUNDING_SLACK)

    def _encode_values(self, values, seed):
        """Returns (float32 [words], float32 [k]): the values as they travel and as they arrive."""
        payload = self.values.encode(values, seed)
        return wire.to_wire(payload), self.values.decode(payload, values.shape[0])

    def _decode_values(self, words, k):
        return self.values.decode(wire.from_wire(words, self.values.payload_spec(k)), k)

    def _values_spec(self, k):
        return tf.TensorSpec([wire.wire_words(self.values.payload_spec(k))], tf.float32)


def place(values: tf.Tensor, indices: tf.Tensor, n: int) -> tf.Tensor:
    """Returns float32 [n], the values at their distinct int32 indices and zeros elsewhere."""
    return tf.scatter_nd(indices[:, None], values, [n])
