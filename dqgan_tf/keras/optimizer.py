"""Compressed exchange for Keras optimizers: what is sent, and how all replicas take or skip a step together."""

import itertools
import json
import math
import numbers
import weakref
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from dqgan_tf import compressors
from dqgan_tf.compressors import rules as compressor_rules
from dqgan_tf.compressors.quantizer import Quantizer
from dqgan_tf.config import CompressionConfig
from dqgan_tf.distribute import layout, residual_sample
from dqgan_tf.distribute.channel import ENERGIES, Channel
from dqgan_tf.distribute.pipeline import TIMES, hidden
from dqgan_tf.distribute.replica_local import ReplicaLocal, local_replica_index
from dqgan_tf.distribute.strategy import CompressedStrategy
from dqgan_tf.errors import UsageError
from dqgan_tf.keras.local_point import LocalPoint
from dqgan_tf.private_keras import OptimizerSteps, built_for, overwrites_with_gradient

WHERE = ("gradient", "update")
_DTYPES = ("float32", "bfloat16", "float16")
_NOT_INCREMENTAL = (keras.optimizers.Ftrl, keras.optimizers.ScheduleFreeAdamW)
_FEW_BITS, _SIZE = 2.5, 1 << 16  # bits a value, of a vector of this size, below which updates are sent by default
_OF_RESIDUALS = ("readings", "spread", "lag")
_SUMS = ("exchanges", "accepted", "wire_bytes", "sent_bytes", "dense_bytes", *ENERGIES, *TIMES, *_OF_RESIDUALS)
_serial = itertools.count()  # of channels; a name is a tag inside one process


def compressed(
    optimizer: keras.optimizers.Optimizer | str,
    compression: str | CompressionConfig = CompressionConfig.compressor,
    *,
    where: str | None = None,
    optimistic: bool = False,
    seed: int = 0,
    logs: bool = False,
    **settings,
) -> keras.optimizers.Optimizer:
    """Makes the replicas of `optimizer` exchange compressed values, and returns `optimizer` itself.

        strategy = dqgan_tf.CompressedStrategy()
        with strategy.scope():
            model = keras.Sequential([...])
            model.compile(dqgan_tf.compressed(keras.optimizers.Adam(1e-3), "linear:bits=4,bucket=512"), loss=...)
        model.fit(dataset)

    With g^m the gradient of replica m's own loss, clipped as the optimizer asks for, and Q the channel's compressed
    mean with error feedback (`distribute.channel.Channel`):

        where="gradient":   w, s <- optimizer(w, s, Q(g^1, ..., g^M))
        where="update":     w - u^m, s^m <- optimizer(w, s^m, g^m);    w <- w - Q(u^1, ..., u^M)

    With "gradient", residuals have the unit of gradients and all state is equal on all replicas. With "update", they
    have the unit of weights and each replica has its own slots s^m (moments); Adam needs this at few bits
    (docs/keras.md). If any replica's gradient or update is not finite, all replicas skip the step: no weight, slot or
    residual changes, and `iterations` does not count it, except with `gradient_accumulation_steps`, where it counts
    every call. A `LossScaleOptimizer` then halves its scale on all replicas.

    With "update", a replica may take its gradients at a point of its own (`keras.local_point`): at w - u^m - e^m with
    `optimistic=True`, which is DQGAN and which the `train_step` of a GAN needs, and after steps of its own with
    `local_steps=K`, which exchanges every K-th update. Outside of a step the variables hold w on all replicas.

    The optimizer keeps its class and configuration, so a saved model loads without this library, uncompressed. Call
    `compressed(model.optimizer, ...)` again after `keras.models.load_model`.

    Args:
      optimizer: an optimizer created in the scope of a `CompressedStrategy`, or a name such as `adam`. For a
        `LossScaleOptimizer`, its inner optimizer is compressed.
      compression: a compressor's spec, such as `sign:bucket=512`, or all settings together.
      where: `gradient` or `update`. None: what was better in two measured tasks (results/keras), that is, `update` for
        quantizers of fewer than 2.5 bits a value (`sign`, `ternary`, `linear:bits=2`) with error feedback, otherwise
        `gradient`. `optimistic`, `local_steps` and, with any compressor but `none`, Adafactor imply `update`; Ftrl and
        ScheduleFreeAdamW `gradient`. `compressor_rules` do not count.
      optimistic: whether each replica takes its gradients at its half-step point; with `update` only. Build the
        optimizer before the first step, and take the gradients of both players before the first `apply`. A loop of
        your own calls `optimizer.compression.look_ahead()` before it takes them.
      seed: seed of stochastic rounding.
      logs: whether `fit` reports bytes, norms and times under `compression/`.
      **settings: fields of `CompressionConfig` other than the compressor, such as `error_feedback=False`,
        `compressor_rules="bias|gamma|beta=none"`, `shift`, `topology`, `packet_mb`, `transport`,
        `allow_non_contractive`, and with `update` `local_steps`. Rules match the weights' paths, such as
        `sequential/dense/kernel`.

    Raises:
      UsageError: called outside of the scope; an optimizer or a setting that cannot be compressed.
    """
    if isinstance(compression, CompressionConfig):
        if settings:
            raise UsageError(
                f"Give a CompressionConfig or single settings, not both. Received: {compression!r} and {settings}"
            )
        config = compression
    else:
        try:
            config = CompressionConfig(compressor=compression, **settings)
        except TypeError:
            names = [name for name in CompressionConfig.__dataclass_fields__ if name != "compressor"]
            raise UsageError(
                f"compressed(...) takes where, optimistic, seed, logs, {', '.join(names)}. "
                f"Received: {', '.join(settings)}"
            ) from None
    optimizer = _optimizer_of(optimizer)
    inner = optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer
    where = _place(inner, config, optimistic) if where is None else where
    _check(inner, config, where, optimistic, seed, logs)
    steps = CompressedSteps(inner, config, where, optimistic, int(seed), logs)
    if inner.built:
        steps.check_variables(steps.variables)
    inner.apply, inner.build, inner.compression = steps.apply, steps.build, steps
    if inner.built:
        steps.make_point()
    return optimizer


