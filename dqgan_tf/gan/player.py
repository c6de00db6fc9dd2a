"""One player of the game: its network, its per-replica state and its half of the step."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from dqgan_tf.compressors import Compressor
from dqgan_tf.compressors.rules import Rule, assign
from dqgan_tf.distribute.replica_local import ReplicaLocal
from dqgan_tf.distribute.segment import Segment
from dqgan_tf.distribute.topologies.base import LARGEST_SCALE
from dqgan_tf.gan.flat import FlatLayout
from dqgan_tf.optimizers.half_step import half_step_point


class Proposal(NamedTuple):
    """What a replica would change if the step is accepted.

    updates: eta u_t in units of parameters, one float32 [size] per segment: what is compressed.
    direction: u_t, float32 [n]; NaN where a slot is not finite, and all of it where the network's statistics are not.
    slots: the direction's state after this gradient.
    gradient_energy: ||g_t||^2, float32 scalar.
    """

    updates: list[tf.Tensor]
    direction: tf.Tensor
    slots: dict[str, tf.Tensor]
    gradient_energy: tf.Tensor


class Player:
    """A network with flat weights and the state that DQGAN keeps for it on every replica.

    Its flat vector is its segments one after the other: groups of weights with a compressor each.

    Args:
      name: `generator` or `discriminator`.
      network: built Keras model, created in the strategy's scope.
      devices: the local replicas' devices.

    Raises:
      ValueError: the network is not built, has no trainable weight, or one that is not float32.
    """

    def __init__(self, name: str, network: keras.Model, devices):
        _check(name, network)
        self.name = name
        self.network = network
        self.layout = self.own_order = FlatLayout.of(network.trainable_variables)
        self.segments: list[Segment] = []
        self.slots: dict[str, ReplicaLocal] = {}
        self._devices = devices

    @property
    def weight_names(self) -> list[str]:
        """What rules of compressors look at, e.g. `generator/dense_1/kernel`, one per trainable weight."""
        return [f"{self.name}/{variable.path}" for variable in self.network.trainable_variables]

    def compile(
        self,
        direction,
        compressor: Compressor,
        rules: Sequence[Rule] = (),
        *,
        half_step: bool,
        residual_in_half_step: bool,
        clip_value: float | None,
    ) -> None:
        """Takes direction and compressors and creates the state that belongs to them; previous state is forgotten."""
        groups = assign(self.weight_names, compressor, rules)
        order = [index for group in groups for index in group.members] if len(groups) > 1 else ()
        self.layout = FlatLayout.of(self.network.trainable_variables, order)
        self.segments = [self._segment(group) for group in groups]
        self._direction = direction
        self._half_step = half_step
        self._residual_in_half_step = residual_in_half_step
        self._clip_value = clip_value
        self.previous = ReplicaLocal(self._devices, [self.layout.size], f"{self.name}_previous_direction")
        self.slots = {
            slot: ReplicaLocal(self._devices, [self.layout.size], f"{self.name}_{slot}") for slot in direction.slots
        }
        self._evaluation_point = tf.function(self._evaluation_point_implementation, jit_compile=True, autograph=False)
        self._accumulate = tf.function(self._accumulate_implementation, jit_compile=True, autograph=False)
        self._update = tf.function(self._update_implementation, jit_compile=True, autograph=False)
        self._advance = tf.function(self._advance_implementation, jit_compile=True, autograph=False)

    def state(self) -> dict[str, ReplicaLocal]:
        """Returns the per-replica state by name."""
        return {f"previous_direction/{self.name}": self.previous} | {
            f"{slot}/{self.name}": variables for slot, variables in self.slots.items()
        }

    def evaluation_point(self, residuals: list[tf.Tensor], learning_rate: tf.Tensor) -> list[tf.Tensor]:
        """Returns the weights at which this replica takes its gradient; see `half_step_point`. Replica context.

        Args:
          residuals: e_{t-1}, one float32 [size] per segment.
          learning_rate: eta_t, float32 scalar.
        """
        weights = [tf.convert_to_tensor(variable.value) for variable in self.network.trainable_variables]
        return self._evaluation_point(weights, self.previous.local().read_value(), residuals, learning_rate)

    def propose(self, gradients, statistics, learning_rate: tf.Tensor, count: tf.Tensor, average) -> Proposal:
        """Returns what this replica sends and remembers. Replica context.

        Args:
          gradients: g_t, a list of tensors shaped like the weights.
          statistics: what `keep_statistics` takes afterwards, a list of tensors.
          learning_rate: eta_t, float32 scalar.
          count: t, accepted steps including this one, float32 scalar.
          average: None, or the exact mean over all replicas: float32 [n] -> float32 [n].
        """
        old = {name: variables.local().read_value() for name, variables in self.slots.items()}
        gradient, slots, energy = self._accumulate(gradients, old)
        if average is not None and self._direction.averaged_slot:
            slots = dict(slots, **{self._direction.averaged_slot: average(self._direction.corrected(slots, count))})
        statistics = [value for value in statistics if value.dtype.is_floating]
        updates, direction = self._update(gradient, slots, statistics, count, learning_rate)
        return Proposal(updates, direction, slots, energy)

    def advance(self, proposal: Proposal, means: list[tf.Tensor], accepted: tf.Tensor) -> tf.Tensor:
        """Applies w_t = w_{t-1} - q_t and remembers the proposal, or changes nothing. Replica context.

        Args:
          proposal: what this replica proposed.
          means: q_t, one float32 [size] per segment, equal on all replicas.
          accepted: bool scalar, equal on all replicas.

        Returns:
          The new weights, float32 [n], by `own_order`.
        """
        weights = [tf.convert_to_tensor(variable.value) for variable in self.network.trainable_variables]
        old = {name: variables.local().read_value() for name, variables in self.slots.items()}
        previous = self.previous.local()
        new_weights, flat, direction, slots = self._advance(
            weights, means, accepted, previous.read_value(), proposal.direction, old, proposal.slots
        )
        for variable, value in zip(self.network.trainable_variables, new_weights, strict=True):
            variable.assign(value)
        previous.assign(direction)
        for name, variables in self.slots.items():
            variables.local().assign(slots[name])
        return flat

    def keep_statistics(self, values: Sequence[tf.Tensor], accepted: tf.Tensor) -> None:
        """Takes what the network updates itself, as batch-norm statistics, if the step is accepted. Replica context.

        Floating values become their exact mean over replicas, or they would diverge; others are equal.

        Args:
          values: this replica's, shaped like the network's non-trainable variables.
          accepted: bool scalar, equal on all replicas.
        """
        variables, values = self.network.non_trainable_variables, list(values)
        floating = [i for i, v in enumerate(variables) if "float" in v.dtype]
        if floating:
            means = tf.distribute.get_replica_context().all_reduce("mean", [values[i] for i in floating])
            for index, mean in zip(floating, means, strict=True):
                values[index] = mean
        for variable, value in zip(variables, values, strict=True):
            variable.assign(tf.where(accepted, value, variable.value))

    def _segment(self, group):
        shapes = tuple(self.layout.shapes[index] for index in group.members)
        name = f"{self.name}.{group.label}" if group.label else self.name
        return Segment(name, sum(math.prod(shape) for shape in shapes), group.compressor, shapes)

    def _evaluation_point_implementation(self, weights, previous, residuals, learning_rate):
        if not self._half_step:
            return weights
        residual = _joined(residuals) if self._residual_in_half_step else tf.zeros_like(previous)
        flat = self.layout.flatten(weights)
        return self.layout.unflatten(half_step_point(flat, previous, residual, learning_rate))

    def _accumulate_implementation(self, gradients, slots):
        gradient = self.layout.flatten(gradients)
        return gradient, self._direction.accumulate(gradient, slots), tf.reduce_sum(gradient * gradient)

    def _update_implementation(self, gradient, slots, statistics, count, learning_rate):
        direction = self._direction.direction(gradient, slots, count)
        # State that overflows can leave the update finite: m / sqrt(inf) = 0, and a batch of infinite variance is
        # normalised to 0. NaN makes all replicas refuse the step.
        for state in slots.values():
            direction = tf.where(tf.math.is_finite(state), direction, float("nan"))
        for value in statistics:
            summable = tf.reduce_all(tf.abs(value) < LARGEST_SCALE)  # over all replicas
            direction = tf.where(summable, direction, float("nan"))
        sizes = [segment.size for segment in self.segments]
        return tf.split(learning_rate * direction, sizes), direction

    def _advance_implementation(self, weights, means, accepted, previous, direction, old, new):
        before = self.layout.flatten(weights)
        flat = before - _joined(means)
        if self._clip_value is not None:
            flat = tf.clip_by_value(flat, -self._clip_value, self._clip_value)
        flat = tf.where(accepted, flat, before)
        slots = {name: tf.where(accepted, new[name], old[name]) for name in new}
        new_weights = self.layout.unflatten(flat)
        if self.layout.order:
            flat = self.own_order.flatten(new_weights)
        return new_weights, flat, tf.where(accepted, direction, previous), slots


def _joined(vectors):
    return vectors[0] if len(vectors) == 1 else tf.concat(vectors, 0)


def _check(name, network):
    if not network.built:
        raise ValueError(f"The {name} must be built before training: call it once or give it an Input.")
    if not network.trainable_variables:
        raise ValueError(f"The {name} has no trainable weight.")
    for variable in network.trainable_variables:
        if variable.dtype != "float32":
            raise ValueError(f"Weights must be float32. Received: {name} weight {variable.path} of {variable.dtype}")
