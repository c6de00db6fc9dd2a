"""The loops of `fit` and `evaluate` for any Keras model that was created in the scope of a `CompressedStrategy`."""

import contextlib
import itertools
import math
import numbers
import weakref

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from dqgan_tf import compressors, private_keras
from dqgan_tf.distribute.layout import Vector
from dqgan_tf.distribute.loop import fold
from dqgan_tf.distribute.replica_local import ReplicaLocal, local_replica_index
from dqgan_tf.errors import UsageError
from dqgan_tf.keras.nested import compressed_leaves, leaves_of, optimizers_of

PREFIX = "compression/"
_serial = itertools.count()  # of channels


class Loop:
    """`model.train_function` or `model.test_function`, which Keras calls with an iterator.

    One call runs up to `steps_per_execution` steps in one compiled function and returns the logs of the last step. One
    exact reduction at its end then averages over replicas

    - the logs, because a callback that sees other logs than on another worker may stop one worker alone;
    - the changes of the running statistics of normalisation layers, which would otherwise diverge.

    If the last batch is smaller than the number of replicas, some replicas have no samples. They take the step with one
    sample of zeros, update no metric and no running statistics, and their gradients count as zero.

    Args:
      model: compiled.
      replica_step: its `train_step` or `test_step`.
      trains: whether weights change.

    Raises:
      UsageError: a variable, also of a metric, that was created outside of the strategy's scope, or a layer that does
        not fit optimizers whose gradients are taken at a point of each replica.
    """

    def __init__(self, model: keras.Model, replica_step, *, trains: bool):
        self._model, self._replica_step, self._strategy = model, replica_step, model.distribute_strategy
        optimizers = leaves_of(optimizers_of(model)) if trains else []
        leaves = compressed_leaves(optimizers)
        self._compressed = [optimizer.compression for optimizer in leaves]
        self._plain = [optimizer for optimizer in optimizers if optimizer not in leaves]
        if any(steps.has_point for steps in self._compressed):
            _check_layers(model)
            _check_variables_of_points(leaves)
        self._logging = [steps for steps in self._compressed if steps.logs]
        self._statistics = private_keras.running_statistics(model) if trains else []
        self._strategy.check_scope(_metrics_variables(model), "all metrics, also those that model.compile makes,")
        if trains:
            self._strategy.check_scope([*model.trainable_variables, *self._statistics])
            _warn_without_compression(model, leaves)
            _check_state(model)
        self._has_samples = [None] * len(self._strategy.local_devices)  # of each replica in the step that is traced
        self._logs = self._latest = self._mean = None
        self._iterator: weakref.ref | None = None  # of the last call
        self._epoch = [0.0] * len(self._logging)
        self._counts = self._count()
        compiled = (lambda f: f) if model.run_eagerly else tf.function(autograph=False, reduce_retracing=True)
        self._many_steps, self._one_step = compiled(self._take_many), compiled(self._take_one)

    def __call__(self, iterator) -> dict:
        if isinstance(iterator, tf.distribute.DistributedIterator):
            done, logs, sums = self._many_steps(iterator, tf.constant(int(self._model.steps_per_execution)))
            is_first, self._iterator = self._iterator is None or self._iterator() is not iterator, weakref.ref(iterator)
            if not int(done):
                raise UsageError(private_keras.EMPTY) if is_first else StopIteration
        else:
            logs, sums = self._one_step(next(iterator))  # train_on_batch: each replica takes the whole batch
        if not self._logging:
            return logs
        self._epoch = [total + part.numpy() for total, part in zip(self._epoch, sums, strict=True)]
        return logs | self._figures([part.numpy() for part in sums])

    def is_current(self) -> bool:
        """Returns whether the model's compressed optimizers are still those for which this loop was made."""
        return self._compressed == [leaf.compression for leaf in compressed_leaves(optimizers_of(self._model))]

    def epoch_figures(self) -> dict[str, float]:
        """Returns the figures since the last call of this method."""
        sums, self._epoch = self._epoch, [0.0] * len(self._logging)
        return self._figures(sums)

    def warn_of_skipped_epoch(self) -> None:
        """Logs a warning for each optimizer that has skipped all of its steps, one or more, since the last call."""
        before, self._counts = self._counts, self._count()
        for steps, (taken, skipped) in zip(self._compressed, np.subtract(self._counts, before), strict=True):
            if skipped and not taken:
                logging.warning(
                    "All %d %s of %r in this epoch were skipped, because a gradient or an update was not finite on "
                    "some replica: no weight has changed. Lower the learning rate, or look for NaN in the data.",
                    skipped,
                    "steps" if steps.config.local_steps == 1 else "exchanges",
                    steps.name,
                )

    def _count(self):
        return np.array([steps.counts.variables[0].numpy() for steps in self._compressed]).reshape([-1, 2])

    def _figures(self, sums):
        several = len(self._logging) > 1
        return {
            f"{PREFIX}{steps.name + '/' if several else ''}{name}": value
            for steps, part in zip(self._logging, sums, strict=True)
            for name, value in steps.figures(part).items()
        }

    def _take_many(self, iterator, num_steps):
        def step(batch, state):
            self._strategy.run(self._step, args=(batch,))
            return state

        before = self._strategy.run(self._read_statistics)
        with self._zero_gradients_without_samples():
            done, _ = fold(step, iterator, num_steps, ())
        return done, *self._first(self._strategy.run(self._settle, args=(before,)))

    def _take_one(self, batch):
        before = self._strategy.run(self._read_statistics)
        with self._zero_gradients_without_samples():
            self._strategy.run(self._step, args=(batch,))
        return self._first(self._strategy.run(self._settle, args=(before,)))

    @contextlib.contextmanager
    def _zero_gradients_without_samples(self):
        """In the body, uncompressed optimizers, too, take gradients of zero on a replica that has no sample."""

        def without_samples(apply):
            def masked(gradients, *others, **named):
                has_samples = self._has_samples[local_replica_index()]
                return apply([_of_samples(gradient, has_samples) for gradient in gradients], *others, **named)

            return masked

        own = [vars(optimizer).get("apply") for optimizer in self._plain]  # None: that of its class
        for optimizer in self._plain:
            optimizer.apply = without_samples(optimizer.apply)
        try:
            yield
        finally:
            for optimizer, apply in zip(self._plain, own, strict=True):
                optimizer.apply = apply
                if apply is None:
                    del optimizer.apply

    def _first(self, results):
        return tf.nest.map_structure(lambda value: self._strategy.experimental_local_results(value)[0], results)

    def _step(self, batch):
        """Runs one step of this replica and stores [1 if it had samples, *logs] in `_latest`."""
        batch, has_samples = _one_sample_at_least(private_keras.without_absent(batch))
        for steps in self._compressed:
            steps.set_samples(has_samples)
            steps.look_ahead()
        kept = [] if has_samples is None else [*self._model.metrics_variables, *self._statistics]
        before = [tf.convert_to_tensor(variable.value) for variable in kept]
        self._has_samples[local_replica_index()] = has_samples
        logs = _as_tensors(self._replica_step(batch))
        for steps in self._compressed:
            steps.set_samples(None)  # the optimizer may take steps outside of this loop, too
            steps.settle()
        for variable, value in zip(kept, before, strict=True):
            variable.assign(tf.where(has_samples, variable.value, value))
        flat = [tf.cast(tf.reshape(value, [-1]), tf.float32) for value in tf.nest.flatten(logs)]
        weight = tf.constant(1.0) if has_samples is None else tf.cast(has_samples, tf.float32)
        values = tf.concat([[weight], *[tf.where(weight > 0.0, value, 0.0) for value in flat]], 0)
        self._remember(logs, values.shape).local().assign(values)

    def _remember(self, logs, shape):
        """Returns the variables that hold the logs of the last step."""
        if not shape.is_fully_defined():
            raise UsageError(f"What train_step or test_step returns must have static shapes. Received: {logs}")
        if self._latest is None or self._latest.variables[0].shape != shape:
            self._latest = ReplicaLocal(self._strategy.local_devices, shape, "logs")
        self._logs = tf.nest.map_structure(lambda value: tf.TensorSpec(value.shape, value.dtype), logs)
        return self._latest

    def _read_statistics(self):
        return [tf.convert_to_tensor(variable.value) for variable in self._statistics]

    def _settle(self, before):
        """Returns (logs, sums of figures per optimizer), means over all replicas; averages the running statistics."""
        changes = [
            tf.cast(variable.value - value, tf.float32)
            for variable, value in zip(self._statistics, before, strict=True)
        ]
        drained = [steps.drain() for steps in self._logging]
        samples = [steps.residual_sample() for steps in self._logging]
        squares = [sample * sample for sample in samples]
        latest, *means = self._all_mean([self._latest.local().read_value(), *drained, *samples, *squares, *changes])
        count = len(self._logging)
        sums = [steps.with_residuals(*means[i : 3 * count : count]) for i, steps in enumerate(self._logging)]
        changes = means[3 * count :]
        for variable, value, change in zip(self._statistics, before, changes, strict=True):
            # Statistics of a step that overflowed are not finite.
            variable.assign(value + tf.cast(tf.where(tf.math.is_finite(change), change, 0.0), value.dtype))
        specs = tf.nest.flatten(self._logs)
        parts = tf.split(latest[1:] / latest[0], [math.prod(spec.shape) for spec in specs]) if specs else []
        logs = [tf.cast(tf.reshape(part, spec.shape), spec.dtype) for part, spec in zip(parts, specs, strict=True)]
        return tf.nest.pack_sequence_as(self._logs, logs), sums

    def _all_mean(self, values):
        """Returns exact means over all replicas, by one collective."""
        if self._strategy.num_replicas_in_sync == 1:
            return values
        flat, shapes = tf.concat([tf.reshape(value, [-1]) for value in values], 0), [value.shape for value in values]
        if self._mean is None or self._mean.vectors[0].size != flat.shape[0]:
            vector = Vector("logs", compressors.get("none"), ((flat.shape[0],),), (0,))
            with tf.init_scope():
                self._mean = self._strategy.open_channel(
                    f"logs/{next(_serial)}",
                    [vector],
                    error_feedback=False,
                    agreed={"steps_per_execution": int(self._model.steps_per_execution)},
                )
            weakref.finalize(self, self._strategy.close_channel, self._mean.name).atexit = False
        context = tf.distribute.get_replica_context()
        (mean,) = context.all_reduce("mean", [flat], options=self._mean.options)
        parts = tf.split(mean, [math.prod(shape) for shape in shapes])
        return [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def train_loop(model: keras.Model) -> Loop:
    """Returns the `train_function` of a model."""
    return Loop(model, model.train_step, trains=True)


def is_outdated(model: keras.Model) -> bool:
    """Returns whether an optimizer was compressed after the `train_function` of a model was made."""
    return isinstance(model.train_function, Loop) and not model.train_function.is_current()


def test_loop(model: keras.Model) -> Loop:
    """Returns the `test_function` of a model."""
    return Loop(model, model.test_step, trains=False)


def predict_step(keras_own, data):
    """Returns what `predict_step` of Keras returns for a batch, which may be empty."""
    data, has_samples = _one_sample_at_least(private_keras.without_absent(data))
    outputs = keras_own(data)
    if has_samples is None:
        return outputs
    return keras.tree.map_structure(lambda part: tf.cond(has_samples, lambda: part, lambda: part[:0]), outputs)


def epoch_logs(model: keras.Model, logs) -> tuple[dict, dict]:
    """Returns the logs without this library's figures, and the figures of the whole epoch if there are any.

    Keras calls it at the end of an epoch, and at the end of an evaluation.
    """
    if isinstance(model.train_function, Loop):
        model.train_function.warn_of_skipped_epoch()
    if not (isinstance(logs, dict) and any(name.startswith(PREFIX) for name in logs)):
        return logs, {}
    others = {name: value for name, value in logs.items() if not name.startswith(PREFIX)}
    return others, model.train_function.epoch_figures()


def _one_sample_at_least(batch):
    """Returns (batch, None), or, if only its values say whether a batch has a row, (batch or one row of zeros, bool
    scalar: whether it has one).

    Convolutions of TensorFlow 2.21 fail on an empty batch. Ragged and sparse batches stay as they are.
    """
    parts = tf.nest.flatten(batch)
    first = next((part for part in parts if tf.is_tensor(part) and part.shape.rank), None)
    if first is None or first.shape[0]:
        return batch, None
    has_samples = tf.shape(first)[0] > 0
    if any(isinstance(part, (tf.RaggedTensor, tf.SparseTensor)) for part in parts):
        return batch, has_samples

    def padded(part):
        if not (tf.is_tensor(part) and part.shape.rank):
            return part
        row = tf.zeros(tf.concat([[1], tf.shape(part)[1:]], 0), part.dtype)
        filled = tf.cond(has_samples, lambda: part, lambda: row)
        return tf.ensure_shape(filled, [None, *part.shape[1:]])

    return tf.nest.map_structure(padded, batch), has_samples


def _of_samples(gradient, has_samples):
    """Returns a gradient, zero where a replica has no sample; the kind of tensor stays. has_samples: None means yes."""
    if gradient is None or has_samples is None:
        return gradient
    if isinstance(gradient, tf.IndexedSlices):
        values = _of_samples(gradient.values, has_samples)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return tf.where(has_samples, gradient, tf.zeros_like(gradient))


def _as_tensors(logs):
    """Returns what `train_step` or `test_step` returned, as tensors that have a mean."""
    if not isinstance(logs, dict):
        raise UsageError(
            "train_step and test_step must return a dictionary of logs, such as {'loss': loss} or {}. Received: "
            f"{logs!r}"
        )
    logs = tf.nest.map_structure(tf.convert_to_tensor, logs)
    for name, value in logs.items():
        if any(part.dtype == tf.string for part in tf.nest.flatten(value)):
            raise UsageError(f"Logs are averaged over the replicas and must be numbers. Received: a text as {name!r}")
    return logs


def _metrics_variables(model):
    """Returns the variables of a model's metrics, without those of compiled models inside it, which do not count."""
    parts = [part for part in private_keras.flat_layers(model) if part is not model and isinstance(part, keras.Model)]
    inside = {id(metric) for part in parts for metric in part.metrics}
    return [variable for metric in model.metrics if id(metric) not in inside for variable in metric.variables]


def _warn_without_compression(model, leaves):
    if optimizers_of(model) and not leaves:
        logging.warning(
            "No optimizer of the model %r is compressed, so its replicas exchange float32 gradients. Call "
            "dqgan_tf.compressed(optimizer, ...) in the scope before `fit`, also for a loaded or copied model.",
            model.name,
        )


def check(model: keras.Model) -> None:
    """Raises UsageError for settings of `compile` that no model of a `CompressedStrategy` can have."""
    steps = model.steps_per_execution
    if not isinstance(steps, numbers.Integral) or isinstance(steps, bool) or steps < 1:
        raise UsageError(
            "compile(steps_per_execution=...) must be a whole number of at least 1, such as 8. Received: "
            f"steps_per_execution={steps!r}"
        )
    if model.jit_compile:
        raise UsageError(
            "compile(jit_compile=True) compiles a whole step, and collectives have no XLA kernel: leave it at 'auto'. "
            "Encoding and decoding are compiled in any case."
        )
    replicas = len(model.distribute_strategy.local_devices)
    if model.run_eagerly and replicas > 1:
        raise UsageError(
            f"run_eagerly=True needs one replica per process, since replicas then run one after another and the first "
            f"would wait for the others for ever. This process has {replicas}."
        )


def _check_variables_of_points(optimizers):
    """Refuses a variable of two compressed optimizers of which one takes gradients at a point of each replica.

    Each of them moves the variable to its own point and back: the second would undo the step of the first. An
    uncompressed optimizer may be the one that `compile` makes and nobody uses.
    """
    owners: dict[int, list] = {}
    for optimizer in optimizers:
        for variable in private_keras.built_for(optimizer) if optimizer.built else ():
            owners.setdefault(id(variable), []).append((optimizer, variable))
    for of_variable in owners.values():
        if len(of_variable) > 1 and any(one.compression.has_point for one, _ in of_variable):
            names = " and ".join(repr(one.name) for one, _ in of_variable)
            raise UsageError(
                "With optimistic=True or local_steps, a variable needs an optimizer of its own: build each for "
                f"variables that no other one has. Received: {of_variable[0][1].path} of {names}"
            )


def _check_state(model):
    replicas = model.distribute_strategy.num_replicas_in_sync
    for layer in private_keras.flat_layers(model) if replicas > 1 else ():
        if getattr(layer, "stateful", False):
            raise UsageError(
                "A recurrent layer with stateful=True keeps a state of each row of the batch, which is another row on "
                f"every replica: set stateful=False, or train on one replica. Received: {layer.path}, {replicas} "
                "replicas"
            )


def _check_layers(model):
    for layer in private_keras.flat_layers(model):
        if isinstance(layer, keras.layers.SpectralNormalization):
            raise UsageError(
                "SpectralNormalization assigns its kernel while it runs, and optimistic=True and local_steps above 1 "
                "set the weights back after the gradients were taken. Use compressed(...) without them, or "
                f"dqgan_tf.DQGAN, whose discriminator may have it. Received: {layer.path}"
            )
