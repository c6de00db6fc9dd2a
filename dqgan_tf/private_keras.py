"""All undocumented methods and attributes of Keras that this project calls, overrides or sets.

They were read in Keras 3.15.1. `make test-next` prints which of them a newer Keras has moved. tests/test_layers.py
forbids imports of `keras.src` outside of this file and `private_tensorflow.py`.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from dqgan_tf.errors import UsageError


def flat_layers(network: keras.Model) -> list[keras.Layer]:
    """Returns the network and every layer in it, nested ones too, by `Layer._flatten_layers`.

    Replacement: a public list of nested layers; `Model.layers` holds the outermost ones alone.
    """
    return list(network._flatten_layers())


EMPTY = "A data set of `fit` or `evaluate` is empty: give it one batch or more."


class LoopModel(keras.Model):
    """A `keras.Model` whose `fit` and `evaluate` call `train_on` and `test_on`, several steps at a time.

    Overridden: `make_train_function`, `make_test_function`, `_maybe_symbolic_build` and `_trackable_children`. Set:
    `train_function` and `test_function`, which `compile` resets to None. Replacement: a documented hook for a call of
    several steps. Keras' own loop, which calls `train_step`, reduces scalar logs over axis 0 and fails with several
    workers.
    """

    def train_on(self, iterator) -> dict:
        """Takes up to `steps_per_execution` steps and returns logs. Raises `StopIteration` if the data have ended."""
        raise NotImplementedError

    def test_on(self, iterator) -> dict:
        """As `train_on`, for an evaluation."""
        raise NotImplementedError

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            self.train_function = self.train_on

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            self.test_function = self.test_on

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # The networks are built already. Keras' symbolic build fails on per-replica values.
        del iterator, data_batch

    def _trackable_children(self, save_type="checkpoint", **options):
        if save_type == "savedmodel":  # it would trace the training step outside of the strategy, and fail
            raise UsageError(
                "tf.saved_model.save does not take a DQGAN, which is made to train. Call gan.export(path) for a "
                "SavedModel of the averaged generator."
            )
        return super()._trackable_children(save_type, **options)


class Repairs(NamedTuple):
    """What `repair` puts in the place of Keras' own, for models and optimizers of one strategy.

    check: raises for settings of `compile` that a model cannot have.
    train_loop, test_loop: model -> function of an iterator that returns logs.
    is_outdated: whether a model needs a new `train_loop`.
    predict_step: (Keras' own `predict_step`, batch) -> outputs.
    epoch_logs: (model, logs of the last call) -> (logs without this library's figures, figures of the epoch).
    check_scaled: raises for an inner optimizer that a loss-scale optimizer cannot have.
    apply_scaled: (loss-scale optimizer, gradients, variables) -> None, of an optimizer of that strategy.
    """

    check: Callable
    train_loop: Callable
    test_loop: Callable
    is_outdated: Callable
    predict_step: Callable
    epoch_logs: Callable
    check_scaled: Callable
    apply_scaled: Callable


def repair(strategy_class: type, repairs: Repairs) -> None:
    """Mends `fit`, `evaluate` and `predict_on_batch` of every `keras.Model` of the scope of a `strategy_class`.

    Under several workers Keras 3.15 builds a model from a value per replica, which fails, and reduces scalar logs over
    axis 0, which fails (keras#20585). `predict_on_batch` hands the whole batch to every replica and returns each row
    once per replica. `LossScaleOptimizer` exchanges gradients inside a condition that each worker decides alone, so
    that all wait for ever when one of them overflows.

    Methods of `keras.Model` and of `keras.optimizers.LossScaleOptimizer` are replaced by ones that look at the strategy
    of the model or of the optimizer, and leave those of other strategies to Keras; a class that overrides them keeps
    its own. The classes are patched, and not the instances, because nothing that a user hands to `compile` learns which
    model it belongs to, and because `compile` makes a `LossScaleOptimizer` itself under `mixed_float16`. Replacement: a
    release of Keras without these faults.
    """
    _repair_loops(strategy_class, repairs)
    _repair_loss_scale(strategy_class, repairs)


def _repair_loops(strategy_class, repairs):
    """Replaces the methods of `keras.Model` that `_methods` names."""
    for name, ours in _methods(repairs).items():
        _replace(name, ours, strategy_class)


def _replace(name, ours, strategy_class):
    keras_own = getattr(keras.Model, name)

    @functools.wraps(keras_own)
    def method(self, *args, **kwargs):
        own = functools.partial(keras_own, self)
        if not isinstance(self._distribute_strategy, strategy_class):
            return own(*args, **kwargs)
        return ours(own, self, *args, **kwargs)

    setattr(keras.Model, name, method)


def _methods(repairs):
    """Returns, by name, functions (Keras' own method, model, its arguments) that take the place of Keras' method."""

    def fit(own, model, *args, **kwargs):
        given = inspect.signature(own).bind(*args, **kwargs).arguments
        _check_validation_data(given.get("validation_data"))  # Keras would find it empty after the first epoch
        callbacks = given.get("callbacks") or []
        callbacks = keras.tree.flatten(getattr(callbacks, "callbacks", callbacks))  # of a `CallbackList`
        for callback in callbacks:
            if isinstance(callback, ListedCallback):
                callback.set_callbacks(callbacks)
        try:
            return own(*args, **kwargs)
        finally:  # also after an error: the first epoch of this `fit` is not that of the next one
            set_initial_epoch(model, None)

    def make_train_function(own, model, force=False):
        if model.train_function is None or force or repairs.is_outdated(model):
            model.train_function = repairs.train_loop(model)

    def make_test_function(own, model, force=False):
        if model.test_function is None or force:
            model.test_function = repairs.test_loop(model)

    def maybe_symbolic_build(own, model, iterator=None, data_batch=None):
        repairs.check(model)
        strategy, parts = model._distribute_strategy, model._flatten_layers(include_self=False)
        if type(model).call is keras.Model.call and all(part.built for part in parts):
            # A model of built parts with a train_step of its own, as GANs are written: Keras has nothing to call.
            if model.optimizer is not None and not model.optimizer.built:
                with strategy.scope():
                    model.optimizer.build(model.trainable_variables)
            return
        if iterator is not None:
            data_batch = _batch_spec(iterator) or first_local(strategy, _first_batch(iterator))
        else:
            data_batch = first_local(strategy, data_batch)
        with strategy.scope():
            model._symbolic_build(data_batch=data_batch)

    def get_metrics_result_or_logs(own, model, logs):
        logs, figures = repairs.epoch_logs(model, logs)
        return own(logs) | figures

    def predict_step(own, model, data):
        return repairs.predict_step(own, data)

    def predict_on_batch(own, model, x):
        return keras.tree.map_structure(_as_array, model.predict_step((x,)))

    return {
        "fit": fit,
        "make_train_function": make_train_function,
        "make_test_function": make_test_function,
        "_maybe_symbolic_build": maybe_symbolic_build,
        "_get_metrics_result_or_logs": get_metrics_result_or_logs,
        "predict_step": predict_step,
        "predict_on_batch": predict_on_batch,
    }


def _check_validation_data(data):
    """Raises UsageError for validation data that are known to hold no sample."""
    if isinstance(data, tf.data.Dataset):
        is_empty = int(data.cardinality()) == 0
    else:
        first = next((part for part in keras.tree.flatten(data) if hasattr(part, "shape") and len(part.shape)), None)
        is_empty = first is not None and first.shape[0] == 0
    if is_empty:
        raise UsageError(f"{EMPTY} Received: validation_data without a sample")


def _as_array(output):
    return output if isinstance(output, tf.RaggedTensor) else keras.ops.convert_to_numpy(output)


def _batch_spec(iterator):
    """Returns shapes and dtypes of the batches of Keras' `EpochIterator`, or None if their first batch must show them.

    A generator yields each batch once: a batch that is read before the first step is lost to it, with those that Keras
    has read ahead. Replacement: a public `element_spec` of what `fit` reads.
    """

    def without_batch_size(spec):
        if isinstance(spec, tf.OptionalSpec):
            return None  # absent, such as sample weights
        if not isinstance(spec, tf.TensorSpec) or not spec.shape.rank or None in spec.shape.as_list()[1:]:
            raise LookupError
        return tf.TensorSpec([None, *spec.shape[1:]], spec.dtype)

    adapter = iterator.data_adapter
    try:
        return keras.tree.map_structure(without_batch_size, adapter.get_tf_dataset().element_spec)
    except LookupError:
        first = getattr(adapter, "_first_batches", None)  # of a generator: Keras has read them, and yields them again
        return first[0] if first else None


def _first_batch(iterator):
    """Returns the first batch of Keras' iterator over (first step, last step, batches)."""
    try:
        return next(next(iter(iterator))[2])
    except (StopIteration, tf.errors.OutOfRangeError):
        raise UsageError(EMPTY) from None


def _repair_loss_scale(strategy_class, repairs):
    """Replaces `__init__` and `apply` of `keras.optimizers.LossScaleOptimizer`.

    Replacement: a release of Keras that decides on all replicas together whether a scaled gradient is finite.
    """
    scale_class = keras.optimizers.LossScaleOptimizer
    keras_init, keras_apply = scale_class.__init__, scale_class.apply

    @functools.wraps(keras_init)
    def init(self, inner_optimizer, *args, **kwargs):
        repairs.check_scaled(inner_optimizer)
        keras_init(self, inner_optimizer, *args, **kwargs)

    def apply(self, grads, trainable_variables=None):
        strategy, is_compressed = self._distribution_strategy, hasattr(self.inner_optimizer, "compression")
        if not isinstance(strategy, strategy_class) or (strategy.num_replicas_in_sync == 1 and not is_compressed):
            return keras_apply(self, grads, trainable_variables)
        repairs.apply_scaled(self, grads, trainable_variables)

    scale_class.__init__, scale_class.apply = init, apply


def first_local(strategy: tf.distribute.Strategy, batch):
    """Returns the first local replica's part of a batch."""
    return without_absent(keras.tree.map_structure(lambda part: strategy.experimental_local_results(part)[0], batch))


def without_absent(batch):
    """Returns a batch with None where a data set's element holds an absent part, such as sample weights."""
    return keras.tree.map_structure(lambda part: None if isinstance(part, tf.experimental.Optional) else part, batch)


class ListedCallback(keras.callbacks.Callback):
    """A callback that learns from `fit` which others there are, if the strategy is one for which `repair` was called.

    Replacement: a list of the callbacks of this `fit` that a callback can read.
    """

    def set_callbacks(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        """Is called before `fit` begins, with all callbacks in their order."""
        raise NotImplementedError


def expect_trained_weights(callback: keras.callbacks.SwapEMAWeights) -> None:
    """Tells the callback that the model has the weights that are trained, and not their average.

    Sets `SwapEMAWeights._ema_weights_in_model`, which stays true after a `fit`. Replacement: a `SwapEMAWeights` that
    begins anew in `on_train_begin`.
    """
    callback._ema_weights_in_model = False


def set_initial_epoch(model: keras.Model, epoch: int | None) -> None:
    """Makes `fit` begin with an epoch, counted from 0; None: with the one that its caller names. `fit` resets it.

    Sets `Model._initial_epoch`, as Keras' own `BackupAndRestore` does. Replacement: a callback's right to name it.
    """
    model._initial_epoch = epoch


def running_statistics(model: keras.Model) -> list[keras.Variable]:
    """Returns the floating variables that layers update while they train, such as the averages of normalisation.

    Weights that are frozen are not among them. Replacement: a public way to tell them from frozen weights, both of
    which are in `non_trainable_variables`.
    """
    layers = [layer for layer in model._flatten_layers() if layer.trainable]
    variables = [variable for layer in layers for variable in layer._non_trainable_variables]
    return [variable for variable in {id(v): v for v in variables}.values() if "float" in variable.dtype]


class OptimizerSteps:
    """The parts of a Keras optimizer's `apply`, one after another, with the reduction taken out of them.

    `apply` scales and clips gradients, decays weights, adds the gradients of all replicas and updates weights, their
    moving average and the counter. A step that all replicas may skip together must add first and change variables
    afterwards. Replacement: public methods of `keras.optimizers.Optimizer` for these parts, and one that reduces.

    Args:
      optimizer: with Keras' own `apply`. Its `_all_reduce_sum_gradients` is replaced by one that adds nothing.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer):
        self._optimizer = optimizer
        optimizer._all_reduce_sum_gradients = list

    @staticmethod
    def strategy_of(optimizer: keras.optimizers.Optimizer) -> tf.distribute.Strategy:
        """Returns the strategy in whose scope the optimizer was created."""
        return optimizer._distribution_strategy

    def positions(self, variables: Sequence) -> tuple[int, ...]:
        """Returns the places of `variables` among those that the optimizer was built for."""
        self._optimizer._check_variables_are_known(variables)
        return tuple(self._optimizer._get_variable_index(variable) for variable in variables)

    def slots(self) -> list[keras.Variable]:
        """Returns what `update` changes beside the weights."""
        optimizer = self._optimizer
        others = [optimizer._iterations, optimizer._learning_rate, *self.accumulators()]
        if optimizer.use_ema:
            others += optimizer._model_variables_moving_average
        return [v for v in optimizer.variables if not any(v is other for other in others)]

    def accumulators(self) -> list[keras.Variable]:
        """Returns the sums of gradients between two updates, one per variable; empty without accumulation."""
        return list(self._optimizer._accumulated_gradients) if self._optimizer.gradient_accumulation_steps else []

    def filtered(self, gradients: Sequence, variables: Sequence) -> tuple[list, list]:
        """Returns the gradients that exist, divided by the fixed loss scale, and their variables."""
        gradients, variables = self._optimizer._filter_empty_gradients(gradients, variables)
        if self._optimizer.loss_scale_factor is not None:
            gradients = [gradient / self._optimizer.loss_scale_factor for gradient in gradients]
        return list(gradients), list(variables)

    def clipped(self, gradients: Sequence) -> list:
        """Returns gradients clipped as the optimizer asks for."""
        return self._optimizer._clip_gradients(gradients)

    def update(self, gradients: Sequence, variables: Sequence) -> None:
        """Decays and updates weights, and changes the slots."""
        self._optimizer._apply_weight_decay(variables)
        self._optimizer._backend_update_step(gradients, variables, self._optimizer.learning_rate)

    def is_last_of_accumulation(self) -> tf.Tensor:
        """Returns whether this call's gradients complete an accumulation."""
        return (self._optimizer._iterations + 1) % self._optimizer.gradient_accumulation_steps == 0

    def average(self) -> None:
        """Moves the average of the weights, and sets the weights to it when `ema_overwrite_frequency` asks for it."""
        optimizer = self._optimizer
        if not optimizer.use_ema:
            return
        optimizer._update_model_variables_moving_average(optimizer._trainable_variables)
        if not optimizer.ema_overwrite_frequency:
            return
        # Keras' own way fails in replica context.
        overwrite = (optimizer.iterations + 1) % optimizer.ema_overwrite_frequency == 0
        for weight, average in zip(
            optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
        ):
            weight.assign(tf.where(overwrite, average.value, weight.value))

    def constrain(self, variables: Sequence) -> None:
        """Applies the constraints of the variables."""
        for variable in variables:
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))

    def count(self, calls: int = 1) -> None:
        """Adds `calls`, which may be negative, to the number of calls of `apply`."""
        self._optimizer._iterations.assign_add(calls)


def built_for(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Returns the variables that an optimizer was built for. Replacement: a public list, in the same order."""
    return list(optimizer._trainable_variables)


def overwrites_with_gradient(variable: keras.Variable) -> bool:
    """Returns whether a variable's gradient is its next value, as for the scales of float8 layers.

    Replacement: documentation of `overwrite_with_gradient`, which has a public name and no word in Keras' reference.
    """
    return getattr(variable, "overwrite_with_gradient", False)
