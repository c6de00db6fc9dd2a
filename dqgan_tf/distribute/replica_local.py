"""State that every replica owns alone: residuals, moments, previous directions."""

from collections.abc import Sequence

import tensorflow as tf

from dqgan_tf import private_tensorflow


class ReplicaLocal:
    """One plain variable per local replica; nothing is ever mirrored, merged or reduced.

    Distributed variables do not fit: saving them merges the replicas or raises (TensorFlow 2.21).

    Args:
      devices: the local replicas' devices, in replica order.
      shape, dtype: of each variable, which starts at zero.
      name: for messages and checkpoints.

    Must be created eagerly, before the function that uses it is traced.
    """

    def __init__(self, devices: Sequence[str], shape: Sequence[int], name: str, dtype=tf.float32):
        self.name = name
        self.variables = []
        with tf.init_scope():
            for index, device in enumerate(devices):
                with tf.device(device):
                    zeros = tf.zeros(shape, dtype)
                    # tf.Variable in a strategy's scope would be a mirrored one, on all replicas (TensorFlow 2.21.0).
                    self.variables.append(
                        private_tensorflow.ResourceVariable(zeros, trainable=False, name=f"{name}_{index}")
                    )

    def local(self) -> tf.Variable:
        """Returns the calling replica's variable. Replica context only."""
        return self.variables[local_replica_index()]


def read_local(variables: Sequence[ReplicaLocal]) -> list[tf.Tensor]:
    """Returns the calling replica's value of each. Replica context only."""
    return [variable.local().read_value() for variable in variables]


def first_local_value(variable) -> tf.Tensor:
    """Returns the first local replica's value of a Keras variable, without any collective, in any context."""
    value = variable.value
    return tf.convert_to_tensor(value.values[0] if isinstance(value, tf.distribute.DistributedValues) else value)


def local_replica_index() -> int:
    """Returns the index of the calling replica among this worker's replicas. Replica context only.

    Raises:
      RuntimeError: called outside a replica context.
    """
    context = tf.distribute.get_replica_context()
    if context is None:
        raise RuntimeError(
            "The state of a replica can be reached in replica context only: call it inside strategy.run."
        )
    return private_tensorflow.local_replica_index(context)


def global_replica_id(strategy) -> tf.Tensor:
    """Returns the calling replica's rank among all replicas of all workers, int32 scalar. Replica context only."""
    local_count = len(strategy.extended.worker_devices)
    first = private_tensorflow.cluster_place(strategy).worker_index * local_count
    return tf.constant(first + local_replica_index(), tf.int32)
