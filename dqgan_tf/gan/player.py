"""One player of the game: its network, its state on every replica and its part of the step."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from dqgan_tf.compressors import float_bits
from dqgan_tf.config import CompressionConfig, OptimizerConfig
from dqgan_tf.distribute.replica_local import ReplicaLocal, first_local_value, read_local
from dqgan_tf.errors import UsageError
from dqgan_tf.optimizers import Direction, half_step_point
from dqgan_tf.private_keras import running_statistics

PLAYERS = ("generator", "discriminator")

# Smallest number of values (1 MiB) in one compiled call of `_propose`. Smaller calls cost more time than their overlap
# with the backward pass saves.
_CHUNK_VALUES = 1 << 18
_SEED_STRIDE = 7919  # any number but 0: Keras draws the seeds of layers at random
# With exchange='gradient', a gradient from here on makes all replicas skip the step. Squares of smaller values, with
# what error feedback adds to them, cannot overflow the second moment.
_LARGEST_GRADIENT = 1e15
# State of EF21 (Richtarik, Sokolov, Fatkhullin 2021, arXiv 2106.05203): x_{t-1} of this replica, and the sum of all
# means received, which is equal on all replicas.
_EF21_SLOTS = ("previous_value", "estimate")


class Proposal(NamedTuple):
    """What a replica sends, and its new state if the step is accepted. Lists hold one item per weight.

    updates: x_t, shaped like the weight, which is compressed and sent: eta u_t in units of parameters, or
      eta (2 u_t - u_{t-1}) with step_rule=optimistic, or g_t if gradients are exchanged; with EF21, x_t - x_{t-1}. A
      value is NaN where a slot is not finite. All values are NaN if a statistic of the network is not finite.
    directions: u_t; None if gradients are exchanged, until `conclude`.
    slots: state of the direction after this gradient, and of EF21, a dict of tensors.
    gradient_energy: ||g_t||^2 of this replica's gradient, float32 scalar.
    """

    updates: list[tf.Tensor]
    directions: list[tf.Tensor]
    slots: list[dict[str, tf.Tensor]]
    gradient_energy: tf.Tensor


class Player:
    """A network and the state that DQGAN stores for each of its weights on every replica.

    All tensors have the shape of their weight. A compiled function that concatenates them runs about 30 times slower on
    a CPU with two threads (checked with TensorFlow 2.21.0).

    Args:
      name: one of `PLAYERS`.
      network: built Keras model that `inputs.check_networks` has checked.
      devices: the local replicas' devices.

    Raises:
      UsageError: the network has no trainable weight.
    """

    def __init__(self, name: str, network: keras.Model, devices: Sequence[str]):
        self.name = name
        self.network = network
        self._devices = devices
        self.take_weights()

    def take_weights(self) -> None:
        """Trains the weights that are trainable now; layers of the network may be frozen.

        Raises:
          UsageError: none is trainable.
        """
        if not self.network.trainable_variables:
            raise UsageError(f"The {self.name} has no trainable weight.")
        self.weights = list(self.network.trainable_variables)
        self.shapes = [tuple(variable.shape) for variable in self.weights]
        self._running_statistics = {id(variable) for variable in running_statistics(self.network)}

    def check_trainable(self) -> None:
        """Raises UsageError if layers were frozen or released after `compile`."""
        if [id(weight) for weight in self.weights] != [id(weight) for weight in self.network.trainable_variables]:
            raise UsageError(
                f"`trainable` of a layer of the {self.name} has changed since compile, where it takes effect: call "
                f"compile again. {len(self.weights)} weights were trainable then, "
                f"{len(self.network.trainable_variables)} are now."
            )
        if self._running_statistics != {id(variable) for variable in running_statistics(self.network)}:
            raise UsageError(
                f"`trainable` of a normalization layer of the {self.name} has changed since compile, where it takes "
                f"effect: call compile again. {len(self._running_statistics)} statistics were updated then."
            )

    @property
    def weight_names(self) -> list[str]:
        """Names for compressor rules, e.g. `generator/dense_1/kernel`, one per trainable weight."""
        return [f"{self.name}/{variable.path}" for variable in self.weights]

    @property
    def saved_names(self) -> dict[str, keras.Variable]:
        """All variables of the network by their names in checkpoints, e.g. `generator/002_kernel`.

        They have no layer names, because Keras numbers layers by process: a resumed run would have others.
        """
        return {f"{self.name}/{index:03d}_{v.name}": v for index, v in enumerate(self.network.variables)}

    @property
    def trainable_names(self) -> list[str]:
        """Names in checkpoints of the trainable weights, in order."""
        trainable = {id(variable) for variable in self.weights}
        return [name for name, variable in self.saved_names.items() if id(variable) in trainable]

    def compile(
        self,
        direction: Direction,
        optimizer: OptimizerConfig,
        compression: CompressionConfig,
        clip_value: float | None,
    ) -> None:
        """Sets the update rule and creates its state in place of the old one."""
        self._direction, self._clip_value, self._global_clipnorm = direction, clip_value, optimizer.global_clipnorm
        self._half_step, self._residual_in_half_step = optimizer.half_step, compression.residual_in_half_step
        self._exchanges_gradients = optimizer.exchange == "gradient"
        self._is_optimistic = optimizer.step_rule == "optimistic"
        self._is_ef21 = compression.error_feedback_form == "ef21"
        self._chunks = _chunks([math.prod(shape) for shape in self.shapes])
        self._previous = self._per_weight("previous_direction")
        self._slots = {slot: self._per_weight(slot) for slot in direction.slots}
        if self._is_ef21:
            self._slots |= {slot: self._per_weight(slot) for slot in _EF21_SLOTS}
        # The last update of all replicas, equal on all of them.
        self._look_ahead = self._per_weight("look_ahead") if self._half_step == "common" else []
        has_rounds = compression.local_steps > 1
        # With local steps, per weight: the sum of the updates since the last exchange.
        self._round_updates = self._per_weight("moved") if has_rounds else []
        # Pairs (variable, its value before the round), for a round that is skipped.
        changing = [self._previous, *self._slots.values()] if has_rounds else []
        self._before_round = [
            pair for per_weight in changing for pair in zip(per_weight, self._per_weight("kept"), strict=True)
        ]
        # The network's non-trainable values inside the round.
        self._round_non_trainable = [
            ReplicaLocal(self._devices, variable.shape, f"{self.name}_statistics", tf.as_dtype(variable.dtype))
            for variable in (self.network.non_trainable_variables if has_rounds else [])
        ]
        self._anchors = self._per_weight("anchor") if optimizer.step_rule == "extragradient" else []
        self.reset_anchors()
        self._gradient_points_compiled = tf.function(self._gradient_points, jit_compile=True, autograph=False)
        self._flat_moments_compiled = tf.function(self._flat_moments, jit_compile=True, autograph=False)
        self._propose_compiled = tf.function(self._propose, jit_compile=True, autograph=False)
        self._conclude_compiled = tf.function(self._conclude, jit_compile=True, autograph=False)
        self._are_bounded_compiled = tf.function(float_bits.are_bounded, jit_compile=True, autograph=False)
        self._subtract_compiled = tf.function(self._subtract, jit_compile=True, autograph=False)

    def state(self) -> dict[str, ReplicaLocal]:
        """Returns the per-replica state by its name in checkpoints, e.g. `m/generator/002_kernel`."""
        kinds = {"previous_direction": self._previous} | self._slots
        if self._look_ahead:
            kinds["look_ahead"] = self._look_ahead
        if self._anchors:
            kinds["anchor"] = self._anchors
        return {
            f"{kind}/{name}": variables
            for kind, per_weight in kinds.items()
            for name, variables in zip(self.trainable_names, per_weight, strict=True)
        }

    def reset_anchors(self) -> None:
        """Sets the points from which extragradient steps start to the weights. Eager."""
        for anchor, weight in zip(self._anchors, self.weights, strict=bool(self._anchors)):
            for variable in anchor.variables:
                variable.assign(first_local_value(weight))

    def weight_values(self) -> list[tf.Tensor]:
        """Returns w_{t-1}. Replica context."""
        return [tf.convert_to_tensor(variable.value) for variable in self.weights]

    def gradient_points(
        self,
        residuals: list[tf.Tensor | None],
        learning_rate: tf.Tensor,
        drifts: list[tf.Tensor | None],
    ) -> list[tf.Tensor]:
        """Returns the weights at which this replica evaluates its gradient; see `half_step_point`. Replica context.

        Args:
          residuals: e_{t-1} per weight; None for a weight that has no residual.
          learning_rate: eta_t, float32 scalar.
          drifts: for a corrected half step, s - sbar per weight, times k / K at local step k of K; None for a weight
            that has no shift.
        """
        moved = read_local(self._round_updates)
        if self._half_step == "none":
            return [w - m for w, m in zip(self.weight_values(), moved, strict=True)] if moved else self.weight_values()
        if not self._residual_in_half_step:
            residuals = [None] * len(residuals)
        else:
            # Zeros as an argument: XLA would remove a constant zero and round eta u once less than with a residual.
            residuals = [tf.zeros(w) if e is None else e for w, e in zip(self.shapes, residuals, strict=True)]
        if self._half_step == "corrected":
            residuals = [_add(e, None if d is None else -d) for e, d in zip(residuals, drifts, strict=True)]
        if moved:
            residuals = [_add(e, m) for e, m in zip(residuals, moved, strict=True)]
        directions, rate = self._previous, learning_rate
        if self._half_step == "common":
            directions, rate = self._look_ahead, tf.ones([])  # in units of parameters
        return self._gradient_points_compiled(self.weight_values(), read_local(directions), residuals, rate)

    def propose(
        self,
        gradients: list[tf.Tensor],
        non_trainable: list[tf.Tensor],
        learning_rate: tf.Tensor,
        t: tf.Tensor,
        average: Callable | None,
    ) -> Proposal:
        """Returns the values to send and the new state; `apply` stores the state if the step is accepted. Replica
        context.

        There is one compiled call per chunk of weights, so that the updates of the last layers can be sent while the
        gradients of the first layers are computed.

        Args:
          gradients: g_t per weight.
          non_trainable: new non-trainable values of the network, e.g. batch-norm statistics.
          learning_rate: eta_t, float32 scalar.
          t: number of this player's accepted updates including this one, float32 scalar.
          average: function that returns the exact mean over all replicas of a tensor at an averaging step, else None.
        """
        if self._global_clipnorm is not None:  # NaN if the norm is not finite, so that the step is skipped
            gradients, _ = tf.clip_by_global_norm(gradients, self._global_clipnorm)
        names = [] if self._exchanges_gradients else list(self._direction.slots)
        old = self._read([*names, "previous_value"] if self._is_ef21 else names, not self._exchanges_gradients)
        floating = [value for value in non_trainable if value.dtype.is_floating]
        bounded = self._are_bounded_compiled(floating) if floating else tf.constant(True)
        if average is not None and self._direction.averaged_slot:
            old = self._with_averaged_slot(gradients, old, t, average)
        of_chunks = [
            self._propose_compiled([gradients[i] for i in chunk], [old[i] for i in chunk], bounded, t, learning_rate)
            for chunk in self._chunks
        ]
        *lists, energies = zip(*of_chunks, strict=True)
        updates, directions, slots = map(self._joined_chunks, lists)
        return Proposal(updates, directions, slots, tf.add_n(energies))

    def _joined_chunks(self, lists) -> list[Any]:
        """Returns one item per weight of one list per chunk; None for all weights if the lists are empty."""
        items: dict[int, Any] = {}
        for chunk, of_chunk in zip(self._chunks, lists, strict=True):
            items |= dict(zip(chunk, of_chunk, strict=bool(of_chunk)))
        return [items.get(i) for i in range(len(self.shapes))]

    def conclude(
        self, proposal: Proposal, means: list[tf.Tensor], learning_rate: tf.Tensor, t: tf.Tensor
    ) -> tuple[Proposal, list[tf.Tensor], tf.Tensor]:
        """Returns (proposal, what is subtracted, whether both are finite). By default, the arguments as they are.

        EF21 adds the means to its estimate. If gradients are exchanged, the direction of their mean is computed here,
        equally on all replicas. Replica context.

        Args:
          proposal: result of `propose` on this replica.
          means: q_t per weight, equal on all replicas.
          learning_rate, t: arguments of `propose`.
        """
        if not (self._exchanges_gradients or self._is_ef21):
            return proposal, means, tf.constant(True)
        names = list(self._direction.slots) if self._exchanges_gradients else []
        old = self._read([*names, "estimate"] if self._is_ef21 else names, self._exchanges_gradients)
        subtracted, directions, slots, finite = self._conclude_compiled(means, old, t, learning_rate)
        slots = [before | new for before, new in zip(proposal.slots, slots, strict=True)]
        return proposal._replace(directions=directions or proposal.directions, slots=slots), subtracted, finite

    def apply(self, proposal: Proposal, subtracted: list[tf.Tensor], *, keeps_anchors: bool = False) -> list[tf.Tensor]:
        """Assigns w_t = w_{t-1} - q_t, projected by constraints, stores the proposal's state and returns w_t.

        Replica context, accepted step.

        Args:
          proposal: result of `conclude` on this replica.
          subtracted: q_t per weight, equal on all replicas.
          keeps_anchors: the first half of an extragradient step, which only looks ahead. Both halves subtract from the
            anchors, and the second one moves them to w_t.
        """
        weights = self._subtract_compiled(read_local(self._anchors) or self.weight_values(), subtracted)
        for index, variable in enumerate(self.weights):
            variable.assign(weights[index])
            self._previous[index].local().assign(proposal.directions[index])
            for name, slot in self._slots.items():
                slot[index].local().assign(proposal.slots[index][name])
            if self._look_ahead:
                self._look_ahead[index].local().assign(subtracted[index])
            if self._anchors and not keeps_anchors:
                self._anchors[index].local().assign(weights[index])
        return weights

    def move(self, distances: Sequence[tf.Tensor | None]) -> None:
        """Assigns w - distance, projected by constraints; None moves nothing. Replica context, no anchors.

        Args:
          distances: per weight, equal on all replicas.
        """
        distances = [tf.zeros(shape) if d is None else d for d, shape in zip(distances, self.shapes, strict=True)]
        weights = self._subtract_compiled(self.weight_values(), distances)
        for variable, weight in zip(self.weights, weights, strict=True):
            variable.assign(weight)

    def begin_round(self) -> None:
        """Starts a round of local steps. Replica context."""
        for variable, before in self._before_round:
            before.local().assign(variable.local().read_value())
        for total in self._round_updates:
            total.local().assign(tf.zeros(total.local().shape))
        for statistic, variable in zip(self._round_non_trainable, self.network.non_trainable_variables, strict=True):
            statistic.local().assign(tf.convert_to_tensor(variable.value))

    def take_local_step(self, proposal: Proposal, non_trainable: Sequence[tf.Tensor]) -> None:
        """Takes a local step: stores the proposal's state and adds its updates to those of the round. Replica context.

        Args:
          proposal: result of `propose` on this replica; a NaN in it makes all replicas skip the round.
          non_trainable: new non-trainable values of the network.
        """
        for index, total in enumerate(self._round_updates):
            total.local().assign_add(proposal.updates[index])
            self._previous[index].local().assign(proposal.directions[index])
            for name, slot in self._slots.items():
                slot[index].local().assign(proposal.slots[index][name])
        for variable, value in zip(self._round_non_trainable, non_trainable, strict=True):
            variable.local().assign(value)

    def round_updates(self) -> list[tf.Tensor]:
        """Returns the sum of the round's updates per weight. Replica context."""
        return read_local(self._round_updates)

    def round_non_trainable(self) -> list[tf.Tensor]:
        """Returns this replica's non-trainable values of the network inside a round. Replica context."""
        return read_local(self._round_non_trainable)

    def mean_moments(self, t: tf.Tensor, average: Callable) -> list[tf.Tensor]:
        """Returns the exact mean over the replicas of the second moments after a round; one collective.

        Args:
          t, average: arguments of `propose`.
        """
        slots = self._read(list(self._direction.slots), False)
        corrected = [tf.reshape(self._direction.corrected(slot, t), [-1]) for slot in slots]
        return self._by_weight(average(tf.concat(corrected, 0)))

    def accept_round(self, subtracted: list[tf.Tensor], count: tf.Tensor, moments: list[tf.Tensor]) -> list[tf.Tensor]:
        """Assigns w - q, projected by constraints, and returns it. Replica context.

        Args:
          subtracted: q per weight, equal on all replicas.
          count: number of steps of the round, float32 scalar.
          moments: result of `mean_moments`; empty: no average is due.
        """
        weights = self._subtract_compiled(self.weight_values(), subtracted)
        averaged = self._slots.get(self._direction.averaged_slot or "", [])
        for index, variable in enumerate(self.weights):
            variable.assign(weights[index])
            if self._look_ahead:
                self._look_ahead[index].local().assign(subtracted[index] / count)
            if moments:
                averaged[index].local().assign(moments[index])
        return weights

    def skip_round(self) -> None:
        """Restores the state before the round. Replica context."""
        for variable, before in self._before_round:
            variable.local().assign(before.local().read_value())

    def offset_seeds(self, values: Sequence[tf.Tensor], offset: tf.Tensor) -> list[tf.Tensor]:
        """Returns non-trainable values of the network; the seeds of its random layers are shifted by `offset`.

        Keras' random layers hold equal seeds on all replicas, so dropout would drop the same units everywhere. Each
        replica shifts them by its rank before the evaluation, and back afterwards.
        """
        shift = tf.stack([offset * _SEED_STRIDE, 0])  # a seed is [seed, number of draws]
        return [
            value + tf.cast(shift, value.dtype) if variable.path.endswith("seed_generator_state") else value
            for variable, value in zip(self.network.non_trainable_variables, values, strict=True)
        ]

    def mean_non_trainable(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns new non-trainable values of the network that are equal on all replicas. Replica context.

        Statistics are averaged exactly over the replicas; others, e.g. counters and frozen weights, are equal already.

        Args:
          values: this replica's new values, one per non-trainable variable.
        """
        values = list(values)
        averaged = [i for i, v in enumerate(self.network.non_trainable_variables) if id(v) in self._running_statistics]
        if averaged:
            means = tf.distribute.get_replica_context().all_reduce("mean", [values[i] for i in averaged])
            for index, mean in zip(averaged, means, strict=True):
                values[index] = mean
        return values

    def _per_weight(self, name):
        return [ReplicaLocal(self._devices, shape, f"{self.name}_{name}") for shape in self.shapes]

    def _read(self, names, computes_direction):
        """Returns one dict per weight: the slots of these names, and u_{t-1} where an optimistic step needs it."""
        kinds = {name: self._slots[name] for name in names}
        if computes_direction and self._is_optimistic:
            kinds["previous_direction"] = self._previous
        return [
            {name: per_weight[i].local().read_value() for name, per_weight in kinds.items()}
            for i in range(len(self.shapes))
        ]

    def _with_averaged_slot(self, gradients, slots, t, average):
        """Returns the slots; the averaged one holds the exact mean over the replicas. One collective."""
        means = self._by_weight(average(self._flat_moments_compiled(gradients, slots, t)))
        return [slot | {self._direction.averaged_slot: mean} for slot, mean in zip(slots, means, strict=True)]

    def _by_weight(self, flat):
        """Cuts a flat vector into tensors of the shapes of the weights."""
        parts = tf.split(flat, [math.prod(shape) for shape in self.shapes])
        return [tf.reshape(part, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def _flat_moments(self, gradients, slots, t):
        after = [self._direction.accumulate(g, slot) for g, slot in zip(gradients, slots, strict=True)]
        return tf.concat([tf.reshape(self._direction.corrected(slot, t), [-1]) for slot in after], 0)

    def _gradient_points(self, weights, previous, residuals, learning_rate):
        return [
            half_step_point(w, u, tf.zeros_like(w) if e is None else e, learning_rate)
            for w, u, e in zip(weights, previous, residuals, strict=True)
        ]

    def _propose(self, gradients, slots, bounded, t, learning_rate):
        """Returns (updates, directions, slots, gradient energy) of a chunk of weights."""
        energy = tf.add_n([tf.reduce_sum(g * g) for g in gradients])
        if self._exchanges_gradients:
            directions, values = [], []
            for gradient in gradients:
                values.append(tf.where(bounded & (tf.abs(gradient) < _LARGEST_GRADIENT), gradient, float("nan")))
        else:
            directions, values, slots = self._directions_and_updates(gradients, slots, bounded, t, learning_rate)
        if not self._is_ef21:
            return values, directions, slots, energy
        changes = [value - slot["previous_value"] for value, slot in zip(values, slots, strict=True)]
        slots = [slot | {"previous_value": value} for value, slot in zip(values, slots, strict=True)]
        return changes, directions, slots, energy

    def _conclude(self, means, slots, t, learning_rate):
        """Returns (what is subtracted, directions, slots, whether all are finite)."""
        directions = []
        if self._is_ef21:
            means = [slot["estimate"] + mean for slot, mean in zip(slots, means, strict=True)]
            slots = [slot | {"estimate": mean} for slot, mean in zip(slots, means, strict=True)]
        if self._exchanges_gradients:
            directions, means, slots = self._directions_and_updates(means, slots, True, t, learning_rate)
        return means, directions, slots, tf.reduce_all([tf.reduce_all(tf.math.is_finite(mean)) for mean in means])

    def _directions_and_updates(self, gradients, slots, bounded, t, learning_rate):
        """Returns (u_t, eta u_t or eta (2 u_t - u_{t-1}), slots after these gradients).

        The update can be finite although the state overflowed: m / sqrt(inf) = 0, and batch norm maps a batch of
        infinite variance to 0. It is set to NaN then, which makes all replicas skip the step.
        """
        slots = [self._direction.accumulate(g, slot) for g, slot in zip(gradients, slots, strict=True)]
        directions = []
        for gradient, slot in zip(gradients, slots, strict=True):
            finite = tf.fill(gradient.shape, bounded)
            for state in slot.values():
                finite &= tf.math.is_finite(state)
            directions.append(tf.where(finite, self._direction.direction(gradient, slot, t), float("nan")))
        moves = directions
        if self._is_optimistic:  # u_0 = u_1: the first step is a plain one
            previous = [slot.pop("previous_direction") for slot in slots]
            previous = [tf.where(t > 1.0, before, u) for before, u in zip(previous, directions, strict=True)]
            moves = [2.0 * u - before for u, before in zip(directions, previous, strict=True)]
        return directions, [learning_rate * move for move in moves], slots

    def _subtract(self, weights, means):
        """Returns w - q, projected by the weight's own constraint and by `clip_value`."""
        weights = [w - q for w, q in zip(weights, means, strict=True)]
        constraints = [variable.constraint for variable in self.weights]
        weights = [w if c is None else c(w) for w, c in zip(weights, constraints, strict=True)]
        if self._clip_value is None:
            return weights
        return [tf.clip_by_value(w, -self._clip_value, self._clip_value) for w in weights]


class AveragedWeights:
    """w_ema <- d w_ema + (1 - d) w_t with d = min(decay, (1 + t) / (10 + t)); equal on all replicas.

    The initial w_ema is the player's weights. If residuals are to be flushed, each replica averages its own e^m in the
    same way: w_ema - 1/M sum_m e_ema^m is the average of w - mean(e).

    Args:
      player: whose weights are averaged.
      devices: the local replicas' devices.
      decay: the largest d.

    Attributes:
      is_warm: whether the average was loaded; then d = decay from the first step. Set it before the first step.
    """

    def __init__(self, player: Player, devices: Sequence[str], decay: float):
        self._player, self._devices, self._decay, self.is_warm = player, devices, decay, False
        self._weights, self._variables = list(player.weights), [self._new(weight) for weight in player.weights]
        self._residuals: list[ReplicaLocal] = []  # e_ema^m per weight
        self._updated_compiled = tf.function(self._updated, jit_compile=True, autograph=False)
        self._mixed_compiled = tf.function(self._mixed, jit_compile=True, autograph=False)
        self.reset()

    def take_weights(self, averages_residuals: bool) -> None:
        """Follows `Player.take_weights`: a frozen weight has no average; one that is released starts anew."""
        old = dict(zip(map(id, self._weights), self._variables, strict=True))
        self._weights = list(self._player.weights)
        self._variables = [old.get(id(weight)) or self._new(weight) for weight in self._weights]
        for weight, average in zip(self._weights, self._variables, strict=True):
            if id(weight) not in old:
                _assign_everywhere(average, first_local_value(weight))
        self._residuals = [self._new(weight) for weight in self._weights if averages_residuals]

    def state(self) -> dict[str, ReplicaLocal]:
        """Returns the average by its names in checkpoints, e.g. `ema/generator/002_kernel`."""
        pairs = zip(self._player.trainable_names, self._variables, strict=True)
        return {f"ema/{name}": variable for name, variable in pairs}

    def replica_state(self) -> dict[str, ReplicaLocal]:
        """Returns the averages of residuals by their names in checkpoints, e.g. `ema_residual/generator/002_kernel`."""
        pairs = zip(self._player.trainable_names, self._residuals, strict=bool(self._residuals))
        return {f"ema_residual/{name}": variable for name, variable in pairs}

    def reset(self, residuals: Sequence[Sequence[tf.Tensor | None]] = ()) -> None:
        """Sets the average to the player's weights, and that of residuals to the residuals. Eager.

        Args:
          residuals: e^m of each local replica, a tensor or None per weight; empty if they are not averaged.
        """
        for average, weight in zip(self._variables, self._weights, strict=True):
            _assign_everywhere(average, first_local_value(weight))
        for replica, of_replica in enumerate(residuals):
            for average, residual in zip(self._residuals, of_replica, strict=True):
                variable = average.variables[replica]
                variable.assign(tf.zeros(variable.shape) if residual is None else residual)

    def update(
        self,
        weights: list[tf.Tensor],
        residuals: Sequence[tf.Tensor | None],
        t: tf.Tensor,
        count: tf.Tensor | None = None,
    ) -> None:
        """Assigns w_ema, and e_ema^m, after an accepted step, or round of steps. Replica context.

        Args:
          weights: w_t.
          residuals: e_t^m of this replica, None for weights that are sent exactly; empty if they are not averaged.
          t: number of accepted steps including this one, float32 scalar.
          count: number of steps of a round, float32 scalar: d is the product of their decays. None: one step.
        """
        self._average(self._variables, weights, t, count)
        held = [tf.zeros(w.shape) if e is None else e for e, w in zip(residuals, weights, strict=bool(residuals))]
        self._average(self._residuals, held, t, count)

    def _average(self, variables, values, t, count):
        if not variables:
            return
        if count is None:
            averages = self._updated_compiled(read_local(variables), values, t)
        else:
            decay = tf.reduce_prod(self._decay_at(tf.range(t - count, t) + 1.0))
            averages = self._mixed_compiled(read_local(variables), values, decay)
        for variable, value in zip(variables, averages, strict=True):
            variable.local().assign(value)

    def flush_residuals(self, mean: Callable[[list[tf.Tensor]], Sequence[tf.Tensor]]) -> None:
        """Assigns w_ema - 1/M sum_m e_ema^m, and zero to e_ema^m. Replica context.

        Args:
          mean: values -> their exact means over all replicas.
        """
        means = mean(read_local(self._residuals))
        for variable, residual, distance in zip(self._variables, self._residuals, means, strict=True):
            variable.local().assign_sub(distance)
            residual.local().assign(tf.zeros(distance.shape))

    def values(self) -> dict[int, tf.Tensor]:
        """Returns the average of each weight by the `id` of its variable. Cross-replica context."""
        averages = [average.variables[0].read_value() for average in self._variables]
        return dict(zip(map(id, self._weights), averages, strict=True))

    def _new(self, weight):
        return ReplicaLocal(self._devices, tuple(weight.shape), f"{self._player.name}_ema")

    def _decay_at(self, t):
        return tf.minimum(self._decay, tf.ones_like(t) if self.is_warm else (1.0 + t) / (10.0 + t))

    def _updated(self, averages, weights, t):
        return self._mixed(averages, weights, self._decay_at(t))

    def _mixed(self, averages, weights, decay):
        return [decay * average + (1.0 - decay) * w for average, w in zip(averages, weights, strict=True)]


def _add(a, b):
    """Returns a + b; None stands for 0."""
    return b if a is None else a if b is None else a + b


def _assign_everywhere(local, value):
    for variable in local.variables:
        variable.assign(value)


def _chunks(sizes):
    """Returns lists of weight indices with at least `_CHUNK_VALUES` values each, the last layers first: their gradients
    are computed first."""
    chunks, size = [[]], 0
    for index in reversed(range(len(sizes))):
        if size >= _CHUNK_VALUES:
            chunks.append([])
            size = 0
        chunks[-1].insert(0, index)
        size += sizes[index]
    return chunks
