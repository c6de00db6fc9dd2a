"""Two exact all-reduces of thin matrices: the exchange of PowerSGD."""

import tensorflow as tf

from dqgan_tf import error_feedback
from dqgan_tf.compressors import blocks, float_bits
from dqgan_tf.distribute.topologies.packet import Outcome, Packet, Request, Volume, compiled


class LowRank(Packet):
    """See `compressors.contrib.powersgd.PowerSGDPlan` for the steps, with p^m = x^m + e^m in place of x^m.

    Its slices are whole vectors.
    """

    name = "low_rank"

    @staticmethod
    def volume_of(keys, group_size):
        payload = sum(plan.wire_bytes for plan in _plans(keys))
        return Volume(payload, 2 * (group_size - 1) * payload // group_size)

    def reduce(self, updates, replica, rank, seeds):
        size, residuals = self.settings.group_size, self._shifted_residuals(replica)
        updates = [blocks.whole(update) for update in updates]
        queries = self._read(self._learned, replica)
        own_first, tensors = _project(updates, residuals, queries, keys=self.keys)
        first = list((yield Request("all_reduce", own_first)))
        seeds = [seeds.common + [0, slice_.vector] for slice_ in self.slices]
        own_second, bases = _coefficients(tensors, first, seeds, keys=self.keys, group_size=size)
        second = own_second
        if any(plan.second_size for plan in _plans(self.keys)):
            second = list((yield Request("all_reduce", own_second)))
        products = {"own_first": own_first, "first": first, "own_second": own_second, "second": second}
        means, bounded, energies, residuals, learned = _decode_products(
            tensors, residuals, bases, products, keys=self.keys, group_size=size, block=self.settings.block
        )
        means = list(zip(self.slices, means, strict=True))
        return Outcome(means, bounded, energies, residuals, [None] * len(learned), learned)


def _plans(keys):
    return [key.compressor.plan(key.shapes) for key in keys]


@compiled
def _project(updates, residuals, queries, *, keys):
    """Returns the first products of every vector, and its tensors."""
    plans = _plans(keys)
    p = [x if e is None else x + e for x, e in zip(updates, residuals, strict=True)]
    tensors = [plan.tensors(vector) for plan, vector in zip(plans, p, strict=True)]
    return [plan.project(t, query) for plan, t, query in zip(plans, tensors, queries, strict=True)], tensors


@compiled
def _coefficients(tensors, first_sums, seeds, *, keys, group_size):
    """Returns the second products of every vector, and its bases."""
    plans = _plans(keys)
    bases = [plan.bases(total / group_size, seed) for plan, total, seed in zip(plans, first_sums, seeds, strict=True)]
    return [plan.coefficients(t, basis) for plan, t, basis in zip(plans, tensors, bases, strict=True)], bases


@compiled
def _decode_products(tensors, residuals, bases, products, *, keys, group_size, block):
    """Returns (means, whether all are bounded, energies, residuals, learned states).

    products: per vector, this replica's products (`own_first`, `own_second`) and their sums (`first`, `second`).
    """
    first, second = ([total / group_size for total in products[name]] for name in ("first", "second"))
    means, energies, new_residuals, learned = [], [], [], []
    for index, plan in enumerate(_plans(keys)):
        means.append(tf.concat(plan.decode(first[index], bases[index], second[index]), 0))
        decoded = plan.decode(products["own_first"][index], bases[index], products["own_second"][index])
        error = tf.concat([t - d for t, d in zip(tensors[index], decoded, strict=True)], 0)
        residual = residuals[index]
        p = tf.add_n([error_feedback.energy(t, None) for t in tensors[index]])
        e = tf.zeros([]) if residual is None else error_feedback.energy(residual, block)
        energies.append(tf.stack([p, e, error_feedback.energy(error, block)]))
        new_residuals.append(None if residual is None else error)
        learned.append(plan.next_state(second[index]))
    return means, float_bits.are_bounded([*first, *second]), energies, new_residuals, learned
