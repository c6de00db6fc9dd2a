"""The point where a replica takes its gradients, if that is not w: after local steps, and half a step ahead."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from dqgan_tf.distribute.replica_local import ReplicaLocal, local_replica_index, read_local


class LocalPoint:
    """One round of K steps of replica m between two exchanges, with e^m its residual and u_k its optimizer's updates:

        x_0 = w;  u_0 = u_K of the last round;  l_k = u_k + e^m if `optimistic`, else 0
        for k = 1..K:  g = F(x_{k-1} - l_{k-1});  x_{k-1} - u_k, s^m <- optimizer(x_{k-1}, s^m, g);  x_k = x_{k-1} - u_k
        p^m = e^m + sum_k u_k;   c^m = encode(p^m);   e^m <- p^m - decode(c^m);   w <- w - 1/M sum_m decode(c^m)

    K = 1 with `optimistic` is DQGAN (docs/algorithm.md); K > 1 without it is Qsparse-local-SGD (Basu et al. 2019, arXiv
    1906.02367). The variables hold w, equal on all replicas, except between `look_ahead` and `come_back`: evaluation,
    saving and callbacks see w. A replica keeps sum_k u_k and not x_k, whose rounding would be that of weights.

    Create it eagerly.

    Args:
      variables: variables of the model that the optimizer was built for.
      slots: variables that the optimizer changes beside them.
      devices: devices of the local replicas.
      local_steps: K.
      optimistic: see above.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        slots: Sequence[keras.Variable],
        devices: Sequence[str],
        local_steps: int,
        optimistic: bool,
    ):
        self._variables, self._slots = list(variables), list(slots)
        per_weight = lambda name: [ReplicaLocal(devices, v.shape, name) for v in self._variables]  # noqa: E731
        rounds = local_steps > 1
        self._lead = per_weight("lead") if optimistic else []  # l_k
        self._moved = per_weight("moved") if rounds else []  # u_1 + ... + u_k
        # What a skipped round restores.
        self._slots_before = [
            ReplicaLocal(devices, slot.shape, "kept", tf.as_dtype(slot.dtype))
            for slot in (self._slots if rounds else [])
        ]
        self._lead_before = per_weight("kept_lead") if rounds and optimistic else []
        self._count = ReplicaLocal(devices, [], "steps_in_round", tf.int64)
        self._overflows = ReplicaLocal(devices, [], "overflows_in_round", tf.int64)
        # w per local replica between `look_ahead` and `come_back`, and the graph that it was read in.
        self._ahead: list[tuple | None] = [None] * len(devices)

    def state(self) -> dict[str, ReplicaLocal]:
        """Returns the state of each replica by its name in checkpoints."""
        kinds = {"lead": self._lead, "moved": self._moved, "kept": self._slots_before, "kept_lead": self._lead_before}
        states = {f"{kind}/{i:03d}": local for kind, locals_ in kinds.items() for i, local in enumerate(locals_)}
        counters = {"steps_in_round": self._count, "overflows_in_round": self._overflows}
        return states | (counters if self._moved else {})

    def look_ahead(self) -> None:
        """Sets the variables to x_{k-1} - l_{k-1}; frozen ones keep w. Replica context."""
        replica, graph = local_replica_index(), tf.compat.v1.get_default_graph()
        before = self._ahead[replica]
        if before is not None and before[0] is graph:
            return  # a trace that failed leaves tensors of another graph
        weights = [tf.convert_to_tensor(variable.value) for variable in self._variables]
        self._ahead[replica] = graph, weights
        offsets = [read_local(locals_) for locals_ in (self._moved, self._lead) if locals_]
        for variable, weight, *parts in zip(self._variables, weights, *offsets, strict=True):
            if variable.trainable:
                variable.assign(_less(weight, tf.add_n(parts)))

    def come_back(self) -> bool:
        """Sets the variables to w; returns whether they were at another point. Replica context."""
        replica = local_replica_index()
        before, self._ahead[replica] = self._ahead[replica], None
        for variable, weight in zip(self._variables, before[1] if before else [], strict=before is not None):
            variable.assign(weight)
        return before is not None

    def steps_in_round(self) -> tf.Tensor:
        """Returns the number of local steps since the last exchange, int64 scalar. Cross-replica context."""
        return self._count.variables[0].read_value()

    def finite(self, gradients: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        """Returns gradients, or zeros if one is not finite: the exchange is skipped then, and losses and moments stay
        finite until it comes. Replica context."""
        if not self._moved:
            return gradients
        is_finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
        self._overflows.local().assign_add(tf.cast(tf.logical_not(is_finite), tf.int64))
        return [tf.where(is_finite, gradient, tf.zeros_like(gradient)) for gradient in gradients]

    def after_moves(self, positions: Sequence[int], weights: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        """Returns x_{k-1} of the variables at `positions`, of which `weights` is w. Replica context."""
        if not self._moved:
            return weights
        moved = read_local([self._moved[position] for position in positions])
        return [_less(weight, part) for weight, part in zip(weights, moved, strict=True)]

    def with_moved(self, positions: Sequence[int], updates: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        """Returns u_1 + ... + u_k, of which `updates` is u_k; NaN after a gradient that was not finite. Replica
        context."""
        if not self._moved:
            return updates
        moved = read_local([self._moved[position] for position in positions])
        overflow = tf.where(self._overflows.local() > 0, float("nan"), 0.0)
        return [part + update + overflow for part, update in zip(moved, updates, strict=True)]

    def keep(self) -> bool:
        """Keeps the state before a round. Replica context."""
        for before, slot in zip(self._slots_before, self._slots, strict=True):
            before.local().assign(tf.convert_to_tensor(slot.value))
        for before, lead in zip(self._lead_before, self._lead, strict=bool(self._lead_before)):
            before.local().assign(lead.local().read_value())
        return True

    def move(self, positions: Sequence[int], updates: Sequence[tf.Tensor], residuals: Sequence) -> None:
        """Adds u_k to the sum of a round that goes on. Replica context.

        Args:
          positions: places of the variables that have gradients.
          updates: u_k.
          residuals: e^m, or None for a variable without error feedback.
        """
        for position, update in zip(positions, updates, strict=True):
            self._moved[position].local().assign_add(update)
        self._set_lead(positions, updates, residuals)
        self._count.local().assign_add(1)

    def arrive(self, positions: Sequence[int], updates: Sequence[tf.Tensor], residuals: Sequence) -> None:
        """Ends a round whose exchange was accepted. Arguments as of `move`, after the exchange. Replica context."""
        self._end_round()
        self._set_lead(positions, updates, residuals)

    def forget_residuals(self, positions: Sequence[int], residuals: Sequence) -> None:
        """Takes e^m out of l_K, after the weights have taken it in. Between rounds, replica context.

        Args:
          positions: places of the variables that have gradients.
          residuals: e^m, or None for a variable without error feedback.
        """
        for position, residual in zip(positions, residuals, strict=True) if self._lead else ():
            if residual is not None:
                self._lead[position].local().assign_sub(residual)

    def restore(self) -> None:
        """Restores the state before the round. Replica context."""
        self._end_round()
        for before, slot in zip(self._slots_before, self._slots, strict=True):
            slot.assign(before.local().read_value())
        for before, lead in zip(self._lead_before, self._lead, strict=bool(self._lead_before)):
            lead.local().assign(before.local().read_value())

    def _end_round(self):
        for moved in self._moved:
            moved.local().assign(tf.zeros(moved.local().shape))
        for counter in (self._count, self._overflows):
            counter.local().assign(tf.zeros([], tf.int64))

    def _set_lead(self, positions, updates, residuals):
        for position, update, residual in zip(positions, updates, residuals, strict=True) if self._lead else ():
            self._lead[position].local().assign(update if residual is None else update + residual)


def _less(weight, part):
    """Returns weight - part, computed in float32."""
    return tf.cast(tf.cast(weight, tf.float32) - part, weight.dtype)
