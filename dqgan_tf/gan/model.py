"""DQGAN as a Keras model: distributed optimistic mirror descent with compressed updates and error feedback."""

import dataclasses
import itertools
import math
import numbers
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from dqgan_tf import compressors, optimizers
from dqgan_tf import config as config_lib
from dqgan_tf.compressors import float_bits, hash_random, rules
from dqgan_tf.config import CompressionConfig, LossConfig, OptimizerConfig, TrainConfig
from dqgan_tf.distribute import layout, loop, pipeline
from dqgan_tf.distribute.channel import Channel
from dqgan_tf.distribute.replica_local import ReplicaLocal, first_local_value, global_replica_id, local_replica_index
from dqgan_tf.distribute.strategy import CompressedStrategy
from dqgan_tf.errors import UsageError
from dqgan_tf.gan import inputs, losses, steps
from dqgan_tf.gan.fit import KerasFit, Optimizers, check_steps_per_execution
from dqgan_tf.gan.gradients import call, in_micro_batches, simultaneous_gradients
from dqgan_tf.gan.player import PLAYERS, AveragedWeights, Player
from dqgan_tf.gan.rounds import LocalRounds
from dqgan_tf.gan.state import SavedState
from dqgan_tf.gan.step_metrics import StepMetrics
from dqgan_tf.gan.steps import StepKind

_PLAIN_STEP = StepKind()
_VOLUMES = ("wire_bytes", "dense_bytes", "sent_bytes", "dense_sent_bytes")
_serial = itertools.count()  # of models; all workers make theirs in one order