class CompressedSteps:
    """Replaces `build` and `apply` of a compressed optimizer, and is its attribute `compression`.

    Args:
      optimizer: not a `LossScaleOptimizer`.
      config, where, optimistic, seed, logs: see `compressed`.

    Attributes:
      point: where this replica takes its gradients, a `LocalPoint`; None: at w, or not built yet.
      channels: maps the positions of variables, among those that the optimizer was built for, to their `Channel`.
        Each set of variables that receive gradients together has one; usually there is one set.
      skipped: number of skipped exchanges, equal on all replicas.
      counts: numbers of taken and of skipped exchanges of this process, int64 [2], equal on all replicas.
    """

    def __init__(self, optimizer, config: CompressionConfig, where: str, optimistic: bool, seed: int, logs: bool):
        self._optimizer, self._steps = optimizer, OptimizerSteps(optimizer)
        self._strategy = OptimizerSteps.strategy_of(optimizer)
        self._compressor = compressors.get(config.compressor)
        self._rules = compressor_rules.parse(config.compressor_rules)
        self.config, self.where, self.optimistic, self.seed, self.logs = config, where, optimistic, seed, logs
        self.point: LocalPoint | None = None
        self.channels: dict[tuple[int, ...], Channel] = {}
        self.skipped = ReplicaLocal(self._strategy.local_devices, [], "skipped", tf.int64)
        self.counts = ReplicaLocal(self._strategy.local_devices, [2], "counts", tf.int64)
        self._sums = ReplicaLocal(self._strategy.local_devices, [len(_SUMS)], "figures")
        self._has_samples = [None] * len(self._strategy.local_devices)
        self._names: list[str] = []
        weakref.finalize(optimizer, _close_channels, self._strategy, self._names).atexit = False

    @property
    def name(self) -> str:
        """Name of the optimizer."""
        return self._optimizer.name

    @property
    def variables(self) -> list[keras.Variable]:
        """Variables that the optimizer was built for."""
        return built_for(self._optimizer)

    @property
    def replica_variables(self) -> list[keras.Variable]:
        """The optimizer's variables that differ between replicas."""
        return (self._steps.slots() if self.where == "update" else []) + self._steps.accumulators()

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Builds the optimizer for `variables`; without effect, as in Keras, if it is built.

        Raises:
          UsageError: a variable that cannot be compressed or was created outside of the scope, a rule that names none,
            or error feedback with a compressor that proves no contraction.
        """
        if self._optimizer.built:
            return
        self.check_variables(variables)
        type(self._optimizer).build(self._optimizer, variables)
        self.make_point()

    def make_point(self) -> None:
        """Creates `point`, if the settings ask for one."""
        local_steps = self.config.local_steps
        if self.optimistic or local_steps > 1:
            slots, devices = self._steps.slots(), self._strategy.local_devices
            self.point = LocalPoint(self.variables, slots, devices, local_steps, self.optimistic)

    @property
    def has_point(self) -> bool:
        """Whether gradients are taken at a point that is not w."""
        return self.optimistic or self.config.local_steps > 1

    def look_ahead(self) -> None:
        """Moves the variables to the point where this replica takes its next gradients; `apply` moves them back.

        `fit` calls it before `train_step`. Replica context, before the gradients are taken; without effect where they
        are taken at w.

        Raises:
          UsageError: the optimizer is not built.
        """
        if not self.has_point:
            return
        if self.point is None:
            raise UsageError(
                "optimistic=True and local_steps need an optimizer that is built before its first step: call "
                f"optimizer.build(network.trainable_variables) in the strategy's scope. Received: {self.name!r}"
            )
        self.point.look_ahead()

    def settle(self) -> None:
        """Moves the variables back to w if `apply` was not called since `look_ahead`. Replica context."""
        if self.point is not None:
            self.point.come_back()

    def flush_residuals(self) -> None:
        """Moves the variables to the virtual iterate, in one uncompressed exchange: w <- w - 1/M sum_m e^m; e^m <- 0.

        With `where="update"`, error feedback trains w - mean(e), and with few bits w lags behind it. Call this after
        `fit`, on every worker, before the model is used, and while the weights are those that the last step left:
        weights of an earlier epoch that were put back lack other residuals. A training that continues goes on from the
        same iterate.

        Raises:
          UsageError: residuals are parts of gradients, or there are none; the optimizer overwrites the weights with an
            average of its own; or a round of local steps is not complete.
        """
        if self.where != "update" or not self.config.error_feedback:
            raise UsageError(
                "Residuals can be flushed into the weights if they are parts of updates: with where='update' and "
                f"error_feedback=True. Received: where={self.where!r}, error_feedback={self.config.error_feedback}"
            )
        if self._optimizer.use_ema:
            raise UsageError(
                "Residuals are flushed into weights that no average has replaced: set use_ema=False. Received: "
                f"use_ema=True of {self.name!r}"
            )
        if self.point is not None and int(self.point.steps_in_round()):
            raise UsageError(
                f"Flush residuals after a whole round of local_steps={self.config.local_steps} steps. Received: a "
                f"call after {int(self.point.steps_in_round())} steps of a round"
            )
        if self.channels:
            tf.function(lambda: self._strategy.run(self._flush), autograph=False)()

    def _flush(self):
        context, replica = tf.distribute.get_replica_context(), local_replica_index()
        for positions, channel in self.channels.items():
            residuals = channel.residuals(replica)
            held = [e for e in residuals if e is not None]
            means = iter(context.all_reduce("mean", held) if held else ())
            variables = [self.variables[position] for position in positions]
            for variable, residual in zip(variables, residuals, strict=True):
                if residual is not None:
                    weight = tf.convert_to_tensor(variable.value)
                    variable.assign(tf.cast(tf.cast(weight, tf.float32) - next(means), weight.dtype))
            self._steps.constrain(variables)
            if self.point is not None:
                self.point.forget_residuals(positions, residuals)
            channel.clear_residuals(replica)

    def check_variables(self, variables: Sequence[keras.Variable]) -> None:
        """Raises the errors of `build`."""
        self._strategy.check_scope(variables)
        for variable in variables:
            if variable.dtype not in _DTYPES or overwrites_with_gradient(variable):
                raise UsageError(
                    f"Weights must be one of {', '.join(_DTYPES)} to be compressed. Received: {variable.path} of "
                    f"{'a float8 layer' if overwrites_with_gradient(variable) else variable.dtype}"
                )
        compressor_rules.check_names([variable.path for variable in variables], self._rules)
        if self.config.error_feedback and not self.config.allow_non_contractive:
            layout.check_contraction(self._vectors(variables))

    def set_samples(self, has_samples: tf.Tensor | None) -> None:
        """Sets, for the next step, whether this replica has samples. Without samples, its gradients count as zero.

        Replica context only.

        Args:
          has_samples: bool scalar; None: it has samples.
        """
        self._has_samples[local_replica_index()] = has_samples

    def of_samples(self, gradients: Sequence) -> list:
        """Returns gradients as dense tensors, zero where this replica has no sample; None stays None."""
        has_samples = self._has_samples[local_replica_index()]

        def dense(gradient):
            if gradient is None:
                return None
            gradient = tf.convert_to_tensor(gradient)  # embeddings have tf.IndexedSlices
            if has_samples is None:
                return gradient
            return tf.cond(has_samples, lambda: gradient, lambda: tf.zeros_like(gradient))

        return [dense(gradient) for gradient in gradients]

    def apply(self, gradients: Sequence, trainable_variables: Sequence | None = None) -> tf.Tensor:
        """Takes a step with this replica's gradients, or skips it together with all other replicas.

        Gradients are of a loss that was divided by the number of replicas, as Keras does it. Replica context.

        Returns:
          Whether the step was taken, bool scalar; True before the last call of an accumulation or of local steps.
        """
        context = self._replica_context()
        if not len(gradients):  # as in Keras
            return tf.constant(True)
        build(self._optimizer, trainable_variables)
        variables = self.variables if trainable_variables is None else list(trainable_variables)
        if self.has_point and not (self.point and self.point.come_back()):
            raise UsageError(
                "optimistic=True and local_steps take gradients at a point of each replica: call "
                "optimizer.compression.look_ahead() before the gradients of every apply. `fit` calls it once before "
                f"train_step. Received: apply of {self.name!r} without it"
            )
        gradients, variables = self._steps.filtered(self.of_samples(gradients), variables)
        for gradient, variable in zip(gradients, variables, strict=True):
            gradient.set_shape(variable.shape)  # unknown of, for example, a Dense layer on sequences (TensorFlow 2.21)
        if self.config.local_steps > 1:
            return context.merge_call(self._take_local_step(variables), args=(gradients,))
        if not self._optimizer.gradient_accumulation_steps:
            return self._exchange(gradients, variables, counts=True)
        accepted = context.merge_call(self._accumulate(variables), args=(gradients,))
        self._steps.count()
        return accepted

    def drain(self) -> tf.Tensor:
        """Returns the sums of `figures` over the calls since the last drain, float32 [k]. Replica context."""
        sums = self._sums.local()
        value = sums.read_value()
        sums.assign(tf.zeros_like(value))
        return value

    def residual_sample(self) -> tf.Tensor:
        """Returns some values of this replica's residuals, float32 [k]. Replica context, after the first step."""
        replica = local_replica_index()
        return residual_sample.sample([e for channel in self.channels.values() for e in channel.residuals(replica)])

    @staticmethod
    def with_residuals(sums: tf.Tensor, mean: tf.Tensor, mean_square: tf.Tensor) -> tf.Tensor:
        """Returns `sums` with a reading of the residuals, their squared spread and lag.

        Args:
          sums: mean over replicas of `drain()`.
          mean, mean_square: means over replicas of x and x * x, x their `residual_sample`.
        """
        reading = tf.stack([1.0, *residual_sample.energies(mean, mean_square)])
        return tf.concat([sums[: -len(_OF_RESIDUALS)], reading], 0)

    @staticmethod
    def figures(sums: Sequence[float]) -> dict[str, float]:
        """Returns figures per exchange by name: bytes of a replica, norms over accepted steps, times, skipped steps.

        Figures of exchanges are NaN if there was none, norms and ratios if none was accepted.

        Args:
          sums: `with_residuals`; those of several calls may be added.
        """
        total = dict(zip(_SUMS, (float(value) for value in sums), strict=True))
        exchanges, accepted, readings = (total[name] or math.nan for name in ("exchanges", "accepted", "readings"))
        update, residual, error, shift = (total[energy] / accepted for energy in ENERGIES)
        seconds = total | {"hidden": hidden(total)}
        return {
            "wire_bytes": total["wire_bytes"] / exchanges,
            "sent_bytes": total["sent_bytes"] / exchanges,
            "compression_ratio": total["dense_bytes"] / (total["wire_bytes"] or math.nan),
            "update_norm": math.sqrt(update),
            "residual_ratio": math.sqrt(residual / max(update, 1e-38)),
            "shift_ratio": math.sqrt(shift / max(update, 1e-38)),
            "compression_error": error / max(update, 1e-38),
            "spread": math.sqrt(total["spread"] / readings),
            "lag": math.sqrt(total["lag"] / readings),
            "skipped": total["exchanges"] - total["accepted"],
        } | {f"milliseconds/{phase}": 1e3 * seconds[phase] / exchanges for phase in (*TIMES, "hidden")}

    def _replica_context(self):
        context = tf.distribute.get_replica_context()
        if context is None or tf.distribute.get_strategy() is not self._strategy:
            raise UsageError(
                "A compressed optimizer takes its steps inside strategy.run, of the strategy in whose scope it was "
                "created, and trains models that were created in that scope."
            )
        if tf.executing_eagerly() and len(self._strategy.local_devices) > 1:
            raise UsageError(
                "Put strategy.run into a tf.function: eager replicas of one process run one after another, so the "
                "first would wait for the others for ever. This process has "
                f"{len(self._strategy.local_devices)} replicas."
            )
        return context

    def _exchange(self, gradients, variables, *, counts):
        """Clips, reduces in the channel, and takes the step if all replicas' values are finite."""
        positions = self._steps.positions(variables)
        context, channel = tf.distribute.get_replica_context(), self.open_channel(positions)
        gradients = self._own_gradients(gradients)
        weights, slots, updates = [], [], []
        if self.where == "update":
            weights, slots = (_local_values(group) for group in (variables, self._steps.slots()))
            updates = self._local_update(gradients, variables, weights)
            values = self.point.with_moved(positions, updates) if self.point else updates
        else:
            values = [tf.cast(gradient, tf.float32) for gradient in gradients]
        means = context.all_reduce("mean", values, options=channel.options)
        accepted = channel.accepted.local().read_value()

        def take(means, weights, updates):
            if self.where == "update":
                for variable, weight, mean in zip(variables, weights, means, strict=True):
                    variable.assign(tf.cast(tf.cast(weight, tf.float32) - mean, weight.dtype))
            else:
                self._steps.update([tf.cast(m, v.dtype) for m, v in zip(means, variables, strict=True)], variables)
            self._steps.average()
            self._steps.constrain(variables)
            if counts:
                self._steps.count()
            if self.point:
                self.point.arrive(positions, updates, channel.residuals(local_replica_index()))

        def skip(slots):
            if self.config.local_steps > 1:
                self.point.restore()
                self._steps.count(1 - self.config.local_steps)
                return
            for variable, value in zip(self._steps.slots() if slots else [], slots, strict=True):
                variable.assign(value)

        # Variables are changed in the context of each replica, which cannot be entered inside of tf.cond, so the
        # condition stands in cross-replica context. `accepted` is equal on all replicas.
        def commit(strategy, accepted, means, weights, slots, updates):
            def each(step, *values):
                strategy.extended.call_for_each_replica(step, args=values)
                return True

            first = strategy.experimental_local_results(accepted)[0]
            tf.cond(first, lambda: each(take, means, weights, updates), lambda: each(skip, slots))

        context.merge_call(commit, args=(accepted, means, weights, slots, updates if self.point else []))
        self._record(channel, accepted)
        return accepted

    def _local_update(self, gradients, variables, weights):
        """Returns x - x' for the step of this replica's gradients and slots, where x is w, or w less the sum of the
        replica's local steps. Changes the slots, not the weights."""
        starts = self.point.after_moves(self._steps.positions(variables), weights) if self.point else weights
        for variable, start in zip(variables, starts, strict=True) if starts is not weights else ():
            variable.assign(start)
        self._steps.update(gradients, variables)
        updates = [
            tf.cast(start, tf.float32) - tf.cast(after, tf.float32)
            for start, after in zip(starts, _local_values(variables), strict=True)
        ]
        for variable, weight in zip(variables, weights, strict=True):
            variable.assign(weight)
        return updates

    def _own_gradients(self, gradients):
        """Returns the gradients of this replica's own loss, clipped.

        The loss was divided by M, so that gradients add up. The gradient of a replica's own loss is M times as large.
        """
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        scaled = [gradient * tf.cast(replicas, gradient.dtype) for gradient in self._steps.clipped(gradients)]
        return self.point.finite(scaled) if self.point else scaled

    def _take_local_step(self, variables):
        """Returns a function (strategy, gradients) -> accepted that takes a local step and exchanges every K-th sum."""
        positions, point = self._steps.positions(variables), self.point
        if self.channels and positions not in self.channels:
            raise UsageError(
                "With local_steps above 1 every step of an optimizer must have gradients for the same variables. Make "
                f"one optimizer for each set, and a new one after freezing. Received: another set for {self.name!r}"
            )
        channel = self.open_channel(positions)

        def move(gradients):
            updates = self._local_update(self._own_gradients(gradients), variables, _local_values(variables))
            point.move(positions, updates, channel.residuals(local_replica_index()))
            self._steps.average()
            self._steps.count()
            return True

        def choose(strategy, gradients):
            def each(step, *values):
                results = strategy.extended.call_for_each_replica(step, args=values)
                return tf.convert_to_tensor(strategy.experimental_local_results(results)[0])

            exchange = lambda gradients: self._exchange(gradients, variables, counts=True)  # noqa: E731
            taken = point.steps_in_round()
            tf.cond(taken == 0, lambda: each(point.keep), lambda: tf.constant(True))
            last = taken == self.config.local_steps - 1
            return tf.cond(last, lambda: each(exchange, gradients), lambda: each(move, gradients))

        return choose

    def _accumulate(self, variables):
        """Returns a function (strategy, gradients) -> accepted that adds gradients up and exchanges every k-th sum."""
        positions, accumulators = self._steps.positions(variables), self._steps.accumulators()
        accumulators = [accumulators[position] for position in positions]

        def add(gradients):
            for accumulator, gradient in zip(accumulators, gradients, strict=True):
                accumulator.assign_add(gradient)
            self._steps.average()
            return True

        def complete(gradients):
            count = self._optimizer.gradient_accumulation_steps
            means = [(g + a.value) / count for g, a in zip(gradients, accumulators, strict=True)]
            for accumulator in accumulators:
                accumulator.assign(tf.zeros_like(accumulator.value))
            return self._exchange(means, variables, counts=False)

        def choose(strategy, gradients):
            def each(step):
                results = strategy.extended.call_for_each_replica(step, args=(gradients,))
                return tf.convert_to_tensor(strategy.experimental_local_results(results)[0])

            return tf.cond(self._steps.is_last_of_accumulation(), lambda: each(complete), lambda: each(add))

        return choose

    def _record(self, channel, accepted):
        self.skipped.local().assign_add(tf.cast(tf.logical_not(accepted), tf.int64))
        self.counts.local().assign_add(tf.cast(tf.stack([accepted, tf.logical_not(accepted)]), tf.int64))
        if not self.logs:
            return
        bytes_ = tf.constant([channel.wire_bytes, channel.sent_bytes, channel.dense_bytes], tf.float32)
        energies = tf.reduce_sum(channel.energies.local().read_value(), 0)
        seconds = tf.cast(channel.seconds.local().read_value(), tf.float32)
        energies = tf.where(accepted, energies, tf.zeros_like(energies))
        counts = tf.stack([1.0, tf.cast(accepted, tf.float32)])
        no_reading = tf.zeros([len(_OF_RESIDUALS)])  # `with_residuals` adds it
        self._sums.local().assign_add(tf.concat([counts, bytes_, energies, seconds, no_reading], 0))

    def _vectors(self, variables):
        names = [variable.path for variable in variables]
        shapes = [tuple(variable.shape) for variable in variables]
        of_mean = self.config.compressor_of_mean
        return layout.vectors(self.name, names, shapes, self._compressor, self._rules, mean_compressor=of_mean)

    def _agreed(self):
        """Returns what decides a step beside the channel: another rate on one worker would make another model there."""
        try:
            config = _comparable(self._optimizer.get_config())
        except Exception as error:  # of a class of the user's own, which nobody may ever save
            logging.warning("The settings of %s are not compared between workers: %s", type(self._optimizer), error)
            config = {}
        places = {"where": self.where, "optimistic": self.optimistic, "local_steps": self.config.local_steps}
        return places | {"optimizer": f"{type(self._optimizer).__name__} {json.dumps(config)}"}

    def open_channel(self, positions: tuple[int, ...]) -> Channel:
        """Returns the channel of the variables at `positions`. All workers must make the same calls in one order."""
        if positions not in self.channels:
            name = f"{self.name}/{next(_serial)}"
            with tf.init_scope():
                self.channels[positions] = self._strategy.open_channel(
                    name,
                    self._vectors([self.variables[position] for position in positions]),
                    error_feedback=self.config.error_feedback,
                    shift=self.config.shift,
                    seed=self.seed,
                    topology=self.config.topology,
                    packet_mb=self.config.packet_mb,
                    allow_non_contractive=self.config.allow_non_contractive,
                    transport=self.config.transport,
                    agreed=self._agreed(),
                )
            self._names.append(name)
        return self.channels[positions]


