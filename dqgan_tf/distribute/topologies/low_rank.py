"""Two exact all-reduces of thin matrices: how PowerSGD travels."""

import tensorflow as tf

from dqgan_tf.distribute.pipeline import Request
from dqgan_tf.distribute.topologies.base import LARGEST_SCALE, Given, Reduced, Topology
from dqgan_tf.distribute.topologies.encoding import Encoder, compiled
from dqgan_tf.error_feedback import energy


class LowRank(Topology):
    """See `compressors.contrib.powersgd.PowerSGDPlan` for the steps, with p^m = x^m + e^m in place of x^m.

    Args:
      parts: whole segments, compressed by `PowerSGD`.
      group_size: see `Topology`.
      encoder: whether there is error feedback, and in which blocks vectors are read.
    """

    name = "low_rank"

    def __init__(self, parts, group_size: int, encoder: Encoder):
        super().__init__(parts, group_size)
        kernels = self.codings, encoder, group_size
        self._project, self._coefficients, self._decode = _project(*kernels), _coefficients(*kernels), _decode(*kernels)

    @property
    def wire_bytes(self) -> int:
        return sum(plan.wire_bytes for plan in _plans(self.codings))

    @property
    def sent_bytes(self) -> int:
        return 2 * (self.group_size - 1) * self.wire_bytes // self.group_size

    def reduce(self, given: Given):
        own_first, tensors = self._project(given.values, given.residuals, given.states)
        first = yield Request("all_reduce", own_first)
        seeds = [given.common_seed + [0, part.segment] for part in self.parts]
        own_second, bases = self._coefficients(tensors, first, seeds)
        sends = any(plan.second_size for plan in _plans(self.codings))
        second = (yield Request("all_reduce", own_second)) if sends else own_second
        means, residuals, energies, finite, states = self._decode(
            tensors, given.residuals, own_first, first, bases, own_second, second
        )
        return Reduced(means, residuals, energies, finite, states, [None] * len(means))


def _plans(codings):
    return [coding.compressor.plan(coding.shapes or ((coding.size,),)) for coding in codings]


@compiled
def _project(codings, encoder, group_size):
    del group_size

    def project(values, residuals, states):
        plans = _plans(codings)
        updates = [v + e for v, e in zip(values, residuals, strict=True)] if encoder.error_feedback else values
        tensors = [plan.tensors(p) for plan, p in zip(plans, updates, strict=True)]
        return [plan.project(t, state) for plan, t, state in zip(plans, tensors, states, strict=True)], tensors

    return project


@compiled
def _coefficients(codings, encoder, group_size):
    del encoder

    def coefficients(tensors, first_sums, seeds):
        plans = _plans(codings)
        bases = [plan.bases(t / group_size, seed) for plan, t, seed in zip(plans, first_sums, seeds, strict=True)]
        seconds = [plan.coefficients(t, basis) for plan, t, basis in zip(plans, tensors, bases, strict=True)]
        return seconds, bases

    return coefficients


@compiled
def _decode(codings, encoder, group_size):
    def decode(tensors, residuals, own_first, first_sums, bases, own_second, second_sums):
        means, kept, energies, states = [], [], [], []
        firsts, seconds = ([total / group_size for total in sums] for sums in (first_sums, second_sums))
        for index, plan in enumerate(_plans(codings)):
            means.append(tf.concat(plan.decode(firsts[index], bases[index], seconds[index]), 0))
            decoded = plan.decode(own_first[index], bases[index], own_second[index])
            error = tf.concat([t - d for t, d in zip(tensors[index], decoded, strict=True)], 0)
            compensated = tf.add_n([energy(t, None) for t in tensors[index]])
            energies.append(tf.stack([compensated, *(energy(v, encoder.block) for v in (residuals[index], error))]))
            kept.append(error if encoder.error_feedback else residuals[index])
            states.append(plan.next_state(seconds[index]))
        bounded = [tf.reduce_all(tf.abs(mean) < LARGEST_SCALE) for mean in (*firsts, *seconds)]
        return means, kept, tf.stack(energies), tf.reduce_all(tf.stack(bounded)), states

    return decode
