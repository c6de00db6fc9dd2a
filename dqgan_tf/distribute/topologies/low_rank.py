"""Two exact all-reduces of thin matrices: how PowerSGD travels."""

import tensorflow as tf

from dqgan_tf import error_feedback
from dqgan_tf.compressors import blocks
from dqgan_tf.distribute.topologies.packet import LARGEST_SCALE, Outcome, Packet, Request, Volume, compiled, write_means


class LowRank(Packet):
    """See `compressors.contrib.powersgd.PowerSGDPlan` for the steps, with p^m = x^m + e^m in place of x^m.

    Its slices are whole vectors.
    """

    name = "low_rank"

    @staticmethod
    def volume(codings, group_size):
        payload = sum(plan.wire_bytes for plan in _plans(codings))
        return Volume(payload, 2 * (group_size - 1) * payload // group_size)

    def reduce(self, updates, replica, rank, seeds):
        size, residuals = self.setting.group_size, self._read(self.residuals, replica)
        updates = [blocks.whole(update) for update in updates]
        own_first, tensors = _project(self.codings)(updates, residuals, self._read(self._learned, replica))
        first = yield Request("all_reduce", own_first)
        seeds = [seeds.common + [0, part.vector] for part in self.slices]
        own_second, bases = _coefficients(self.codings, size)(tensors, list(first), seeds)
        sends = any(plan.second_size for plan in _plans(self.codings))
        second = (yield Request("all_reduce", own_second)) if sends else own_second
        finite, residuals, energies, states = _decode(self.codings, self._places, size, self.setting.block)(
            tensors,
            residuals,
            own_first,
            list(first),
            bases,
            own_second,
            list(second),
            self._starts,
            self._local(self._means, replica),
        )
        return Outcome(finite, energies, residuals, [None] * len(states), states)


def _plans(codings):
    return [coding.compressor.plan(coding.shapes) for coding in codings]


@compiled
def _project(codings):
    def project(updates, residuals, states):
        plans = _plans(codings)
        p = [x if e is None else x + e for x, e in zip(updates, residuals, strict=True)]
        tensors = [plan.tensors(vector) for plan, vector in zip(plans, p, strict=True)]
        return [plan.project(t, state) for plan, t, state in zip(plans, tensors, states, strict=True)], tensors

    return project


@compiled
def _coefficients(codings, group_size):
    def coefficients(tensors, first_sums, seeds):
        plans = _plans(codings)
        bases = [plan.bases(t / group_size, seed) for plan, t, seed in zip(plans, first_sums, seeds, strict=True)]
        seconds = [plan.coefficients(t, basis) for plan, t, basis in zip(plans, tensors, bases, strict=True)]
        return seconds, bases

    return coefficients


@compiled
def _decode(codings, places, group_size, block):
    def decode(tensors, residuals, own_first, first_sums, bases, own_second, second_sums, starts, targets):
        means, kept, energies, states = [], [], [], []
        firsts, seconds = ([total / group_size for total in sums] for sums in (first_sums, second_sums))
        for index, plan in enumerate(_plans(codings)):
            means.append(tf.concat(plan.decode(firsts[index], bases[index], seconds[index]), 0))
            decoded = plan.decode(own_first[index], bases[index], own_second[index])
            error = tf.concat([t - d for t, d in zip(tensors[index], decoded, strict=True)], 0)
            residual = residuals[index]
            p = tf.add_n([error_feedback.energy(t, None) for t in tensors[index]])
            e = tf.zeros([]) if residual is None else error_feedback.energy(residual, block)
            energies.append(tf.stack([p, e, error_feedback.energy(error, block)]))
            kept.append(None if residual is None else error)
            states.append(plan.next_state(seconds[index]))
        write_means(targets, places, means, starts)
        bounded = [tf.reduce_all(tf.abs(mean) < LARGEST_SCALE) for mean in (*firsts, *seconds)]
        return tf.reduce_all(tf.stack(bounded)), kept, energies, states

    return decode