def _comparable(value):
    """Returns a value of a configuration as JSON that equal programs on all workers have in common.

    Names, modules and the code of a lambda may differ where the same program is started in another way.
    """
    if isinstance(value, dict):
        if value.get("class_name") == "__lambda__":
            return "lambda"
        keys = sorted((str(key), key) for key in value)
        return {
            text: _comparable(value[key]) for text, key in keys if text not in ("name", "module", "registered_name")
        }
    if isinstance(value, (list, tuple)):
        return [_comparable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return value if value is None or isinstance(value, (bool, int, float, str)) else type(value).__name__


def build(optimizer: keras.optimizers.Optimizer, variables: Sequence | None) -> None:
    """Builds an optimizer that is not built yet. Replica context."""
    if optimizer.built:
        return
    if variables is None:
        raise UsageError(f"Build the optimizer first: {optimizer.name}.build(model.trainable_variables).")

    def build_once(strategy):
        del strategy
        with tf.init_scope():
            optimizer.build(list(variables))

    tf.distribute.get_replica_context().merge_call(build_once)


def _local_values(variables):
    return [tf.convert_to_tensor(variable.value) for variable in variables]


def _close_channels(strategy, names):
    for name in names:
        strategy.close_channel(name)


def _optimizer_of(identifier):
    try:
        optimizer = keras.optimizers.get(identifier)
    except ValueError:
        optimizer = None
    if isinstance(optimizer, keras.optimizers.Optimizer):
        return optimizer
    raise UsageError(
        "`optimizer` must be an optimizer of Keras, such as keras.optimizers.Adam(1e-3), or a name, such as 'adam'. "
        f"Received: optimizer={identifier!r}"
    )


def _place(optimizer, config, optimistic):
    """Returns the default of `where`."""
    if optimistic or config.local_steps > 1:
        return "update"
    if isinstance(optimizer, _NOT_INCREMENTAL):
        return "gradient"
    compressor = compressors.get(config.compressor)
    has_few_bits = isinstance(compressor, Quantizer) and 8 * compressor.wire_bytes(_SIZE) < _FEW_BITS * _SIZE
    is_adafactor = isinstance(optimizer, keras.optimizers.Adafactor) and config.compressor != "none"
    return "update" if (has_few_bits and config.error_feedback) or is_adafactor else "gradient"


def _check(optimizer, config, where, optimistic, seed, logs):
    """Refuses what cannot be compressed."""
    kind, strategy = type(optimizer).__name__, tf.distribute.get_strategy()
    if not isinstance(strategy, CompressedStrategy) or OptimizerSteps.strategy_of(optimizer) is not strategy:
        raise UsageError(
            "Create the optimizer and call compressed(...) in the scope of one dqgan_tf.CompressedStrategy, with or "
            f"without TF_CONFIG. Received: {kind} of a {type(OptimizerSteps.strategy_of(optimizer)).__name__} in the "
            f"scope of a {type(strategy).__name__}"
        )
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        raise UsageError("Compress the optimizers of a MultiOptimizer one by one, before they are given to it.")
    if type(optimizer).apply is not keras.optimizers.Optimizer.apply:
        raise UsageError(
            f"{kind} has an `apply` of its own, which would exchange gradients uncompressed. Override `update_step`."
        )
    if hasattr(optimizer, "compression"):
        raise UsageError(f"{kind} {optimizer.name!r} is compressed already. Create another optimizer.")
    for name, value in (("optimistic", optimistic), ("logs", logs)):
        if not isinstance(value, bool):
            raise UsageError(f"`{name}` must be True or False. Received: {name}={value!r}")
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
        raise UsageError(f"`seed` must be a whole number, such as 0. Received: seed={seed!r}")
    if where not in WHERE:
        raise UsageError(f"`where` must be one of {', '.join(WHERE)}. Received: where={where!r}")
    if where == "update" and isinstance(optimizer, _NOT_INCREMENTAL):
        raise UsageError(
            f"where='update' needs an optimizer that adds its update to the weights; {kind} computes new weights from "
            "its slots, which would drift apart. Take where='gradient'."
        )
    if where == "gradient" and isinstance(optimizer, keras.optimizers.Adafactor) and config.compressor != "none":
        # v = r c / mean(r) underflows to 0 where both r and c are 1e-30, and 0 / sqrt(0) is NaN (Keras 3.15.1).
        raise UsageError(
            "Keras' Adafactor turns a matrix into NaN if a row and a column of its mean gradient are all 0, which few "
            "bits cause. Take where='update', which compresses afterwards, or the compressor 'none'. Received: "
            f"where={where!r} with {config.compressor!r}"
        )
    if (optimistic or config.local_steps > 1) and where != "update":
        raise UsageError(
            "optimistic=True and local_steps above 1 are steps that each replica takes alone: set where='update'. "
            f"Received: where={where!r}, optimistic={optimistic}, local_steps={config.local_steps}"
        )
    if config.local_steps > 1 and optimizer.gradient_accumulation_steps:
        raise UsageError(
            "local_steps and gradient_accumulation_steps both take several calls between two exchanges: give one. "
            f"Received: local_steps={config.local_steps}, "
            f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps}"
        )
    names = ("start_step", "residual_in_half_step", "error_feedback_form", "flush_residuals")
    dqgan = {name: getattr(config, name) for name in names}
    if (
        config.start_step > 1
        or not config.residual_in_half_step
        or config.error_feedback_form != "ef14"
        or config.flush_residuals
    ):
        received = ", ".join(f"{name}={value!r}" for name, value in dqgan.items())
        raise UsageError(
            f"{', '.join(dqgan)} are settings of DQGAN; optimizer.compression.flush_residuals() flushes those of a "
            f"compressed optimizer. Received: {received}"
        )