@keras.saving.register_keras_serializable("dqgan_tf")
class DQGAN(SavedState, KerasFit, LocalRounds):
    """Trains any two Keras models against each other by DQGAN, inside `CompressedStrategy`.

    One step t on replica m of M, for both players at once (Chen et al. 2020, arXiv 2010.13359):

        w_half^m = w_{t-1} - (eta u_{t-1}^m + e_{t-1}^m)
        g_t^m    = F(w_half^m; xi_t^m)
        u_t^m    = direction(g_t^m)                      g itself, or Adam's
        p_t^m    = eta u_t^m + e_{t-1}^m;   c_t^m = encode(p_t^m);   e_t^m = p_t^m - decode(c_t^m)
        w_t      = w_{t-1} - 1/M sum_m decode(c_t^m)     bit-identical on every replica

    `compile` may choose another method; docs/methods.md has a table of them. docs/algorithm.md follows a gradient.

    The gradient is taken at plain tensors; only the last line changes the mirrored weights. `train_step` is one such
    step. If an update or a state of any replica is not finite, all replicas skip the step and `skipped` grows by one.
    The same happens if a replica gets no sample, e.g. if the last batch has fewer samples than there are replicas.

    >>> strategy = CompressedStrategy()
    >>> with strategy.scope():
    ...     generator = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
    ...     discriminator = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    ...     gan = DQGAN(generator, discriminator, latent_dim=4, loss="hinge")
    >>> gan.compile(OptimizerConfig(learning_rate_g=1e-4), CompressionConfig(compressor="sign:bucket=512"))
    >>> dataset = tf.data.Dataset.from_tensors(tf.zeros([8, 2]))  # one batch
    >>> history = gan.fit(dataset, verbose=0)
    >>> gan.generate(tf.zeros([8, 4])).shape
    TensorShape([8, 2])

    `fit` takes a data set of real batches: float32 [batch, *shape], bytes, which are scaled to [-1, 1], a tuple that
    begins with one of these and holds no sample weights, or a dict with the key `image`.

    If both networks take [x, labels], the GAN is conditional: `fit` takes (samples, labels), as `fit(x, y)`, or a dict
    with the keys `image` and `label`, and fake samples get the labels of the real ones. `generate(latent, labels)`
    draws samples with given labels.

    `trainable` takes effect at `compile`, as in Keras: a frozen layer gets no update and sends nothing.

    Files of Keras (`save_weights`, `save`, `ModelCheckpoint`) hold the networks, the averaged generator, the counters
    and the mean over this worker's replicas of moments, directions and residuals. A run that continues from them is
    not bit-identical; one that continues from a checkpoint of `trainers.train` is.

    Constraints are applied to the new weights, and the networks' own losses (regularizers, `add_loss`) enter the loss
    of their player. Random layers, such as dropout, draw other numbers on every replica.

    Args:
      generator: built Keras model, [batch, latent_dim] -> [batch, *shape]; or [latents, labels] -> samples.
      discriminator: built Keras model, [batch, *shape] -> logits [batch, 1]; or [samples, labels] -> logits.
      latent_dim: dimension of z; None takes it from the generator's input.
      loss: a `losses.Loss`, a `LossConfig` or the name of a loss.
      seed: seed of latent noise, penalties and stochastic rounding.
      ema_decay: decay rate of the averaged generator, w_ema <- d w_ema + (1-d) w, d = min(ema_decay, (1+t)/(10+t)).
      conditional: whether both networks take [x, labels]. None looks at the networks' inputs, which a subclass of
        `keras.Model` may not have.

    Raises:
      UsageError: created outside a `CompressedStrategy`'s scope; networks that cannot be trained against each other
        (`inputs.check_networks`); a loss of Keras; a value that the setting of that name of `TrainConfig` cannot have.
    """

    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        *,
        latent_dim: int | None = None,
        loss: losses.Loss | LossConfig | str = "non_saturating",
        seed: int = 0,
        ema_decay: float = 0.999,
        conditional: bool | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if keras.backend.backend() != "tensorflow":
            raise UsageError(f"DQGAN needs Keras on TensorFlow. Received: KERAS_BACKEND={keras.backend.backend()}")
        self._strategy = tf.distribute.get_strategy()
        if not isinstance(self._strategy, CompressedStrategy):
            raise UsageError(
                "A DQGAN is created, loaded or copied in the scope of a dqgan_tf.CompressedStrategy, with or without "
                "TF_CONFIG: `with strategy.scope():`. "
                f"Received: {type(self._strategy).__name__}"
            )
        inputs.check_networks(generator, discriminator, self._strategy)
        self.generator = generator
        self.discriminator = discriminator
        self.is_conditional = inputs.takes_labels(generator, discriminator, conditional)
        self._num_labels = inputs.num_labels(generator, discriminator) if self.is_conditional else None
        self.latent_dim = inputs.latent_dim(generator, latent_dim)
        seed, ema_decay = (
            config_lib.check_setting(f"train.{key}", value) for key, value in (("seed", seed), ("ema_decay", ema_decay))
        )
        loss = LossConfig(loss=loss) if isinstance(loss, str) else loss
        if not isinstance(loss, (LossConfig, losses.Loss)):
            raise UsageError(
                "`loss` must be the name of a loss, such as 'hinge', a dqgan_tf.config.LossConfig or a "
                f"dqgan_tf.gan.losses.Loss: losses of Keras are for one network. Received: loss={loss!r}"
            )
        if isinstance(loss, LossConfig):
            loss.warn_of_unused()
        self.loss_function = losses.get(loss) if isinstance(loss, LossConfig) else loss
        self._settings = {"latent_dim": latent_dim, "loss": loss, "seed": seed, "ema_decay": ema_decay}
        self._settings |= {"conditional": conditional}
        self.seed = seed
        devices = self._strategy.local_devices
        self._players = tuple(Player(name, getattr(self, name), devices) for name in PLAYERS)
        self._averaged = AveragedWeights(self._players[0], devices, ema_decay)
        self.watch_networks()
        self.step = _counter("step")
        self.skipped = _counter("skipped")
        self.skipped_in_row = _counter("skipped_in_row")
        self._channel_prefix = f"{self.name}/{next(_serial)}"  # Keras may name two models alike
        # After `compile`: one channel for both players, or, with `discriminator_steps`, one for each.
        self._channels: list[Channel] = []
        self._exact_channels: list[Channel] = []
        self.anchors_are_stale = False
        self.built = True
        last = inputs.last_activation(discriminator)
        if last in ("sigmoid", "hard_sigmoid", "log_sigmoid", "softmax", "tanh"):
            logging.warning("The discriminator ends in a %s. Losses expect logits: remove the activation.", last)

    def compile(
        self,
        optimizer: OptimizerConfig | None = None,
        compression: CompressionConfig | None = None,
        *,
        total_steps: int = 0,
        steps_per_execution: int | None = None,
        max_skipped_in_row: int = TrainConfig.max_skipped_in_row,
        learning_rates: Any = None,
        **others: Any,
    ) -> None:
        """Chooses direction and compression; forgets moments, residuals and previous directions.

        The weights that are trainable now are trained.

        Args:
          optimizer: see `OptimizerConfig`. Keras optimizers do not apply: DQGAN has its own update rule.
          compression: see `CompressionConfig`.
          total_steps: length of the run, for schedules that need it.
          steps_per_execution: steps of `fit` in one call of the compiled function, a multiple of `local_steps`; None:
            `local_steps`.
          max_skipped_in_row: `fit` raises TrainingError after so many skipped steps without an accepted one; 0: never.
          learning_rates: a `keras.optimizers.schedules.LearningRateSchedule` for both players, or a pair (generator's,
            discriminator's), in place of those of `optimizer`: step t has the rate schedule(t - 1). Without schedules,
            callbacks such as `LearningRateScheduler` set the rates of `gan.optimizer`.

        Raises:
          UsageError: settings that make no sense together, a learning rate schedule without `total_steps`, two
            schedules of one rate, a rule of compressors that matches no weight's name, error feedback with a compressor
            that is not contractive, or a network without a trainable weight.
        """
        optimizer = OptimizerConfig() if optimizer is None else optimizer
        compression = CompressionConfig() if compression is None else compression
        _check_compile(optimizer, compression, total_steps, max_skipped_in_row, others)
        keras_optimizer = Optimizers(optimizer, learning_rates, self._strategy.local_devices, self.step)
        for player in self._players:
            player.take_weights()
        self._averaged.take_weights(compression.flush_residuals)
        vectors = self._vectors(compression)
        local_steps = compression.local_steps
        steps_per_execution = local_steps if steps_per_execution is None else steps_per_execution
        steps_per_execution = check_steps_per_execution(steps_per_execution, local_steps)
        super().compile(optimizer=None, steps_per_execution=steps_per_execution)
        self.optimizer = keras_optimizer
        self.max_skipped_in_row = max_skipped_in_row
        self.optimizer_config, self.compression_config, self._total_steps = optimizer, compression, total_steps
        self._compiled = {
            "optimizer": dataclasses.asdict(optimizer),
            "compression": dataclasses.asdict(compression),
            "total_steps": total_steps,
            "steps_per_execution": steps_per_execution,
            "max_skipped_in_row": max_skipped_in_row,
            "learning_rates": keras_optimizer.serialized,
        }
        self._direction = optimizers.get(optimizer)
        for player, clip_value in zip(self._players, (None, self.loss_function.clip_value), strict=True):
            player.compile(self._direction, optimizer, compression, clip_value)
        self.anchors_are_stale = False
        self._open_channels(vectors, compression)
        # Number of the generator's updates. It is not the number of accepted steps if `discriminator_steps` is above 1.
        separate, devices = optimizer.discriminator_steps > 1, self._strategy.local_devices
        self._generator_moves = ReplicaLocal(devices, [], "moves", tf.int64) if separate else None
        self._step_metrics = StepMetrics(self._strategy.local_devices, [vector.name for vector in vectors])
        self._batch_checks = inputs.BatchChecks(self._strategy, self.generator, self._num_labels)
        self._take_steps_compiled = tf.function(self._take_steps, autograph=False)
        self._sum_losses_compiled = tf.function(self._sum_losses, autograph=False)
        self._digests = tf.function(lambda: self._strategy.run(self._replica_digest), autograph=False)
        self._flush_compiled = tf.function(lambda: self._strategy.run(self._flush), autograph=False)
        self._drain_compiled = tf.function(
            lambda: self._strategy.run(lambda: self._step_metrics.drain_mean(self._residuals())), autograph=False
        )
        self.make_train_function(force=True)

    def train_steps(self, iterator: Any, num_steps: int) -> int:
        """Takes `num_steps` steps on batches of a distributed iterator. Every worker must make the same call.

        Steps at which the direction averages its second moment, and those before compression starts, are separate calls
        of the compiled function, because a collective cannot stand inside tf.cond.

        With local steps, every call begins and ends with an exchange: the last round is shorter if `num_steps` is no
        multiple of their number.

        Returns:
          The number of steps taken: fewer than `num_steps` if the data ended.
        """
        self.check_compiled()
        for player in self._players:
            player.check_trainable()
        step, taken, skipped = int(self.step.numpy()), 0, int(self.skipped.numpy())
        if step == skipped:  # nothing has moved yet, and the networks may have got other weights
            if not self._averaged.is_warm:
                self.reset_ema()
            self.reset_anchors()
        elif self.anchors_are_stale:
            self.reset_anchors()
        local_steps = self.compression_config.local_steps
        groups = (
            steps.group_steps(step, num_steps, self._kind)
            if local_steps == 1
            else steps.group_rounds(step, num_steps, local_steps, self._kind)
        )
        for length, kind in groups:
            done = int(self._take_steps_compiled(iterator, tf.constant(length), kind))
            taken += done
            if self._num_labels and int(self.skipped.numpy()) > skipped:
                self._batch_checks.check_labels()
            if done:
                self._batch_checks.check_range()
            if done < length:
                break
        return taken

    def _take_steps(self, iterator, num_steps, kind):
        if self.compression_config.local_steps > 1:
            return self._take_rounds(iterator, num_steps, kind)

        def step(batch, state):
            self._strategy.run(self.train_step, args=(batch, kind))
            return state

        return loop.fold(step, iterator, num_steps, ())[0]

    def train_step(self, data: Any, kind: StepKind | None = None) -> dict:
        """Takes one step of the class docstring's recurrence. Replica context: `fit` and `train_steps` call it by
        `strategy.run`, and so may a training loop of your own.

        Args:
          data: this replica's batch, or a tuple that begins with it; with labels for a conditional GAN.
          kind: see `StepKind`. Default: a compressed step of both players that averages no second moment.

        Returns:
          {}: the metrics are summed in variables; see `drain_metrics`.

        Raises:
          UsageError: no `kind`, although steps differ in what moves.
        """
        self.check_compiled()
        kind, context = self._checked(kind), tf.distribute.get_replica_context()
        for player in self._players:
            player.check_trainable()
        players = self._players if kind.generator else self._players[1:]  # those that move
        resting = len(self._players) - len(players)
        real, labels = self._samples_and_labels(data)
        self._batch_checks.note_range(real, self._is_first_batch())
        step = self.step.value + 1
        rates = self._rates(step)
        counts = self._update_counts(step)
        started = pipeline.now([real])
        points = tuple(
            player.gradient_points(residuals, eta, drifts) if player in players else player.weight_values()
            for player, residuals, eta, drifts in zip(
                self._players, self._residuals(), rates, self._drifts(), strict=True
            )
        )
        at_point = self._gradients_at(points, real, step, labels, self.optimizer_config.micro_batches, kind.generator)
        average = (lambda value: context.all_reduce("mean", [value])[0]) if kind.average else None
        rates, counts = rates[resting:], counts[resting:]
        proposals = [
            player.propose(gradients, non_trainable, eta, t, average)
            for player, gradients, non_trainable, eta, t in zip(
                players, at_point.gradients[resting:], at_point.non_trainable[resting:], rates, counts, strict=True
            )
        ]
        computed = pipeline.now([update for proposal in proposals for update in proposal.updates])
        self._exchange_and_commit(players, proposals, at_point, rates, counts, kind, computed - started)
        return {}

    def _exchange_and_commit(self, players, proposals, at_point, rates, counts, kind, compute_seconds):
        """Ends a step: the exchange, and the new state on all replicas or on none. Replica context."""
        means, accepted = self._exchange([proposal.updates for proposal in proposals], kind)
        concluded = [
            player.conclude(proposal, of_player, eta, t)
            for player, proposal, of_player, eta, t in zip(players, proposals, means, rates, counts, strict=True)
        ]
        accepted &= tf.reduce_all([finite for _, _, finite in concluded])
        non_trainable = [p.mean_non_trainable(v) for p, v in zip(self._players, at_point.non_trainable, strict=True)]

        def commit():
            weights = [
                player.apply(proposal, subtracted, keeps_anchors=kind.looks_ahead)
                for player, (proposal, subtracted, _) in zip(players, concluded, strict=True)
            ]
            if kind.generator and not kind.looks_ahead:
                self._averaged.update(weights[0], self._averaged_residuals(), counts[0])
            if kind.generator and self._generator_moves:
                self._generator_moves.local().assign_add(1)
            self._assign_non_trainable(non_trainable)
            self._step_metrics.add(at_point, proposals, self._channels_of(kind), compute_seconds)
            return accepted

        tf.cond(accepted, commit, lambda: accepted)
        self._count_steps(tf.constant(1, tf.int64), accepted)

    def flush_residuals(self) -> None:
        """Moves the weights to the virtual iterate, by exchanges of float32. Every worker must call it.

            w <- w - 1/M sum_m e^m;   w_ema <- w_ema - 1/M sum_m e_ema^m;   e^m, e_ema^m <- 0

        Error feedback trains w - mean(e): the replicas start there, whatever the compressor. With few bits, w lags
        behind by values that wait for many exchanges. Where the replicas' points are far apart (figure `spread`), the
        virtual iterate is only their mean, and can be worse than w. Call this at the end of the training, before the
        networks are used; a training that continues goes on from the same virtual iterate. e_ema^m is the average of
        the replica's residuals, with the decay of w_ema, so that the averaged generator becomes the average of virtual
        iterates.

        `trainers.train` calls it at the end of a run. After `fit`, call it yourself, while the weights are those that
        the last step left: weights of an earlier epoch that were put back lack other residuals. Constraints and the
        clipping of `wgan_clip` are applied to the moved weights.

        Raises:
          UsageError: the model was compiled without `CompressionConfig(flush_residuals=True)`.
        """
        self.check_compiled()
        if not self.compression_config.flush_residuals:
            raise UsageError(
                "Residuals are flushed by a model that averages them: compile it with "
                "CompressionConfig(flush_residuals=True). Received: flush_residuals=False"
            )
        self._flush_compiled()

    def _flush(self):
        context, replica = tf.distribute.get_replica_context(), local_replica_index()
        mean = lambda values: context.all_reduce("mean", values)  # noqa: E731
        residuals = self._residuals()
        held = [e for of_player in residuals for e in of_player if e is not None]
        means = iter(mean(held) if held else ())
        for player, of_player in zip(self._players, residuals, strict=True):
            player.move([None if e is None else next(means) for e in of_player])
        self._averaged.flush_residuals(mean)
        for channel in self._channels:
            channel.clear_residuals(replica)

    def drain_metrics(self, steps: range | None = None) -> dict[str, float]:
        """Returns the means over accepted steps since the last call and over replicas. Every worker must call it.

        Args:
          steps: numbers of these steps, for their bytes; None: those of compressed steps.
        """
        self.check_compiled()
        return self.figures(self._drained(), steps)

    def figures(self, sums: np.ndarray, steps: range | None) -> dict[str, float]:
        """Returns the means over the steps of `sums`, one or several results of `StepMetrics.drain` added up."""
        volume = self.bytes_per_step(steps)
        sizes = volume["wire_bytes"], volume["dense_bytes"]
        return self._step_metrics.figures(sums, *sizes) | self._learning_rates_now()

    def _drained(self):
        return self._first_local(self._drain_compiled()).numpy().astype(np.float64)

    @property
    def channel(self) -> Any:
        """The compressed `Channel` that every step uses: of both players, or of the discriminator if it takes more
        steps than the generator. None before `compile`."""
        return self._channels[-1] if self._channels else None

    def bytes_per_step(self, steps: range | None = None) -> dict[str, float]:
        """Returns wire_bytes, dense_bytes, sent_bytes and dense_sent_bytes of one replica (see `Channel`), means over
        the steps.

        With `discriminator_steps=n`, the generator's bytes count 1/n. With `local_steps=K`, `wire_bytes` and
        `sent_bytes` count 1/K; the dense ones are those of an exchange of float32 at every step. `sent_bytes` has the
        float32 averages of second moments too: those of every `second_moment_period` generator steps, at most one a
        round. The few of the first 64 are left out.

        Args:
          steps: numbers of steps, from 1, of which some may be before compression starts; None: compressed ones.
        """
        self.check_compiled()
        volume = self._volume(self._channels)
        if not (steps and self._exact_channels):
            return volume
        local_steps = self.compression_config.local_steps
        last_exact = -(-(self.compression_config.start_step - 1) // local_steps) * local_steps  # of a round
        share = max(0, min(steps[-1], last_exact) - steps[0] + 1) / len(steps)
        exact = self._volume(self._exact_channels)
        return {name: share * exact[name] + (1 - share) * value for name, value in volume.items()}

    def _volume(self, channels):
        volume = {}
        for name in _VOLUMES:
            *generator, always = [getattr(channel, name) for channel in channels]
            volume[name] = always + sum(generator) / self.optimizer_config.discriminator_steps if generator else always
        if (local_steps := self.compression_config.local_steps) > 1:
            volume |= {name: volume[name] / local_steps for name in ("wire_bytes", "sent_bytes")}
        if self._direction.averaged_slot:
            period = self.optimizer_config.second_moment_period * self.optimizer_config.discriminator_steps
            volume["sent_bytes"] += sum(channel.dense_sent_bytes for channel in channels) / max(period, local_steps)
        return volume

    def weight_digests(self) -> np.ndarray:
        """Returns `_digest` of the weights of every replica, int32 [M, 2], by its number, on every worker."""
        self.check_compiled()
        rows = self._first_local(self._digests()).numpy()
        return rows[np.argsort(rows[:, 0]), 1:]

    def generate(self, latent: tf.Tensor, labels: Any = None, *, use_ema: bool = True) -> tf.Tensor:
        """Returns G(latent) or G(latent, labels), float32 [batch, *shape], by the averaged or the raw generator.

        Cross-replica context.

        Args:
          latent: [batch, latent_dim].
          labels: [batch, ...] for a conditional GAN, else None.
          use_ema: whether the averaged generator is used.

        Raises:
          UsageError: latents of another shape; labels are missing, or there is no use for them.
        """
        latent = inputs.latents(latent, self.latent_dim)
        if self.is_conditional != (labels is not None):
            use = "needs labels: generate(latent, labels)" if self.is_conditional else "has no labels: generate(latent)"
            raise UsageError(f"This generator {use}. Received: labels={labels!r}")
        if labels is not None:
            labels = tf.convert_to_tensor(labels)
            if not labels.shape.rank or labels.shape[0] != latent.shape[0]:
                raise UsageError(
                    f"`labels` must be [batch, ...], one for each of {latent.shape[0]} latents. Received: shape "
                    f"{tuple(labels.shape)}"
                )
        if self._num_labels:
            inputs.check_labels(labels, self._num_labels)
        averages = self._averaged.values() if use_ema and self.has_average else {}
        weights, state = (
            [averages[id(v)] if id(v) in averages else first_local_value(v) for v in variables]
            for variables in (self.generator.trainable_variables, self.generator.non_trainable_variables)
        )
        trainable = tuple(variable.trainable for variable in self.generator.variables)
        return self._generate(weights, state, inputs.network_inputs(latent, labels), trainable)

    def averaged_generator(self) -> keras.Model:
        """Returns a copy of the generator with the averaged weights, to be saved or exported without this library.

        Raises:
          TypeError, NotImplementedError: the generator is a subclass of `keras.Model` without `get_config`.
        """
        copy = keras.models.clone_model(self.generator)
        latent, inputs_ = tf.zeros([1, self.latent_dim]), getattr(copy, "inputs", None)
        if not self.is_conditional:
            copy(latent)  # builds a subclass; and Keras 3.15 exports models that were called
        elif inputs_:
            copy([latent, tf.zeros([1, *(size or 1 for size in inputs_[1].shape[1:])], inputs_[1].dtype)])
        averages = self._averaged.values() if self.has_average else {}
        for variable, source in zip(copy.variables, self.generator.variables, strict=True):
            variable.assign(averages[id(source)] if id(source) in averages else first_local_value(source))
        return copy

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the raw generator's output for latents [batch, latent_dim], or for [latents, labels]."""
        return self.generator(inputs, training=training)

    local_value = staticmethod(first_local_value)

    def reset_ema(self) -> None:
        """Sets the averaged generator to the raw one."""
        residuals = []
        if self.channel is not None and self.compression_config.flush_residuals:
            count = len(self._players[0].shapes)
            replicas = range(len(self._strategy.local_devices))
            residuals = [[e for c in self._channels for e in c.residuals(replica)][:count] for replica in replicas]
        self._averaged.reset(residuals)

    def reset_copies(self) -> None:
        """Sets all copies of the weights to the weights: the averaged generator, and what extragradient steps start
        from."""
        self.reset_ema()
        self.reset_anchors()

    def reset_anchors(self) -> None:
        """Makes extragradient steps start from the weights."""
        self.anchors_are_stale = False
        if self._channels:
            for player in self._players:
                player.reset_anchors()

    def _vectors(self, compression):
        """Returns the vectors of both players. The generator has order 0: its gradients are computed first."""
        compressor, by_name = compressors.get(compression.compressor), rules.parse(compression.compressor_rules)
        rules.check_names([name for player in self._players for name in player.weight_names], by_name)
        vectors, first = [], 0
        for order, player in enumerate(self._players):
            names, shapes = player.weight_names, player.shapes
            vectors += layout.vectors(
                player.name,
                names,
                shapes,
                compressor,
                by_name,
                first=first,
                order=order,
                mean_compressor=compression.compressor_of_mean,
            )
            first += len(shapes)
        return vectors

    def _open_channels(self, vectors, compression):
        """Closes the channels of the last `compile`; opens compressed ones, and exact ones for earlier steps."""
        for channel in [*self._channels, *self._exact_channels]:
            self._strategy.close_channel(channel.name)
        self._channels, self._exact_channels = [], []  # no closed channel stays if a new one is refused
        loss = self._settings["loss"]
        if isinstance(loss, losses.Loss):
            loss = f"{loss.name}, clip_value={loss.clip_value}"
        agreed = self._compiled | self._settings | {"loss": loss}
        exchange = {"packet_mb": compression.packet_mb, "transport": compression.transport, "agreed": agreed}
        for end, vectors_of_channel in self._vectors_by_channel(vectors).items():
            channel = self._strategy.open_channel(
                f"{self._channel_prefix}/updates{end}",
                vectors_of_channel,
                error_feedback=compression.error_feedback,
                shift=compression.shift,
                seed=self.seed,
                topology=compression.topology,
                allow_non_contractive=compression.allow_non_contractive,
                **exchange,
            )
            self._channels.append(channel)
            if compression.start_step > 1:
                exact = [
                    vector._replace(compressor=compressors.get("none"), mean_compressor=None)
                    for vector in vectors_of_channel
                ]
                name = f"{self._channel_prefix}/exact{end}"
                channel = self._strategy.open_channel(name, exact, error_feedback=False, **exchange)
                self._exact_channels.append(channel)

    def _vectors_by_channel(self, vectors):
        """Returns the vectors of every channel by the end of its name: of both players, or of each."""
        if self.optimizer_config.discriminator_steps == 1:
            return {"": vectors}
        by_channel, first = {}, 0
        for order, player in enumerate(self._players):
            by_channel[f"/{player.name}"] = [
                vector._replace(weights=tuple(weight - first for weight in vector.weights))
                for vector in vectors
                if vector.order == order
            ]
            first += len(player.shapes)
        return by_channel

    def _channels_of(self, kind):
        """Returns the channels of a step, in the order of the players."""
        channels = self._exact_channels if kind.exact else self._channels
        return channels if kind.generator else channels[1:]

    def _kind(self, step):
        return steps.kind_of(step, self.optimizer_config, self._direction, self.compression_config.start_step)

    def _checked(self, kind):
        """Returns `kind`; a plain step if it is None, as in a training loop of the user's own."""
        config, local_steps = self.optimizer_config, self.compression_config.local_steps
        if kind is None and (config.discriminator_steps > 1 or config.step_rule == "extragradient" or local_steps > 1):
            raise UsageError(
                "Steps differ in what moves and what is sent: call fit or train_steps instead of train_step. Received: "
                f"discriminator_steps={config.discriminator_steps}, step_rule={config.step_rule!r}, "
                f"local_steps={local_steps}"
            )
        return kind or _PLAIN_STEP

    def _update_counts(self, step):
        """Returns each player's number of accepted updates, this step included, float32 scalars. Replica context."""
        accepted = tf.cast(step - self.skipped.value, tf.float32)
        if self._generator_moves is None:
            return [accepted, accepted]
        return [tf.cast(self._generator_moves.local().read_value() + 1, tf.float32), accepted]

    def _residuals(self):
        """Returns this replica's e_{t-1}, one list per player. Replica context."""
        replica = local_replica_index()
        return self._by_player([e for channel in self._channels for e in channel.residuals(replica)])

    def _averaged_residuals(self):
        """Returns the generator's e_t on this replica, if it is averaged, or []. Replica context."""
        return self._residuals()[0] if self.compression_config.flush_residuals else []

    def _drifts(self):
        """Returns this replica's s - sbar if half steps are corrected, one list per player. Replica context."""
        if self.optimizer_config.half_step != "corrected":
            return [[None] * len(player.shapes) for player in self._players]
        replica = local_replica_index()
        return self._by_player([drift for channel in self._channels for drift in channel.drifts(replica)])

    def _exchange(self, updates, kind):
        """Returns the means over the replicas of each moving player's updates, and whether all may be used.

        `channel.options` names the channel. TensorFlow hands them to the strategy's cross-device operations:
        private_tensorflow._ChannelAllReduce -> CompressedStrategy.reduce_in_channel -> Channel.mean, which adds the
        residuals, compresses, exchanges and averages. `channel.accepted` is its second result.
        """
        channels, context = self._channels_of(kind), tf.distribute.get_replica_context()
        shared = len(channels) < len(updates)
        values = [[update for of_player in updates for update in of_player]] if shared else updates
        if len(values) > 1:  # two channels: a NaN of one player must make both skip the step
            bounded = float_bits.are_bounded([update for of_player in updates for update in of_player])
            values = [[tf.where(bounded, update, float("nan")) for update in of_player] for of_player in updates]
        means = []
        for channel, of_channel in zip(channels, values, strict=True):
            with tf.control_dependencies(means):  # one order of the collectives on all workers
                means += context.all_reduce("mean", of_channel, options=channel.options)
        accepted = tf.reduce_all([channel.accepted.local().read_value() for channel in channels])
        received = iter(means)
        return [[next(received) for _ in of_player] for of_player in updates], accepted

    def _assign_non_trainable(self, non_trainable):
        """Assigns new non-trainable values to both networks, one list each. Replica context, accepted step."""
        for player, values in zip(self._players, non_trainable, strict=True):
            for variable, value in zip(player.network.non_trainable_variables, values, strict=True):
                variable.assign(value)

    def _count_steps(self, number, accepted):
        """Counts the steps of one exchange, int64 scalar, as taken or as skipped. Replica context."""
        missed = tf.cast(tf.logical_not(accepted), tf.int64)
        self.step.assign(self.step.value + number)
        self.skipped.assign(self.skipped.value + missed * number)
        self.skipped_in_row.assign((self.skipped_in_row.value + 1) * missed)

    def _by_player(self, per_weight):
        """Returns one list per player; `per_weight` has one item per weight of both."""
        items = iter(per_weight)
        return [[next(items) for _ in player.shapes] for player in self._players]

    def _is_first_batch(self):
        """Whether no exchange has taken place since `compile`, bool scalar. Replica context."""
        return tf.equal(self._channels[-1].calls.local().read_value(), 0)

    def _samples_and_labels(self, data):
        """Returns the real samples of a batch and their labels, None unless the GAN is conditional; one at least."""
        real = inputs.one_sample_at_least(inputs.real_samples(data))
        if not self.is_conditional:
            return real, None
        labels = inputs.one_label_at_least(inputs.class_labels(data))
        return self._batch_checks.known_labels(real, labels)

    def _gradients_at(
        self,
        weights,
        real,
        step,
        labels=None,
        micro_batches=1,
        generator_moves=True,
        non_trainable=None,
        training=True,
    ):
        """Returns the `PointGradients` of this replica's batch. Replica context.

        Args:
          weights: (generator's, discriminator's) lists of tensors: the point of the gradients.
          real, labels: samples and labels of the batch.
          step: t, which the latents and the seed of a penalty depend on.
          micro_batches: number of parts of the batch.
          generator_moves: whether the generator moves; with several replicas its gradients are then computed first.
          non_trainable: non-trainable values of both networks; None: those of the variables.
          training: whether the layers train.
        """
        replica = global_replica_id(self._strategy)
        replicas = self._strategy.num_replicas_in_sync
        latent_seed = steps.stream_seed(self.seed, steps.LATENT, step, replica, replicas)
        latent = tf.random.stateless_normal([tf.shape(real)[0], self.latent_dim], latent_seed)
        penalty_seed = steps.stream_seed(self.seed, steps.PENALTY, step, replica, replicas)
        values = non_trainable or [[v.value for v in p.network.non_trainable_variables] for p in self._players]
        values = self._offset_seeds(values, replica)
        shape = inputs.drawn_shape(self.generator, weights[0], values[0], inputs.network_inputs(latent, labels))
        real = inputs.of_shape(real, shape)

        def gradients_of(values, batch, seed):
            real, latent, labels = batch
            game = (self.generator, self.discriminator, self.loss_function)
            options = {"in_turn": replicas > 1 and generator_moves, "training": training}
            return simultaneous_gradients(*game, weights, values, real, latent, seed, labels=labels, **options)

        batch = [real, latent, labels]
        if micro_batches == 1:
            at_point = gradients_of(values, batch, penalty_seed)
        else:
            at_point = in_micro_batches(gradients_of, micro_batches, weights, values, batch, penalty_seed)
        return at_point._replace(non_trainable=self._offset_seeds(at_point.non_trainable, -replica))

    def _offset_seeds(self, non_trainable, offset):
        return tuple(p.offset_seeds(values, offset) for p, values in zip(self._players, non_trainable, strict=True))

    def _rates(self, step):
        config = self.optimizer_config
        return [
            optimizers.learning_rate(
                step,
                optimizer.rate(step),
                schedule=config.learning_rate_schedule,
                warmup_steps=config.warmup_steps,
                total_steps=self._total_steps,
            )
            for optimizer in self.optimizer.optimizers
        ]

    def _learning_rates_now(self):
        rates = self._rates(tf.constant(int(self.step.numpy())))
        return {"learning_rate/generator": float(rates[0]), "learning_rate/discriminator": float(rates[1])}

    def _replica_digest(self):
        """Returns int32 [M, 3], number and digest of every replica, in TensorFlow's order: 10 comes before 2."""
        weights = [v.value for p in self._players for v in p.network.trainable_variables]
        context = tf.distribute.get_replica_context()
        row = tf.concat([[tf.cast(context.replica_id_in_sync_group, tf.int32)], _digest(weights)], 0)
        return context.all_gather(row[tf.newaxis], axis=0)

    def _first_local(self, value):
        return self._strategy.experimental_local_results(value)[0]

    @tf.function(autograph=False)
    def _generate(self, weights, state, inputs, trainable):
        """Returns samples. A trace is of the generator's frozen layers: `trainable` has a new one made for others."""
        del trainable
        return call(self.generator, weights, state, inputs, training=False)[0]


def _check_compile(optimizer: Any, compression: Any, total_steps: Any, max_skipped_in_row: Any, others: Any) -> None:
    """Raises UsageError for arguments of `DQGAN.compile` that cannot be used."""
    if others:
        raise UsageError(
            "DQGAN.compile takes optimizer, compression, total_steps, steps_per_execution, max_skipped_in_row and "
            f"learning_rates; the loss is an argument of DQGAN(...). Received: {', '.join(others)}"
        )
    if not isinstance(optimizer, OptimizerConfig):
        raise UsageError(f"`optimizer` must be a dqgan_tf.OptimizerConfig. Received: {optimizer!r}")
    if not isinstance(compression, CompressionConfig):
        raise UsageError(
            "`compression` must be a dqgan_tf.CompressionConfig, such as "
            f"CompressionConfig(compressor='sign:bucket=512'). Received: {compression!r}"
        )
    is_number = isinstance(total_steps, numbers.Real) and not isinstance(total_steps, bool)
    if not is_number or not 0 <= float(total_steps) < math.inf:
        raise UsageError(
            "`total_steps` must be a number of steps, such as 10000, or 0 if no schedule needs it. Received: "
            f"total_steps={total_steps!r}"
        )
    config_lib.check_method(optimizer, compression)
    # Refuses a schedule without `total_steps`.
    optimizers.learning_rate(1, 1.0, schedule=optimizer.learning_rate_schedule, total_steps=total_steps)
    config_lib.check_setting("train.max_skipped_in_row", max_skipped_in_row)


def _counter(name):
    return keras.Variable(0, dtype="int64", trainable=False, name=name)


@tf.function(jit_compile=True, autograph=False)
def _digest(tensors):
    """Returns int32 [2]: two wrap-around sums over all values i of bits(value_i) * odd_i, odd_i hashed from i.

    Every odd factor is invertible modulo 2^32, so a change in any single value changes both sums; two random vectors
    agree with probability 2^-64. Not cryptographic: it detects errors, not attacks.
    """
    sums, start = [tf.constant(0, tf.uint32)] * 2, 0
    for tensor in tensors:
        bits = tf.bitcast(tf.reshape(tensor, [-1]), tf.uint32)
        index = tf.cast(tf.range(start, start + bits.shape[0]), tf.uint32)
        for i, salt in enumerate((0x9E3779B9, 0x85EBCA6B)):
            odd = tf.bitwise.bitwise_or(hash_random.mix(index, tf.constant(salt, tf.uint32)), tf.constant(1, tf.uint32))
            sums[i] += tf.reduce_sum(bits * odd)
        start += bits.shape[0]
    return tf.bitcast(tf.stack(sums), tf.int32)
