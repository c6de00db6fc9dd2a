"""One player of the game: its network, its per-replica state and its half of the step."""

from typing import NamedTuple

import keras
import tensorflow as tf

from dqgan_tf.distribute.replica_local import ReplicaLocal
from dqgan_tf.gan.flat import FlatLayout
from dqgan_tf.optimizers.half_step import half_step_point


class Proposal(NamedTuple):
    """What a replica would change if the step is accepted.

    update: eta u_t, float32 [n], in units of parameters: what is compressed.
    direction: u_t, float32 [n].
    slots: the direction's state after this gradient.
    gradient_energy: ||g_t||^2, float32 scalar.
    """

    update: tf.Tensor
    direction: tf.Tensor
    slots: dict[str, tf.Tensor]
    gradient_energy: tf.Tensor


class Player:
    """A network with flat weights and the state that DQGAN keeps for it on every replica.

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
        self.layout = FlatLayout.of(network.trainable_variables)
        self.previous = ReplicaLocal(devices, [self.layout.size], f"{name}_previous_direction")
        self.slots: dict[str, ReplicaLocal] = {}
        self._devices = devices

    def compile(self, direction, *, half_step: bool, residual_in_half_step: bool, clip_value: float | None) -> None:
        """Takes the direction and creates its state; previous state is forgotten."""
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

    def evaluation_point(self, residual: tf.Tensor, learning_rate: tf.Tensor) -> list[tf.Tensor]:
        """Returns the weights at which this replica takes its gradient; see `half_step_point`. Replica context."""
        weights = [tf.convert_to_tensor(variable.value) for variable in self.network.trainable_variables]
        return self._evaluation_point(weights, self.previous.local().read_value(), residual, learning_rate)

    def propose(self, gradients, learning_rate: tf.Tensor, count: tf.Tensor, average) -> Proposal:
        """Returns what this replica sends and remembers. Replica context.

        Args:
          gradients: g_t, a list of tensors shaped like the weights.
          learning_rate: eta_t, float32 scalar.
          count: t, accepted steps including this one, float32 scalar.
          average: None, or the exact mean over all replicas: float32 [n] -> float32 [n].
        """
        old = {name: variables.local().read_value() for name, variables in self.slots.items()}
        gradient, slots, energy = self._accumulate(gradients, old)
        if average is not None and self._direction.averaged_slot:
            slots = dict(slots, **{self._direction.averaged_slot: average(self._direction.corrected(slots, count))})
        update, direction = self._update(gradient, slots, count, learning_rate)
        return Proposal(update, direction, slots, energy)

    def advance(self, proposal: Proposal, mean: tf.Tensor, accepted: tf.Tensor) -> tf.Tensor:
        """Applies w_t = w_{t-1} - q_t and remembers the proposal, or changes nothing. Replica context.

        Args:
          proposal: what this replica proposed.
          mean: q_t, float32 [n], equal on all replicas.
          accepted: bool scalar, equal on all replicas.

        Returns:
          The new flat weights, float32 [n].
        """
        weights = [tf.convert_to_tensor(variable.value) for variable in self.network.trainable_variables]
        old = {name: variables.local().read_value() for name, variables in self.slots.items()}
        previous = self.previous.local()
        new_weights, flat, direction, slots = self._advance(
            weights, mean, accepted, previous.read_value(), proposal.direction, old, proposal.slots
        )
        for variable, value in zip(self.network.trainable_variables, new_weights, strict=True):
            variable.assign(value)
        previous.assign(direction)
        for name, variables in self.slots.items():
            variables.local().assign(slots[name])
        return flat

    def _evaluation_point_implementation(self, weights, previous, residual, learning_rate):
        if not self._half_step:
            return weights
        if not self._residual_in_half_step:
            residual = tf.zeros_like(residual)
        flat = self.layout.flatten(weights)
        return self.layout.unflatten(half_step_point(flat, previous, residual, learning_rate))

    def _accumulate_implementation(self, gradients, slots):
        gradient = self.layout.flatten(gradients)
        return gradient, self._direction.accumulate(gradient, slots), tf.reduce_sum(gradient * gradient)

    def _update_implementation(self, gradient, slots, count, learning_rate):
        direction = self._direction.direction(gradient, slots, count)
        return learning_rate * direction, direction

    def _advance_implementation(self, weights, mean, accepted, previous, direction, old, new):
        before = self.layout.flatten(weights)
        flat = before - mean
        if self._clip_value is not None:
            flat = tf.clip_by_value(flat, -self._clip_value, self._clip_value)
        flat = tf.where(accepted, flat, before)
        slots = {name: tf.where(accepted, new[name], old[name]) for name in new}
        return self.layout.unflatten(flat), flat, tf.where(accepted, direction, previous), slots


def _check(name, network):
    if not network.built:
        raise ValueError(f"The {name} must be built before training: call it once or give it an Input.")
    if not network.trainable_variables:
        raise ValueError(f"The {name} has no trainable weight.")
    for variable in network.trainable_variables:
        if variable.dtype != "float32":
            raise ValueError(f"Weights must be float32. Received: {name} weight {variable.path} of {variable.dtype}")
