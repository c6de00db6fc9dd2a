"""DQGAN as a Keras model: distributed optimistic mirror descent with compressed, error-corrected updates."""

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from dqgan_tf import compressors, optimizers
from dqgan_tf.compressors import rules
from dqgan_tf.config import CompressionConfig, LossConfig, OptimizerConfig
from dqgan_tf.distribute import layout, loop, pipeline
from dqgan_tf.distribute.replica_local import first_local_value, global_replica_id, local_replica_index
from dqgan_tf.distribute.strategy import CompressedStrategy
from dqgan_tf.errors import UsageError
from dqgan_tf.gan import losses, noise, steps
from dqgan_tf.gan.fit import Fit
from dqgan_tf.gan.gradients import simultaneous_gradients
from dqgan_tf.gan.player import AveragedWeights, Player, digest
from dqgan_tf.gan.step_metrics import StepMetrics
from dqgan_tf.gan.steps import StepKind


class DQGAN(Fit):
    """Trains any two Keras models against each other by DQGAN, inside `CompressedStrategy`.

    One step t on replica m of M, for both players at once (Chen et al. 2020, arXiv 2010.13359):

        w_half^m = w_{t-1} - (eta u_{t-1}^m + e_{t-1}^m)
        g_t^m    = F(w_half^m; xi_t^m)
        u_t^m    = direction(g_t^m)                      g itself, or Adam's
        p_t^m    = eta u_t^m + e_{t-1}^m;   c_t^m = encode(p_t^m);   e_t^m = p_t^m - decode(c_t^m)
        w_t      = w_{t-1} - 1/M sum_m decode(c_t^m)     bit-identical on every replica

    The gradient is taken at tensors; the mirrored weights change only by the last line. A step in which any replica's
    update or state is not finite changes nothing on any of them and is counted in `skipped`; so is one in which a
    replica gets no sample, as in the last batch of a data set that is not dropped though it is smaller than the number
    of replicas.

        strategy = CompressedStrategy()
        with strategy.scope():
            model = DQGAN(generator, discriminator, latent_dim=128)
        model.compile(optimizer=OptimizerConfig(learning_rate_g=1e-4, learning_rate_d=1e-4),
                      compression=CompressionConfig(compressor="linear:bits=4,bucket=512"))
        model.fit(dataset, epochs=10)

    `fit` takes a data set of real batches, float32 [batch, *shape] or a tuple that begins with one.

    Args:
      generator: built Keras model, [batch, latent_dim] -> [batch, *shape].
      discriminator: built Keras model, [batch, *shape] -> logits [batch, 1].
      latent_dim: dimension of z; None takes it from the generator's input.
      loss: a `losses.Loss`, a `LossConfig` or the name of a loss.
      seed: of latent noise, penalties and stochastic rounding.
      ema_decay: of the averaged generator, w_ema <- d w_ema + (1-d) w with d = min(ema_decay, (1+t)/(10+t)).

    Raises:
      UsageError: created outside a `CompressedStrategy`'s scope, or a network that cannot be trained; see `Player`.
    """

    def __init__(
        self, generator, discriminator, *, latent_dim=None, loss="non_saturating", seed=0, ema_decay=0.999, **kwargs
    ):
        super().__init__(**kwargs)
        if keras.backend.backend() != "tensorflow":
            raise UsageError(f"DQGAN needs Keras on TensorFlow. Received: KERAS_BACKEND={keras.backend.backend()}")
        self._strategy = _compressed_strategy()
        self.generator = generator
        self.discriminator = discriminator
        self.latent_dim = latent_dim or generator.input_shape[-1]
        self.loss_function = _loss(loss)
        self.seed = seed
        devices = self._strategy.local_devices
        self._players = (Player("generator", generator, devices), Player("discriminator", discriminator, devices))
        self._averaged = AveragedWeights(self._players[0], devices, ema_decay)
        self.step = _counter("step")
        self.skipped = _counter("skipped")
        self.skipped_in_row = _counter("skipped_in_row")
        self.channel = self._exact_channel = None
        self.built = True

    def compile(
        self,
        optimizer: OptimizerConfig | None = None,
        compression: CompressionConfig | None = None,
        *,
        total_steps: int = 0,
        steps_per_execution: int = 1,
    ):
        """Chooses direction and compression; forgets moments, residuals and previous directions.

        Args:
          optimizer: see `OptimizerConfig`. Keras optimizers do not apply: DQGAN has its own update rule.
          compression: see `CompressionConfig`.
          total_steps: length of the run, for schedules that need it.
          steps_per_execution: steps inside one call of the compiled function.

        Raises:
          UsageError: a setting is out of range, a rule of compressors that names no weight, or error feedback with a
            compressor that is not contractive.
        """
        optimizer = OptimizerConfig() if optimizer is None else optimizer
        compression = CompressionConfig() if compression is None else compression
        if not isinstance(optimizer, OptimizerConfig):
            raise UsageError(f"`optimizer` must be a dqgan_tf.OptimizerConfig. Received: {optimizer!r}")
        vectors = self._vectors(compression)
        super().compile(optimizer=None, steps_per_execution=steps_per_execution)
        self.optimizer_config, self.compression_config, self._total_steps = optimizer, compression, total_steps
        self._direction = optimizers.get(optimizer)
        for player, clip_value in zip(self._players, (None, self.loss_function.clip_value), strict=True):
            player.compile(
                self._direction,
                half_step=optimizer.half_step,
                residual_in_half_step=compression.residual_in_half_step,
                clip_value=clip_value,
            )
        self._open_channels(vectors, compression)
        self._step_metrics = StepMetrics(self._strategy.local_devices, [vector.name for vector in vectors])
        self._run_steps = self._make_run_steps()
        self._digests = tf.function(lambda: self._strategy.run(self._replica_digest), autograph=False)
        self._drain = tf.function(lambda: self._strategy.run(self._replica_drain), autograph=False)
        self.make_train_function(force=True)

    def train_step(self, data):
        """One compressed step of the class docstring's recurrence on this replica; no second moment is averaged."""
        self._replica_step(data, StepKind(average=False, exact=False))
        return {}

    def train_steps(self, iterator, num_steps: int) -> int:
        """Takes `num_steps` steps from a distributed iterator. Every worker must make the same call.

        Steps at which the direction averages its second moment, and those before compression starts, run as calls of
        their own: a collective inside tf.cond is not possible.

        Returns:
          The steps taken: fewer than `num_steps` when the data end.
        """
        step, taken = int(self.step.numpy()), 0
        for count, kind in steps.runs(step, num_steps, self._kind):
            done = int(self._run_steps(iterator, tf.constant(count), kind))
            taken += done
            if done < count:
                break
        return taken

    def drain_metrics(self) -> dict[str, float]:
        """Returns the means over accepted steps since the last call and over replicas. Every worker must call it."""
        vector = self._first_local(self._drain()).numpy()
        return self._step_metrics.figures(vector, self.channel_now) | self._learning_rates_now()

    @property
    def channel_now(self):
        """The channel that the next step uses: an exact one until compression starts."""
        return self._channel(self._kind(int(self.step.numpy()) + 1))

    def weight_digests(self):
        """Returns every replica's digest of the weights, int32 [M, 2], on every worker: equal rows, equal weights."""
        return self._first_local(self._digests()).numpy()

    def generate(self, latent: tf.Tensor, use_ema: bool = True) -> tf.Tensor:
        """Returns G(latent), float32 [batch, *shape], by the averaged or the raw generator. Cross-replica context."""
        raw = [first_local_value(v) for v in self.generator.trainable_variables]
        state = [first_local_value(v) for v in self.generator.non_trainable_variables]
        return self._generate(self._averaged.weights() if use_ema else raw, state, latent)

    def call(self, inputs, training=False):
        """Returns the raw generator's output for latents [batch, latent_dim]."""
        return self.generator(inputs, training=training)

    @staticmethod
    def local_value(variable) -> tf.Tensor:
        """Returns the first local replica's value of a Keras variable, without any collective, in any context."""
        return first_local_value(variable)

    def reset_ema(self) -> None:
        """Sets the averaged generator to the raw one."""
        self._averaged.reset()

    def shared_values(self) -> dict[str, tf.Tensor]:
        """Returns what is equal on all replicas, by name: counters, networks, averaged generator. Eager only."""
        values = {name: first_local_value(variable) for name, variable in self._shared_variables().items()}
        return values | {name: average.variables[0].read_value() for name, average in self._averaged.state().items()}

    def set_shared_values(self, values: Mapping[str, np.ndarray]) -> None:
        """Sets what `shared_values` returned, on all local replicas. Eager only."""
        for name, variable in self._shared_variables().items():
            variable.assign(values[name])
        for name, average in self._averaged.state().items():
            for variable in average.variables:
                variable.assign(values[name])

    def replica_values(self, replica: int) -> dict[str, tf.Tensor]:
        """Returns what differs between replicas, by name: residuals, moments, directions, learned levels.

        Names are those of weights: no name depends on how updates are cut into packets. Eager only.

        Args:
          replica: index of the local replica.
        """
        pairs = zip(self._weight_names(), self.channel.residuals(replica), strict=True)
        values = {f"residual/{name}": residual for name, residual in pairs if residual is not None}
        return values | {name: local.variables[replica].read_value() for name, local in self._replica_state().items()}

    def set_replica_values(self, replica: int, values: Mapping[str, np.ndarray]) -> None:
        """Sets what `replica_values` returned. Eager only."""
        names = self._weight_names()
        self.channel.set_residuals(replica, [values.get(f"residual/{name}") for name in names])
        for name, local in self._replica_state().items():
            local.variables[replica].assign(values[name])

    def _shared_variables(self):
        named = {name: getattr(self, name) for name in ("step", "skipped", "skipped_in_row")}
        for player in self._players:
            named |= player.saved_names
        return named

    def _replica_state(self):
        named = {f"learned/{name}": state for name, state in self.channel.learned.items()} | {
            "calls": self.channel.calls
        }
        for player in self._players:
            named |= player.state()
        return named

    def _weight_names(self):
        """Names in checkpoints of all trainable weights, in the order of the channel."""
        return [name for player in self._players for name in player.trainable_names]

    def _vectors(self, compression):
        """Returns the vectors of both players; the generator's updates exist first."""
        compressor, by_name = compressors.get(compression.compressor), rules.parse(compression.compressor_rules)
        rules.check_names([name for player in self._players for name in player.weight_names], by_name)
        made, first = [], 0
        for turn, player in enumerate(self._players):
            names, shapes = player.weight_names, player.shapes
            made += layout.vectors(player.name, names, shapes, compressor, by_name, first=first, turn=turn)
            first += len(shapes)
        return made

    def _open_channels(self, vectors, compression):
        """Opens the compressed channel and, if compression starts later, an exact one; closes those before."""
        for channel in (self.channel, self._exact_channel):
            if channel is not None:
                self._strategy.close_channel(channel.name)
        self.channel = self._exact_channel = None  # should the new ones be refused
        travel = {"packet_mb": compression.packet_mb, "transport": compression.transport}
        self.channel = self._strategy.open_channel(
            f"{self.name}/updates",
            vectors,
            error_feedback=compression.error_feedback,
            seed=self.seed,
            topology=compression.topology,
            allow_non_contractive=compression.allow_non_contractive,
            **travel,
        )
        if compression.start_step > 1:
            exact = [vector._replace(compressor=compressors.get("none")) for vector in vectors]
            self._exact_channel = self._strategy.open_channel(
                f"{self.name}/exact", exact, error_feedback=False, **travel
            )

    def _channel(self, kind):
        return self._exact_channel if kind.exact else self.channel

    def _kind(self, step):
        exact = step < self.compression_config.start_step
        return StepKind(average=self._direction.averages_at(step), exact=exact)

    def _by_player(self, per_weight):
        """One item per weight -> one list per player."""
        items = iter(per_weight)
        return [[next(items) for _ in player.shapes] for player in self._players]

    def _make_run_steps(self):
        @tf.function(autograph=False)
        def run_steps(iterator, num_steps, kind):
            def step(batch, state):
                self._strategy.run(self._replica_step, args=(batch, kind))
                return state

            return loop.fold(step, iterator, num_steps, ())[0]

        return run_steps

    def _replica_step(self, data, kind):
        channel, context = self._channel(kind), tf.distribute.get_replica_context()
        real = steps.one_sample_at_least(steps.real_samples(data))
        step = self.step.value + 1
        rates = self._rates(step)
        count = tf.cast(step - self.skipped.value, tf.float32)
        started = pipeline.now([real])
        residuals = self._by_player(self.channel.residuals(local_replica_index()))
        points = tuple(p.evaluation_points(e, eta) for p, e, eta in zip(self._players, residuals, rates, strict=True))
        evaluation = self._evaluate(points, real, step)
        average = (lambda value: context.all_reduce("mean", [value])[0]) if kind.average else None
        proposals = [
            player.propose(gradients, statistics, eta, count, average)
            for player, gradients, statistics, eta in zip(
                self._players, evaluation.gradients, evaluation.non_trainable, rates, strict=True
            )
        ]
        updates = [update for proposal in proposals for update in proposal.updates]
        computed = pipeline.now(updates)
        means = self._by_player(context.all_reduce("mean", updates, options=channel.options))
        accepted = channel.accepted.local().read_value()
        statistics = [p.mean_statistics(v) for p, v in zip(self._players, evaluation.non_trainable, strict=True)]

        def commit():
            weights = [p.advance(x, q) for p, x, q in zip(self._players, proposals, means, strict=True)]
            self._averaged.update(weights[0], count)
            for player, values in zip(self._players, statistics, strict=True):
                for variable, value in zip(player.network.non_trainable_variables, values, strict=True):
                    variable.assign(value)
            self._step_metrics.add(evaluation, proposals, channel, computed - started)
            return accepted

        tf.cond(accepted, commit, lambda: accepted)
        self._count(step, accepted)

    def _evaluate(self, weights, real, step):
        replica = global_replica_id(self._strategy)
        replicas = self._strategy.num_replicas_in_sync
        latent_seed = noise.stream_seed(self.seed, noise.LATENT, step, replica, replicas)
        latent = tf.random.stateless_normal([tf.shape(real)[0], self.latent_dim], latent_seed)
        penalty_seed = noise.stream_seed(self.seed, noise.PENALTY, step, replica, replicas)
        states = tuple([v.value for v in p.network.non_trainable_variables] for p in self._players)
        return simultaneous_gradients(
            self.generator,
            self.discriminator,
            self.loss_function,
            weights,
            states,
            real,
            latent,
            penalty_seed,
            in_turn=replicas > 1,
        )

    def _rates(self, step):
        config = self.optimizer_config
        return [
            optimizers.learning_rate(
                step,
                base,
                schedule=config.learning_rate_schedule,
                warmup_steps=config.warmup_steps,
                total_steps=self._total_steps,
            )
            for base in (config.learning_rate_g, config.learning_rate_d)
        ]

    def _learning_rates_now(self):
        rates = self._rates(tf.constant(int(self.step.numpy())))
        return {"learning_rate/generator": float(rates[0]), "learning_rate/discriminator": float(rates[1])}

    def _count(self, step, accepted):
        missed = tf.cast(tf.logical_not(accepted), tf.int64)
        self.step.assign(step)
        self.skipped.assign(self.skipped.value + missed)
        self.skipped_in_row.assign((self.skipped_in_row.value + 1) * missed)

    def _replica_drain(self):
        return tf.distribute.get_replica_context().all_reduce("mean", self._step_metrics.drain())

    def _replica_digest(self):
        weights = [v.value for p in self._players for v in p.network.trainable_variables]
        return tf.distribute.get_replica_context().all_gather(digest(weights)[tf.newaxis], axis=0)

    def _first_local(self, value):
        return self._strategy.experimental_local_results(value)[0]

    @tf.function(autograph=False)
    def _generate(self, weights, state, latent):
        return self.generator.stateless_call(weights, state, latent, training=False)[0]


def _compressed_strategy() -> CompressedStrategy:
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, CompressedStrategy):
        raise UsageError(
            "DQGAN must be created in the scope of a dqgan_tf.CompressedStrategy, with or without TF_CONFIG. "
            f"Received: {type(strategy).__name__}"
        )
    return strategy


def _loss(loss) -> losses.Loss:
    if isinstance(loss, str):
        loss = LossConfig(loss=loss)
    return losses.get(loss) if isinstance(loss, LossConfig) else loss


def _counter(name):
    return keras.Variable(0, dtype="int64", trainable=False, name=name)
