"""One player of the game: its network, its per-replica state and its half of the step."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from dqgan_tf.compressors import Compressor
from dqgan_tf.compressors.rules import Rule, assign
from dqgan_tf.distribute.replica_local import Joined, ReplicaLocal
from dqgan_tf.distribute.segment import Segment
from dqgan_tf.distribute.topologies.base import LARGEST_SCALE
from dqgan_tf.gan.flat import FlatLayout, flatten
from dqgan_tf.gan.stages import stages
from dqgan_tf.optimizers.half_step import half_step_point


class Proposal(NamedTuple):
    """What a replica would change if the step is accepted.

    One tensor or dict of tensors per segment:
      updates: eta u_t in units of parameters, float32 [size]: what is compressed.
      directions: u_t, float32 [size]; NaN where a slot is not finite, and all of it where the network's statistics are
        not.
      slots: the direction's state after this gradient.
    gradient_energy: ||g_t||^2, float32 scalar.
    """

    updates: list[tf.Tensor]
    directions: list[tf.Tensor]
    slots: list[dict[str, tf.Tensor]]
    gradient_energy: tf.Tensor


class Player:
    """A network, whose weights make flat segments, and the state that DQGAN keeps for it on every replica.

    A segment is a group of weights with one compressor, or a stage of it; see `stages`. Nothing but `advance` looks at
    two segments at once: a segment's update exists as soon as its weights' gradients do.

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
        self.segments: list[Segment] = []
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
        groups = stages(assign(self.weight_names, compressor, rules), self.layout.shapes)
        self.segments = [self._segment(group) for group in groups]
        self._members = [group.members for group in groups]
        self._layouts = [FlatLayout(segment.shapes) for segment in self.segments]
        self._direction = direction
        self._half_step = half_step
        self._residual_in_half_step = residual_in_half_step
        self._clip_value = clip_value
        self._previous = self._per_segment("previous_direction")
        self._slots = {slot: self._per_segment(slot) for slot in direction.slots}
        self._evaluation_point = tf.function(self._evaluation_point_implementation, jit_compile=True, autograph=False)
        self._accumulate = tf.function(self._accumulate_implementation, jit_compile=True, autograph=False)
        self._update = tf.function(self._update_implementation, jit_compile=True, autograph=False)
        self._advance = tf.function(self._advance_implementation, jit_compile=True, autograph=False)

    def state(self) -> dict[str, ReplicaLocal]:
        """Returns the per-replica state by name: vectors [n], segment after segment."""
        named = {"previous_direction": self._previous} | self._slots
        return {f"{name}/{self.name}": Joined(pieces) for name, pieces in named.items()}

    def evaluation_point(self, residuals: list[tf.Tensor], learning_rate: tf.Tensor) -> list[tf.Tensor]:
        """Returns the weights at which this replica takes its gradient; see `half_step_point`. Replica context.

        Args:
          residuals: e_{t-1}, one float32 [size] per segment.
          learning_rate: eta_t, float32 scalar.
        """
        weights = [tf.convert_to_tensor(variable.value) for variable in self.network.trainable_variables]
        return self._evaluation_point(weights, _read(self._previous), residuals, learning_rate)

    def propose(self, gradients, statistics, learning_rate: tf.Tensor, count: tf.Tensor, average) -> Proposal:
        """Returns what this replica sends and remembers. Replica context.

        Args:
          gradients: g_t, a list of tensors shaped like the weights.
          statistics: what `keep_statistics` takes afterwards, a list of tensors.
          learning_rate: eta_t, float32 scalar.
          count: t, accepted steps including this one, float32 scalar.
          average: None, or the exact mean over all replicas, of a list of tensors.
        """
        accumulated = [
            self._accumulate(of_segment, old)
            for of_segment, old in zip(self._by_segment(gradients), self._read_slots(), strict=True)
        ]
        slots = [one[1] for one in accumulated]
        if average is not None and self._direction.averaged_slot:
            means = average([self._direction.corrected(one, count) for one in slots])
            slots = [one | {self._direction.averaged_slot: mean} for one, mean in zip(slots, means, strict=True)]
        statistics = [value for value in statistics if value.dtype.is_floating]
        updates, directions = zip(
            *[
                self._update(gradient, one, statistics, count, learning_rate)
                for (gradient, _, _), one in zip(accumulated, slots, strict=True)
            ],
            strict=True,
        )
        return Proposal(list(updates), list(directions), slots, tf.add_n([energy for _, _, energy in accumulated]))

    def advance(self, proposal: Proposal, means: list[tf.Tensor], accepted: tf.Tensor) -> tf.Tensor:
        """Applies w_t = w_{t-1} - q_t and remembers the proposal, or changes nothing. Replica context.

        Args:
          proposal: what this replica proposed.
          means: q_t, one float32 [size] per segment, equal on all replicas.
          accepted: bool scalar, equal on all replicas.

        Returns:
          The new weights, float32 [n], by `layout`.
        """
        weights = [tf.convert_to_tensor(variable.value) for variable in self.network.trainable_variables]
        new_weights, flat, directions, slots = self._advance(
            weights, means, accepted, _read(self._previous), proposal.directions, self._read_slots(), proposal.slots
        )
        for variable, value in zip(self.network.trainable_variables, new_weights, strict=True):
            variable.assign(value)
        for index, direction in enumerate(directions):
            self._previous[index].local().assign(direction)
            for name, pieces in self._slots.items():
                pieces[index].local().assign(slots[index][name])
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
        return Segment(name, FlatLayout(shapes).size, group.compressor, shapes)

    def _per_segment(self, name):
        return [ReplicaLocal(self._devices, [one.size], f"{one.name}_{name}") for one in self.segments]

    def _by_segment(self, tensors):
        return [[tensors[index] for index in members] for members in self._members]

    def _read_slots(self):
        return [
            {name: pieces[index].local().read_value() for name, pieces in self._slots.items()}
            for index in range(len(self.segments))
        ]

    def _weights_of(self, flats):
        """One flat vector per segment -> tensors shaped like the weights, in their order."""
        tensors = [one for layout, flat in zip(self._layouts, flats, strict=True) for one in layout.unflatten(flat)]
        places = [index for members in self._members for index in members]
        return [tensor for _, tensor in sorted(zip(places, tensors, strict=True), key=lambda pair: pair[0])]

    def _evaluation_point_implementation(self, weights, previous, residuals, learning_rate):
        if not self._half_step:
            return weights
        if not self._residual_in_half_step:
            residuals = [tf.zeros_like(residual) for residual in residuals]
        points = [
            half_step_point(flatten(of_segment), direction, residual, learning_rate)
            for of_segment, direction, residual in zip(self._by_segment(weights), previous, residuals, strict=True)
        ]
        return self._weights_of(points)

    def _accumulate_implementation(self, gradients, slots):
        gradient = flatten(gradients)
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
        return learning_rate * direction, direction

    def _advance_implementation(self, weights, means, accepted, previous, directions, old, new):
        flats = []
        for of_segment, mean in zip(self._by_segment(weights), means, strict=True):
            before = flatten(of_segment)
            flat = before - mean
            if self._clip_value is not None:
                flat = tf.clip_by_value(flat, -self._clip_value, self._clip_value)
            flats.append(tf.where(accepted, flat, before))
        new_weights = self._weights_of(flats)
        kept_directions, kept_slots = tf.nest.map_structure(
            lambda proposed, present: tf.where(accepted, proposed, present), (directions, new), (previous, old)
        )
        return new_weights, flatten(new_weights), kept_directions, kept_slots


def _read(per_segment):
    return [variables.local().read_value() for variables in per_segment]


def _check(name, network):
    if not network.built:
        raise ValueError(f"The {name} must be built before training: call it once or give it an Input.")
    if not network.trainable_variables:
        raise ValueError(f"The {name} has no trainable weight.")
    for variable in network.trainable_variables:
        if variable.dtype != "float32":
            raise ValueError(f"Weights must be float32. Received: {name} weight {variable.path} of {variable.dtype}")
