"""The exact all-reduce, as the topology of what is not compressed."""

import tensorflow as tf

from dqgan_tf.compressors import float_bits
from dqgan_tf.distribute.pipeline import Request
from dqgan_tf.distribute.topologies.base import Given, Reduced, Topology, all_finite
from dqgan_tf.distribute.topologies.encoding import compiled


class Dense(Topology):
    """q = 1/M sum_m x^m by an exact all-reduce; residuals stay zero."""

    name = "dense"

    @property
    def wire_bytes(self) -> int:
        return self.dense_bytes

    @property
    def sent_bytes(self) -> int:
        return self.dense_sent_bytes

    def reduce(self, given: Given):
        values = [v[part.start : part.start + part.size] for part, v in zip(self.parts, given.values, strict=True)]
        sums = yield Request("all_reduce", values)
        means, statistics, finite = _decode(self.group_size)(values, list(sums))
        return Reduced(means, given.residuals, statistics, finite, given.states, [None] * len(values))


@compiled
def _decode(group_size):
    def decode(values, sums):
        # Not a quotient: TensorFlow's dense mean has the bits of this product (seen at 2.21.0, three replicas).
        means = [total * (1.0 / group_size) for total in sums]
        energies = [tf.stack([float_bits.sum_of_squares(value), 0.0, 0.0]) for value in values]
        return means, tf.stack(energies), all_finite(means)

    return decode
