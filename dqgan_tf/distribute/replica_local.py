"""State of each replica that is not shared: residuals, moments, previous directions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dqgan_tf import private_tensorflow


class ReplicaLocal:
    """One plain variable per local replica, which starts at zero. Nothing is mirrored, merged or reduced.

    `local()` is for functions that run in replica context. `variables[replica]` is for functions that receive the index
    of the replica: a reduction in a channel may run outside a replica context, and tests run it without a strategy.

    Distributed variables do not fit: saving them merges the replicas or raises (TensorFlow 2.21).

    Must be created eagerly, before the function that uses it is traced.

    Args:
      devices: devices of the local replicas, in replica order.
      shape, dtype: shape and dtype of each variable. A dimension of None has the size of the value; it starts at 0.
      name: name in messages and checkpoints.
    """

    def __init__(self, devices: Sequence[str], shape: Sequence[int | None], name: str, dtype: tf.DType = tf.float32):
        self.name = name
        self.variables = []
        with tf.init_scope():
            for index, device in enumerate(devices):
                with tf.device(device):
                    zeros = tf.zeros([size or 0 for size in shape], dtype)
                    # tf.Variable in a strategy's scope would be mirrored on all replicas (TensorFlow 2.21.0).
                    variable = private_tensorflow.ResourceVariable(
                        zeros, trainable=False, name=f"{name}_{index}", shape=tf.TensorShape(shape)
                    )
                    self.variables.append(variable)

    def local(self) -> tf.Variable:
        """Returns the calling replica's variable. Replica context only."""
        return self.variables[local_replica_index()]


def read_local(variables: Sequence[ReplicaLocal]) -> list[tf.Tensor]:
    """Returns the calling replica's value of each. Replica context only."""
    return [variable.local().read_value() for variable in variables]


def first_local_value(variable: Any) -> tf.Tensor:
    """Returns the first local replica's value of a Keras variable, without any collective, in any context."""
    value = variable.value
    return tf.convert_to_tensor(value.values[0] if isinstance(value, tf.distribute.DistributedValues) else value)


def merge_replicas(values: list[np.ndarray]) -> np.ndarray:
    """Returns one value for all replicas in place of one for each: the mean, or a counter's maximum."""
    if np.issubdtype(values[0].dtype, np.integer):
        return np.max(values, axis=0)
    return np.mean(values, axis=0, dtype=np.float64).astype(values[0].dtype)


def local_replica_index() -> int:
    """Returns the index of the calling replica among this worker's replicas. Replica context only.

    Raises:
      RuntimeError: called outside a replica context.
    """
    context = tf.distribute.get_replica_context()
    if context is None:
        raise RuntimeError("The state of a replica exists in replica context only: call this inside strategy.run.")
    return private_tensorflow.local_replica_index(context)


def global_replica_id(strategy: tf.distribute.Strategy) -> tf.Tensor:
    """Returns the calling replica's rank among all replicas of all workers, int32 scalar. Replica context only."""
    local_count = len(strategy.extended.worker_devices)
    first = private_tensorflow.cluster_place(strategy).worker_index * local_count
    return tf.constant(first + local_replica_index(), tf.int32)
