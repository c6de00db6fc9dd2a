"""One player of the game: its network, its state on every replica and its half of the step."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from dqgan_tf.compressors import float_bits
from dqgan_tf.distribute.replica_local import ReplicaLocal, first_local_value, read_local
from dqgan_tf.errors import UsageError
from dqgan_tf.optimizers import Direction, half_step_point

_RUN_VALUES = 1 << 18
"""Values from which on a run of weights is complete, 1 MiB: shorter ones cost more in calls than they hide."""


class Proposal(NamedTuple):
    """The changes that a replica makes if the step is accepted. Lists hold one item per weight.

    updates: eta u_t in units of parameters, shaped like the weight: what is compressed.
    directions: u_t; NaN where a slot is not finite, and everywhere if the network's statistics are not.
    slots: state of the direction after this gradient, a dict of tensors.
    gradient_energy: ||g_t||^2, float32 scalar.
    """

    updates: list[tf.Tensor]
    directions: list[tf.Tensor]
    slots: list[dict[str, tf.Tensor]]
    gradient_energy: tf.Tensor


class Player:
    """A network and the state that DQGAN keeps for each of its weights on every replica.

    All tensors have the shape of their weight. Concatenated into one vector inside a compiled function, they would be
    some thirty times slower on a CPU with two threads (XLA of TensorFlow 2.21.0).

    Args:
      name: `generator` or `discriminator`.
      network: built Keras model, created in the strategy's scope.
      devices: the local replicas' devices.

    Raises:
      UsageError: the network is not built, has no trainable weight, or one that is not float32.
    """

    def __init__(self, name: str, network: keras.Model, devices: Sequence[str]):
        _check(name, network)
        self.name = name
        self.network = network
        self.shapes = [tuple(variable.shape) for variable in network.trainable_variables]
        self._devices = devices

    @property
    def weight_names(self) -> list[str]:
        """Names that rules of compressors match, e.g. `generator/dense_1/kernel`, one per trainable weight."""
        return [f"{self.name}/{variable.path}" for variable in self.network.trainable_variables]

    @property
    def saved_names(self) -> dict[str, keras.Variable]:
        """All variables of the network by their names in checkpoints, e.g. `generator/002_kernel`.

        Keras' own names count the layers of the process, so they differ between a run and its continuation.
        """
        named = enumerate(self.network.variables)
        return {f"{self.name}/{index:03d}_{variable.name}": variable for index, variable in named}

    @property
    def trainable_names(self) -> list[str]:
        """Names in checkpoints of the trainable weights, in order."""
        trainable = {id(variable) for variable in self.network.trainable_variables}
        return [name for name, variable in self.saved_names.items() if id(variable) in trainable]

    def compile(
        self, direction: Direction, *, half_step: bool, residual_in_half_step: bool, clip_value: float | None
    ) -> None:
        """Takes a direction and creates its state; forgets the state before."""
        self._direction, self._clip_value = direction, clip_value
        self._half_step, self._residual_in_half_step = half_step, residual_in_half_step
        self._runs = _runs([math.prod(shape) for shape in self.shapes])
        self._previous = self._per_weight("previous_direction")
        self._slots = {slot: self._per_weight(slot) for slot in direction.slots}
        for name in ("_evaluation_points", "_flat_moments", "_propose", "_usable", "_subtract"):
            setattr(self, f"{name}_compiled", tf.function(getattr(self, name), jit_compile=True, autograph=False))

    def state(self) -> dict[str, ReplicaLocal]:
        """Returns the per-replica state by its name in checkpoints, e.g. `m/generator/002_kernel`."""
        kinds = {"previous_direction": self._previous} | self._slots
        return {
            f"{kind}/{name}": variables
            for kind, per_weight in kinds.items()
            for name, variables in zip(self.trainable_names, per_weight, strict=True)
        }

    def evaluation_points(self, residuals: list[tf.Tensor | None], learning_rate: tf.Tensor) -> list[tf.Tensor]:
        """Returns the weights at which this replica takes its gradient; see `half_step_point`. Replica context.

        Args:
          residuals: e_{t-1} per weight; None where nothing is kept back.
          learning_rate: eta_t, float32 scalar.
        """
        if not self._half_step:
            return self._weights()
        if not self._residual_in_half_step:
            residuals = [None] * len(residuals)
        else:
            # As an argument: XLA would fuse a constant zero away and round eta u once less than with a residual.
            residuals = [tf.zeros(w) if e is None else e for w, e in zip(self.shapes, residuals, strict=True)]
        return self._evaluation_points_compiled(self._weights(), read_local(self._previous), residuals, learning_rate)

    def propose(
        self,
        gradients: list[tf.Tensor],
        statistics: list[tf.Tensor],
        learning_rate: tf.Tensor,
        count: tf.Tensor,
        average: Callable | None,
    ) -> Proposal:
        """Returns what this replica sends, and remembers if the step is accepted. Replica context.

        Weights are worked on run by run: the update of the last layers exists before the first layers' gradients do.

        Args:
          gradients: g_t per weight.
          statistics: what the network updates itself, e.g. batch-norm statistics.
          learning_rate: eta_t, float32 scalar.
          count: t, accepted steps including this one, float32 scalar.
          average: at an averaging step, the exact mean over all replicas of a tensor; None at others.
        """
        old = [
            {name: slot[i].local().read_value() for name, slot in self._slots.items()} for i in range(len(gradients))
        ]
        floating = [value for value in statistics if value.dtype.is_floating]
        usable = self._usable_compiled(floating) if floating else tf.constant(True)
        if average is not None and self._direction.averaged_slot:
            old = self._average(gradients, old, count, average)
        updates, directions, slots, energies = {}, {}, {}, []
        for run in self._runs:
            tensors = [gradients[i] for i in run], [old[i] for i in run]
            *results, energy = self._propose_compiled(*tensors, usable, count, learning_rate)
            energies.append(energy)
            for by_weight, tensors in zip((updates, directions, slots), results, strict=True):
                by_weight |= dict(zip(run, tensors, strict=True))
        ordered = [[by_weight[i] for i in range(len(gradients))] for by_weight in (updates, directions, slots)]
        return Proposal(*ordered, tf.add_n(energies))

    def advance(self, proposal: Proposal, means: list[tf.Tensor]) -> list[tf.Tensor]:
        """Applies w_t = w_{t-1} - q_t, remembers the proposal and returns w_t. Replica context, of an accepted step.

        Args:
          proposal: of this replica.
          means: q_t per weight, equal on all replicas.
        """
        weights = self._subtract_compiled(self._weights(), means)
        for index, variable in enumerate(self.network.trainable_variables):
            variable.assign(weights[index])
            self._previous[index].local().assign(proposal.directions[index])
            for name, slot in self._slots.items():
                slot[index].local().assign(proposal.slots[index][name])
        return weights

    def mean_statistics(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns what the network updates itself, equal on all replicas. Replica context.

        Floating values become their exact mean over replicas, or they would diverge; others are equal already.

        Args:
          values: of this replica, shaped like the network's non-trainable variables.
        """
        values = list(values)
        floating = [i for i, v in enumerate(self.network.non_trainable_variables) if "float" in v.dtype]
        if floating:
            means = tf.distribute.get_replica_context().all_reduce("mean", [values[i] for i in floating])
            for index, mean in zip(floating, means, strict=True):
                values[index] = mean
        return values

    def _weights(self):
        return [tf.convert_to_tensor(variable.value) for variable in self.network.trainable_variables]

    def _per_weight(self, name):
        return [ReplicaLocal(self._devices, shape, f"{self.name}_{name}") for shape in self.shapes]

    def _average(self, gradients, slots, count, average):
        """Returns the slots with the exact mean over the replicas in the averaged one; one collective."""
        flat = average(self._flat_moments_compiled(gradients, slots, count))
        parts = tf.split(flat, [math.prod(shape) for shape in self.shapes])
        means = [tf.reshape(part, shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return [slot | {self._direction.averaged_slot: mean} for slot, mean in zip(slots, means, strict=True)]

    def _flat_moments(self, gradients, slots, count):
        after = [self._direction.accumulate(g, slot) for g, slot in zip(gradients, slots, strict=True)]
        return tf.concat([tf.reshape(self._direction.corrected(slot, count), [-1]) for slot in after], 0)

    def _evaluation_points(self, weights, previous, residuals, learning_rate):
        return [
            half_step_point(w, u, tf.zeros_like(w) if e is None else e, learning_rate)
            for w, u, e in zip(weights, previous, residuals, strict=True)
        ]

    def _usable(self, statistics):
        """Whether statistics are finite and may be added up over all replicas, bool scalar."""
        return float_bits.are_bounded(statistics)

    def _propose(self, gradients, slots, usable, count, learning_rate):
        """Returns (updates, directions, slots, gradient energy) of a run of weights.

        State that overflows can leave the update finite: m / sqrt(inf) = 0, and a batch of infinite variance is
        normalised to 0. NaN makes all replicas refuse the step.
        """
        slots = [self._direction.accumulate(g, slot) for g, slot in zip(gradients, slots, strict=True)]
        directions = []
        for gradient, slot in zip(gradients, slots, strict=True):
            finite = tf.fill(gradient.shape, usable)
            for state in slot.values():
                finite &= tf.math.is_finite(state)
            directions.append(tf.where(finite, self._direction.direction(gradient, slot, count), float("nan")))
        updates = [learning_rate * direction for direction in directions]
        return updates, directions, slots, tf.add_n([tf.reduce_sum(g * g) for g in gradients])

    def _subtract(self, weights, means):
        weights = [w - q for w, q in zip(weights, means, strict=True)]
        if self._clip_value is None:
            return weights
        return [tf.clip_by_value(w, -self._clip_value, self._clip_value) for w in weights]


class AveragedWeights:
    """w_ema <- d w_ema + (1 - d) w_t with d = min(decay, (1 + t) / (10 + t)); equal on all replicas.

    Starts from the player's own weights.

    Args:
      player: whose weights are averaged.
      devices: the local replicas' devices.
      decay: the largest d.
    """

    def __init__(self, player: Player, devices: Sequence[str], decay: float):
        self._player, self._decay = player, decay
        self._variables = [ReplicaLocal(devices, shape, f"{player.name}_ema") for shape in player.shapes]
        self._average = tf.function(self._average_implementation, jit_compile=True, autograph=False)
        self.reset()

    def state(self) -> dict[str, ReplicaLocal]:
        """Returns the average by its names in checkpoints, e.g. `ema/generator/002_kernel`."""
        pairs = zip(self._player.trainable_names, self._variables, strict=True)
        return {f"ema/{name}": variable for name, variable in pairs}

    def reset(self) -> None:
        """Sets the average to the player's weights. Eager."""
        for average, weight in zip(self._variables, self._player.network.trainable_variables, strict=True):
            for variable in average.variables:
                variable.assign(first_local_value(weight))

    def update(self, weights: list[tf.Tensor], count: tf.Tensor) -> None:
        """Takes one accepted step. Replica context.

        Args:
          weights: w_t.
          count: t, accepted steps including this one, float32 scalar.
        """
        averages = self._average(read_local(self._variables), weights, count)
        for variable, value in zip(self._variables, averages, strict=True):
            variable.local().assign(value)

    def weights(self) -> list[tf.Tensor]:
        """Returns the average per weight. Cross-replica context."""
        return [average.variables[0].read_value() for average in self._variables]

    def _average_implementation(self, averages, weights, count):
        decay = tf.minimum(self._decay, (1.0 + count) / (10.0 + count))
        return [decay * average + (1.0 - decay) * w for average, w in zip(averages, weights, strict=True)]


@tf.function(jit_compile=True, autograph=False)
def digest(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Returns int32 [2]: two wrap-around sums over all values i of bits(value_i) * odd_i, odd_i hashed from i.

    Every odd factor is invertible modulo 2^32, so a change in any single value changes both sums; two random vectors
    agree with probability 2^-64. Not cryptographic: it finds divergence, not malice.

    Args:
      tensors: float32, of any shapes.
    """
    sums, start = [tf.constant(0, tf.uint32)] * 2, 0
    for tensor in tensors:
        bits = tf.bitcast(tf.reshape(tensor, [-1]), tf.uint32)
        index = tf.cast(tf.range(start, start + bits.shape[0]), tf.uint32)
        salts = (0x9E3779B9, 0x85EBCA6B)
        sums = [total + tf.reduce_sum(bits * _odd(index, salt)) for total, salt in zip(sums, salts, strict=True)]
        start += bits.shape[0]
    return tf.bitcast(tf.stack(sums), tf.int32)


def _odd(index, salt):
    """An odd uint32 factor per index: one multiply-xorshift round."""
    x = (index + tf.constant(salt, tf.uint32)) * tf.constant(0x7FEB352D, tf.uint32)
    x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(15, tf.uint32)))
    return tf.bitwise.bitwise_or(x * tf.constant(0x846CA68B, tf.uint32), tf.constant(1, tf.uint32))


def _runs(sizes):
    """Cuts the weights into runs of at least `_RUN_VALUES` values, the last layers first: they have gradients first."""
    runs, size = [[]], 0
    for index in reversed(range(len(sizes))):
        if size >= _RUN_VALUES:
            runs.append([])
            size = 0
        runs[-1].insert(0, index)
        size += sizes[index]
    return runs


def _check(name, network):
    if not network.built:
        raise UsageError(f"The {name} must be built before training: call it once or give it an Input.")
    if not network.trainable_variables:
        raise UsageError(f"The {name} has no trainable weight.")
    for variable in network.trainable_variables:
        if variable.dtype != "float32":
            raise UsageError(f"Weights must be float32. Received: {name} weight {variable.path} of {variable.dtype}")
