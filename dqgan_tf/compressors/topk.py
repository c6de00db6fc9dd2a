"""The largest absolute values, exactly; everything else is zero."""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import tensorflow as tf

from dqgan_tf.compressors import float_bits
from dqgan_tf.compressors.base import ROUNDING_SLACK, Compressor


class TopKPayload(NamedTuple):
    """indices: int32 [k], distinct. values: float32 [k]."""

    indices: tf.Tensor
    values: tf.Tensor


@dataclasses.dataclass(frozen=True)
class TopK(Compressor):
    """Spec `topk:fraction=0.01`: the k = max(1, ceil(fraction n)) largest |x_i|, 8 k bytes.

    The n - k values left out are the smallest, so ||error||^2 <= (1 - k/n) ||x||^2 and delta = k/n.
    Stich et al. 2018, arXiv 1809.07599.
    """

    fraction: float = 0.01

    name: ClassVar[str] = "topk"

    def __post_init__(self):
        if isinstance(self.fraction, (bool, str)) or not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"`fraction` must be in (0, 1]. Received: fraction={self.fraction}")

    @property
    def unbiased(self) -> bool:
        return self.fraction == 1.0

    def k(self, n: int) -> int:
        """Returns how many of n values are sent."""
        return min(n, max(1, math.ceil(self.fraction * n)))

    def encode(self, vector, seed):
        # NaN counts as inf: a float comparison would lose it, and XLA for CPU sorts integers 20 times slower.
        magnitude = tf.minimum(float_bits.magnitude(vector), float_bits.INFINITY_BITS)
        _, indices = tf.math.top_k(tf.bitcast(magnitude, tf.float32), k=self.k(vector.shape[0]))
        return TopKPayload(indices, tf.gather(vector, indices))

    def decode(self, payload, n):
        return tf.scatter_nd(payload.indices[:, None], payload.values, [n])

    def payload_spec(self, n):
        k = self.k(n)
        return TopKPayload(tf.TensorSpec([k], tf.int32), tf.TensorSpec([k], tf.float32))

    def delta(self, n):
        return max(0.0, self.k(n) / n - ROUNDING_SLACK)
