"""Random values, whose indices are computed from a seed: no index is sent."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from dqgan_tf.compressors import float_bits, hash_random
from dqgan_tf.compressors.base import Compressor
from dqgan_tf.compressors.casts import Identity
from dqgan_tf.compressors.sparse import Sparse, SparsePayload
from dqgan_tf.lazy_tensorflow import tf

_VALUES_STREAM = 0x2545F491
"""Added to the seed of the values, so that their rounding does not depend on the indices."""


@dataclasses.dataclass(frozen=True)
class RandomK(Sparse):
    """Random values, the same on all workers.

    Spec `randomk:fraction=0.01[+linear:bits=8,bucket=512]`: k = max(1, ceil(fraction n)) values, chosen by the seed,
    int32 [2], which is sent instead of the indices. The vector, as a circle, is cut at random into k arcs of about
    n / k values; one random value of each arc is sent. Each value is sent with probability k/n, so delta = k/n in
    expectation, times delta of the second compressor. Stich et al. 2018, arXiv:1809.07599.

    All replicas choose the same indices (`bind` takes the common seed). So the mean in the two-step exchange also has k
    values, and the second encoding sends them without loss; with other indices, only (k/n)^2 of the values would
    arrive. Values are sent as they are, not times n / k: the compressor is contractive and biased.
    """

    fraction: float = 0.01
    values: Compressor = Identity()
    indices_seed: tf.Tensor | None = dataclasses.field(default=None, compare=False, repr=False)

    name: ClassVar[str] = "randomk"
    use: ClassVar[str] = "no search, and no indices on the wire"
    uses_common_seed: ClassVar[bool] = True

    def bind(self, state):
        return dataclasses.replace(self, indices_seed=state)

    def payload_spec(self, n):
        return SparsePayload(tf.TensorSpec([2], tf.int32), self._values_spec(self.k(n)))

    def encode_sparse(self, vector, seed):
        n = vector.shape[0]
        indices_seed = seed if self.indices_seed is None else self.indices_seed
        indices = random_indices(indices_seed, n, self.k(n))
        # A value that is not finite may not be among those sent: it makes all of them NaN.
        finite = float_bits.count_true(float_bits.is_finite(float_bits.magnitude_bits(vector))) == n
        sent = float_bits.nan_unless(finite, tf.gather(vector, indices))
        words, decoded = self._encode_values(sent, seed + [_VALUES_STREAM, 0])
        return SparsePayload(tf.identity(indices_seed), words), decoded, indices

    def decode_sparse(self, payload, n):
        return self._decode_values(payload.values, self.k(n)), random_indices(payload.indices, n, self.k(n))


def random_indices(seed: tf.Tensor, n: int, k: int) -> tf.Tensor:
    """Returns int32 [k] distinct indices below n, each with the probability k/n: a pure function of int32 [2] seed."""
    bounds = tf.range(k + 1, dtype=tf.int64) * n // k
    offsets = hash_random.integers(tf.range(k), seed, bounds[1:] - bounds[:-1])
    turn = hash_random.integers(tf.range(k, k + 1), seed, tf.constant([n], tf.int64))
    return tf.cast((bounds[:-1] + offsets + turn) % n, tf.int32)
