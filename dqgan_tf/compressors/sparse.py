"""The base of compressors that send a fraction of the values, which another compressor encodes."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import NamedTuple

from dqgan_tf.compressors.base import ROUNDING_SLACK, Compressor, from_wire, to_wire, wire_words
from dqgan_tf.errors import UsageError
from dqgan_tf.lazy_tensorflow import tf

JOIN = "+"
_CONTRACTIVE_FRACTION = 1e-3
"""With this fraction, delta is above `ROUNDING_SLACK` for every contractive compressor of the values."""


class SparsePayload(NamedTuple):
    """indices: int32, a code of the k indices that the compressor chooses. values: float32 [words], encoded values."""

    indices: tf.Tensor
    values: tf.Tensor


@dataclasses.dataclass(frozen=True)
class SparseVector:
    """A decoded vector that is not stored: `vector - decoded` changes only the values sent.

    values: float32 [k]. indices: int32 [k], distinct and below `extent`, the length with the padding of the last block.
    """

    values: tf.Tensor
    indices: tf.Tensor
    extent: int

    def __rsub__(self, vector: tf.Tensor) -> tf.Tensor:
        """Returns float32 [n], `vector` minus this vector."""
        n = vector.shape[0]
        padded = tf.pad(vector, [[0, self.extent - n]]) if self.extent > n else vector
        return tf.tensor_scatter_nd_sub(padded, self.indices[:, None], self.values)[:n]


class Sparse(Compressor):
    """A frozen dataclass with the fields `fraction` and `values`, the compressor of the values sent.

    With the share s of ||x||^2 in the values sent, and delta_v of `values`:

        ||error||^2 = (1 - s) ||x||^2 + ||Q(sent) - sent||^2 <= (1 - delta_v s) ||x||^2.

    If the k values are the largest, or each is sent with the probability k/n, then s >= k/n.
    """

    fraction: float
    values: Compressor

    def __post_init__(self):
        if isinstance(self.fraction, (bool, str)) or not 0.0 < self.fraction <= 1.0:
            raise UsageError(f"`fraction` must be in (0, 1]. Received: fraction={self.fraction}")
        if not isinstance(self.values, Compressor):
            raise UsageError(f"`values` must be a compressor. Received: values={self.values!r}")
        if isinstance(self.values, Sparse):
            raise UsageError(
                f"`values` must send every value, as in '{super().spec}{JOIN}linear:bits=8,bucket=512'. "
                f"Received: values={self.values.spec}"
            )
        if self.values.initial_state(1) is not None:
            raise UsageError(
                f"`values` must have no state: a compressor after {JOIN!r} cannot learn. Received: {self.values.spec}"
            )

    @property
    def spec(self) -> str:
        return super().spec if self.values.is_identity else super().spec + JOIN + self.values.spec

    @property
    def unbiased(self) -> bool:
        return self.fraction == 1.0 and self.values.unbiased

    def delta(self, n):
        return self._delta(self.k(n) / n, self.k(n))

    def contractive_variant(self):
        return dataclasses.replace(
            self,
            fraction=max(_CONTRACTIVE_FRACTION, self.fraction),
            values=self.values.contractive_variant(),
        )

    def k(self, n: int) -> int:
        """Returns how many of n values are sent."""
        return min(n, max(1, math.ceil(self.fraction * n)))

    def extent(self, n: int) -> int:
        """Returns the upper bound of all indices: n, or more if the last block is padded."""
        return n

    @abc.abstractmethod
    def encode_sparse(self, vector, seed) -> tuple[SparsePayload, tf.Tensor, tf.Tensor]:
        """Returns the payload, and the values and indices of `decode_sparse`, without unpacking it."""

    @abc.abstractmethod
    def decode_sparse(self, payload, n: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (float32 [k] values, int32 [k] distinct indices below `extent(n)`) of a payload."""

    def encode(self, vector, seed):
        return self.encode_sparse(vector, seed)[0]

    def encode_and_decode(self, vector, seed):
        payload, values, indices = self.encode_sparse(vector, seed)
        return payload, SparseVector(values, indices, self.extent(vector.shape[0]))

    def decode(self, payload, n):
        values, indices = self.decode_sparse(payload, n)
        return tf.scatter_nd(indices[:, None], values, [self.extent(n)])[:n]

    def mean_of_payloads(self, payloads, n):
        """Adds the values to zeros. A sum of zeros is +0; the sum of the decoded vectors could be -0."""
        stacked = tf.nest.map_structure(lambda *fields: tf.stack(fields), *payloads)

        def add(m, total):
            values, indices = self.decode_sparse(tf.nest.map_structure(lambda field: field[m], stacked), n)
            return m + 1, tf.tensor_scatter_nd_add(total, indices[:, None], values)

        # A loop and not M copies of the same operations, whose time to trace and to compile would grow with M.
        count, start = len(payloads), (tf.constant(0), tf.zeros([self.extent(n)]))
        total = tf.while_loop(lambda m, _: m < count, add, start, maximum_iterations=count)[1]
        return total[:n] * (1.0 / count)

    def scales(self, payload, n):
        spec = self.values.payload_spec(self.k(n))
        return self.values.scales(from_wire(payload.values, spec), self.k(n))

    def _delta(self, share, k):
        """Returns delta if the k values sent have at least `share` of ||x||^2."""
        return max(0.0, share * self.values.delta(k) - ROUNDING_SLACK)

    def _encode_values(self, values, seed):
        """Returns (float32 [words], float32 [k]): the encoded values, and what they decode to."""
        payload = self.values.encode(values, seed)
        return to_wire(payload), self.values.decode(payload, values.shape[0])

    def _decode_values(self, words, k):
        return self.values.decode(from_wire(words, self.values.payload_spec(k)), k)

    def _values_spec(self, k):
        return tf.TensorSpec([wire_words(self.values.payload_spec(k))], tf.float32)
