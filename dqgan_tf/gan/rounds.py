"""Rounds of several local steps between two exchanges."""

import tensorflow as tf

from dqgan_tf.distribute import loop, pipeline
from dqgan_tf.distribute.replica_local import local_replica_index


class LocalRounds:
    """Implements `local_steps` above 1 for `DQGAN`, the only subclass. One round of K steps on replica m:

        x_0 = w - e^m    (w, if the half step leaves the residual out)
        for k = 1..K:  g = F(x_{k-1} - eta u_{k-1}; xi_k);  u_k = direction(g);  x_k = x_{k-1} - eta u_k
        exchange of p^m = w - x_K = e^m + sum_k eta u_k, as in the step of `DQGAN`

    With a shift, `Channel` subtracts s^m, the mean of whole rounds, and adds sbar to the mean. A round of r < K steps
    takes its part of both, (r/K) s^m and (r/K) sbar: (1 - r/K) s^m is added to what the channel gets, and the same part
    of sbar is subtracted from what it returns.

    docs/algorithm.md derives it. A replica stores sum_k eta u_k and not x_k, because x_k is rounded to the precision of
    a weight, which is much larger than an update. If any value of any replica is not finite, all replicas skip the
    round and restore their state before it.
    """

    def _take_rounds(self, iterator, num_steps, kind):
        """Takes rounds of equal kind inside a compiled function, and returns the number of steps."""

        def begin():
            self._strategy.run(self._begin_round)

        def step(batch, k):
            self._strategy.run(self._local_step, args=(batch, k))

        def end(count):
            self._strategy.run(self._end_round, args=(count, kind))

        return loop.fold_rounds(begin, step, end, iterator, num_steps, self.compression_config.local_steps)

    def _begin_round(self):
        for player in self._players:
            player.begin_round()
        self._step_metrics.begin_round()
        return {}

    def _local_step(self, data, k):
        """Takes step k of a round, int32 scalar from 1, on this replica alone."""
        for player in self._players:
            player.check_trainable()
        real, labels = self._samples_and_labels(data)
        self._batch_checks.note_range(real, self._is_first_batch())
        step = self.step.value + tf.cast(k, tf.int64)
        rates, t = self._rates(step), tf.cast(step - self.skipped.value, tf.float32)
        started = pipeline.now([real])
        taken = tf.cast(k, tf.float32) / self.compression_config.local_steps
        points = tuple(
            player.gradient_points(residuals, eta, [None if d is None else taken * d for d in drifts])
            for player, residuals, eta, drifts in zip(
                self._players, self._residuals(), rates, self._drifts(), strict=True
            )
        )
        values = [player.round_non_trainable() for player in self._players]
        micro_batches = self.optimizer_config.micro_batches
        at_point = self._gradients_at(points, real, step, labels, micro_batches, non_trainable=values)
        proposals = [
            player.propose(gradients, non_trainable, eta, t, None)
            for player, gradients, non_trainable, eta in zip(
                self._players, at_point.gradients, at_point.non_trainable, rates, strict=True
            )
        ]
        for player, proposal, non_trainable in zip(self._players, proposals, at_point.non_trainable, strict=True):
            player.take_local_step(proposal, non_trainable)
        computed = pipeline.now([update for proposal in proposals for update in proposal.updates])
        self._step_metrics.add_local_step(at_point, proposals, computed - started)
        return {}

    def _end_round(self, count, kind):
        """Exchanges the updates of the last `count` steps, int32 scalar; all replicas accept or skip them."""
        context, number = tf.distribute.get_replica_context(), tf.cast(count, tf.int64)
        t = tf.cast(self.step.value + number - self.skipped.value, tf.float32)
        length = tf.cast(count, tf.float32)
        means, accepted = self._exchange_round([player.round_updates() for player in self._players], length, kind)
        moments = [[] for _ in self._players]
        if kind.average:
            average = lambda value: context.all_reduce("mean", [value])[0]  # noqa: E731
            moments = [player.mean_moments(t, average) for player in self._players]
        non_trainable = [player.mean_non_trainable(player.round_non_trainable()) for player in self._players]

        def accept():
            triples = zip(self._players, means, moments, strict=True)
            weights = [player.accept_round(of_player, length, averages) for player, of_player, averages in triples]
            self._averaged.update(weights[0], self._averaged_residuals(), t, length)
            self._assign_non_trainable(non_trainable)
            self._step_metrics.add_round(self._channels_of(kind))
            return accepted

        def skip():
            for player in self._players:
                player.skip_round()
            return accepted

        tf.cond(accepted, accept, skip)
        self._count_steps(number, accepted)
        return {}

    def _exchange_round(self, updates, length, kind):
        """Returns the results of `_exchange` for the updates of `length` steps, float32 scalar."""
        if not self.compression_config.shift:
            return self._exchange(updates, kind)
        replica, channels = local_replica_index(), self._channels_of(kind)
        shifts = self._by_player([shift for channel in channels for shift in channel.shifts(replica)])
        mean_shifts = self._by_player([shift for channel in channels for shift in channel.mean_shifts(replica)])
        missing = 1.0 - length / self.compression_config.local_steps
        means, accepted = self._exchange(_plus(updates, missing, shifts), kind)
        return _plus(means, -missing, mean_shifts), accepted


@tf.function(jit_compile=True, autograph=False)
def _plus(values, factor, others):
    """Returns values + factor * others, per player and weight; None stands for zeros.

    XLA compiles it, as every sum of more than two values must be that is to be equal on all replicas: TensorFlow's
    graph optimiser makes an AddN of such a sum, and AddN (2.21.0) begins with whichever input's memory is free first.
    """
    return [
        [value if other is None else value + factor * other for value, other in zip(*pair, strict=True)]
        for pair in zip(values, others, strict=True)
    ]
