"""The largest absolute values, exactly; everything else is zero."""

import dataclasses
from typing import ClassVar, NamedTuple

import tensorflow as tf

from dqgan_tf.compressors import elias_fano, selection
from dqgan_tf.compressors.base import Compressor
from dqgan_tf.compressors.identity import Identity
from dqgan_tf.compressors.sparse import Sparse


class TopKPayload(NamedTuple):
    """indices: int32 [words], slots of `selection` by `elias_fano`. values: float32 [words], as they are encoded."""

    indices: tf.Tensor
    values: tf.Tensor


@dataclasses.dataclass(frozen=True)
class TopK(Sparse):
    """Spec `topk:fraction=0.01[+linear:bits=8,bucket=512]`: the k = max(1, ceil(fraction n)) largest |x_i|.

    An index takes about log2(n / k) + 2 bits, a value 4 bytes or what the compressor after the `+` takes. The n - k
    values left out are the smallest, so ||error||^2 <= (1 - k/n) ||x||^2 and delta = k/n, times that of the second.
    Among equal |x_i| the first are sent; NaN counts as inf. Stich et al. 2018, arXiv 1809.07599.
    """

    fraction: float = 0.01
    values: Compressor = Identity()

    name: ClassVar[str] = "topk"

    @property
    def unbiased(self) -> bool:
        return self.fraction == 1.0 and self.values.unbiased

    def encode_sparse(self, vector, seed):
        n = vector.shape[0]
        slots = selection.largest(vector, self.k(n))
        indices = selection.to_indices(slots, n)
        words, decoded = self._encode_values(tf.gather(vector, indices), seed)
        payload = TopKPayload(elias_fano.encode(slots, selection.num_slots(n)), words)
        return payload, decoded, indices

    def decode_sparse(self, payload, n):
        slots = elias_fano.decode(payload.indices, self.k(n), selection.num_slots(n))
        return self._decode_values(payload.values, self.k(n)), selection.to_indices(slots, n)

    def payload_spec(self, n):
        k = self.k(n)
        words = elias_fano.num_words(k, selection.num_slots(n))
        return TopKPayload(tf.TensorSpec([words], tf.int32), self._values_spec(k))

    def delta(self, n):
        return self._delta(self.k(n) / n, self.k(n))
