"""The exact all-reduce, as the topology of what is not compressed."""

import tensorflow as tf

from dqgan_tf.distribute.pipeline import Request
from dqgan_tf.distribute.topologies.base import Given, Reduced, Topology, all_finite


class Dense(Topology):
    """q = 1/M sum_m x^m by TensorFlow's own all-reduce; residuals stay zero."""

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
        means = [total / self.group_size for total in sums]
        energy = [tf.stack([tf.reduce_sum(value * value), 0.0, 0.0]) for value in values]
        nothing = [None] * len(values)
        return Reduced(means, given.residuals, tf.stack(energy), all_finite(means), given.states, nothing)
