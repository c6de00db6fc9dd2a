"""Random values, whose indices follow from a seed: no index travels."""

import dataclasses
from typing import ClassVar, NamedTuple

import tensorflow as tf

from dqgan_tf.compressors import float_bits, hash_random, reductions
from dqgan_tf.compressors.base import Compressor
from dqgan_tf.compressors.identity import Identity
from dqgan_tf.compressors.sparse import Sparse

_VALUES_STREAM = 0x2545F491
"""Added to the seed for the values, whose rounding must not depend on which were drawn."""


class RandomKPayload(NamedTuple):
    """seed: int32 [2], of the indices. values: float32 [words], as they are encoded."""

    seed: tf.Tensor
    values: tf.Tensor


@dataclasses.dataclass(frozen=True)
class RandomK(Sparse):
    """Spec `randomk:fraction=0.01[+linear:bits=8,bucket=512]`: k = max(1, ceil(fraction n)) values, drawn by the seed.

    The circle of n values is cut into k arcs of n / k values, rounded, turned by a random number of places, and one
    value of each arc is sent: each with the probability k/n, hence delta = k/n in expectation, times that of the
    second. The seed travels, in 8 bytes. Replicas of a channel draw the same indices (`bind`): their mean has k values
    too, which an owner sends on without loss, where indices of their own would leave it k/n of every replica's k/n.
    Values are sent as they are, not times n / k, so that the compressor is contractive and biased. Stich et al. 2018,
    arXiv 1809.07599.
    """

    fraction: float = 0.01
    values: Compressor = Identity()
    draws: tf.Tensor | None = dataclasses.field(default=None, compare=False, repr=False)

    name: ClassVar[str] = "randomk"

    @property
    def unbiased(self) -> bool:
        return self.fraction == 1.0 and self.values.unbiased

    @property
    def draws_in_common(self) -> bool:
        return True

    def bind(self, state):
        return dataclasses.replace(self, draws=state)

    def encode_sparse(self, vector, seed):
        n = vector.shape[0]
        draws = seed if self.draws is None else self.draws
        indices = draw(draws, n, self.k(n))
        # What is not finite may not have been drawn.
        finite = reductions.count(float_bits.is_finite(float_bits.magnitude(vector))) == n
        sent = float_bits.poison(finite, tf.gather(vector, indices))
        words, decoded = self._encode_values(sent, seed + [_VALUES_STREAM, 0])
        return RandomKPayload(tf.identity(draws), words), decoded, indices

    def decode_sparse(self, payload, n):
        return self._decode_values(payload.values, self.k(n)), draw(payload.seed, n, self.k(n))

    def payload_spec(self, n):
        return RandomKPayload(tf.TensorSpec([2], tf.int32), self._values_spec(self.k(n)))

    def delta(self, n):
        return self._delta(self.k(n) / n, self.k(n))


def draw(seed: tf.Tensor, n: int, k: int) -> tf.Tensor:
    """Returns int32 [k] distinct indices below n, each with the probability k/n: a pure function of int32 [2] seed."""
    bounds = tf.range(k + 1, dtype=tf.int64) * n // k
    offsets = hash_random.integers(tf.range(k), seed, bounds[1:] - bounds[:-1])
    turn = hash_random.integers(tf.range(k, k + 1), seed, tf.constant([n], tf.int64))
    return tf.cast((bounds[:-1] + offsets + turn) % n, tf.int32)
