"""Compressed optimizers inside models, and inside Keras' `MultiOptimizer` and `LossScaleOptimizer`."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from dqgan_tf.distribute.strategy import CompressedStrategy
from dqgan_tf.errors import UsageError
from dqgan_tf.keras.optimizer import build
from dqgan_tf.private_keras import OptimizerSteps, flat_layers


def optimizers_of(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    """Returns the optimizers that are attributes of a model or of its layers, or stand in lists, tuples and
    dictionaries that are, at any depth.

    A `train_step` of one's own may use those of models inside it that were compiled themselves.
    """
    optimizers: dict[int, keras.optimizers.Optimizer] = {}
    seen: dict[int, Any] = {}  # lists and dictionaries may contain each other
    rest: list[Any] = [vars(layer) for layer in reversed(flat_layers(model))]
    while rest:
        value = rest.pop()
        if isinstance(value, keras.optimizers.Optimizer):
            optimizers[id(value)] = value
        elif isinstance(value, (list, tuple, dict)) and id(value) not in seen:
            seen[id(value)] = value
            inside = value.values() if isinstance(value, dict) else value
            rest += [*inside][::-1]  # popped in their order, by which checkpoints name optimizers
    return list(optimizers.values())


def compressed_leaves(optimizers: Sequence[keras.optimizers.Optimizer]) -> list[keras.optimizers.Optimizer]:
    """Returns the compressed ones of `leaves_of` some optimizers."""
    return [optimizer for optimizer in leaves_of(optimizers) if hasattr(optimizer, "compression")]


def leaves_of(optimizers: Sequence[keras.optimizers.Optimizer]) -> list[keras.optimizers.Optimizer]:
    """Returns optimizers, and in the place of a `LossScaleOptimizer` or `MultiOptimizer` those inside it."""
    leaves: dict[int, keras.optimizers.Optimizer] = {}
    for optimizer in optimizers:
        inside = [optimizer]
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            inside = leaves_of([optimizer.inner_optimizer])
        elif isinstance(optimizer, keras.optimizers.MultiOptimizer):
            inside = leaves_of(optimizer.optimizers)
        leaves |= {id(leaf): leaf for leaf in inside}
    return list(leaves.values())


def check_scaled(inner: keras.optimizers.Optimizer) -> None:
    """Raises UsageError for an inner optimizer that all replicas cannot scale together."""
    is_multiple = isinstance(inner, keras.optimizers.MultiOptimizer)
    if is_multiple and isinstance(OptimizerSteps.strategy_of(inner), CompressedStrategy):
        raise UsageError(
            "A LossScaleOptimizer in a CompressedStrategy cannot hold a MultiOptimizer: its optimizers would skip a "
            "step that overflows one by one. Take the policy mixed_bfloat16, which needs no loss scale, or one "
            f"optimizer for all weights. Received: inner_optimizer={inner.name!r}"
        )


def apply_scaled(optimizer: keras.optimizers.LossScaleOptimizer, gradients, variables=None) -> None:
    """`LossScaleOptimizer.apply` around a compressed optimizer: all replicas halve the scale when one overflows.

    The inner optimizer skips a step that is not finite anywhere. Clipping by value would make an infinite gradient
    finite again, so an overflow makes one of the gradients NaN.

    Raises:
      UsageError: the inner optimizer is not compressed. Keras lets each replica decide alone whether it exchanges
        gradients, so that all wait for ever when one of them overflows.
    """
    check_scaled(optimizer.inner_optimizer)
    if not hasattr(optimizer.inner_optimizer, "compression"):
        kind = type(optimizer.inner_optimizer).__name__
        raise UsageError(
            "Under several replicas Keras' LossScaleOptimizer waits for ever when one of them overflows alone. "
            f"Compress the optimizer, if only by 'none': dqgan_tf.compressed({kind}(...), 'none'). Received: {kind} "
            f"{optimizer.inner_optimizer.name!r}"
        )
    inner = optimizer.inner_optimizer.compression
    build(optimizer, variables)
    gradients, scale = inner.of_samples(gradients), tf.convert_to_tensor(optimizer.dynamic_scale.value)
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients if g is not None])
    divisor = tf.where(finite, scale, float("nan"))
    taken = inner.apply([None if g is None else g / tf.cast(divisor, g.dtype) for g in gradients], variables)
    count = tf.convert_to_tensor(optimizer.step_counter.value)
    grows = taken & (count == optimizer.dynamic_growth_steps - 1)
    optimizer.step_counter.assign(tf.where(taken & ~grows, count + 1, 0))
    optimizer.dynamic_scale.assign(scale * tf.where(grows, 2.0, tf.where(taken, 1.0, 0.5)))
