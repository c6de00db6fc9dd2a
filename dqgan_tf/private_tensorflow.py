"""Every name of TensorFlow outside its public API that this project uses.

All names were read at TensorFlow 2.21.0. A comment says what a name is for and what would replace it. `make test-next`
says which of them a newer TensorFlow has moved; tests/test_layers.py forbids such imports everywhere else.
"""

from typing import NamedTuple

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.distribute import (
    collective_all_reduce_strategy,
    collective_util,
    cross_device_ops,
    cross_device_utils,
    distribute_lib,
)
from tensorflow.python.eager import context
from tensorflow.python.framework import config as framework_config
from tensorflow.python.ops import resource_variable_ops
from tensorflow.tsl.profiler.protobuf import xplane_pb2

# The base of `strategy.CompressedStrategy`'s reductions: it overrides `batch_reduce`, `_all_reduce` and `__deepcopy__`
# and reads `_devices`, `_group_size`, `_launchers` and `_options`. Replacement: a public hook for cross-device ops of
# MultiWorkerMirroredStrategy, as `MirroredStrategy(cross_device_ops=...)` has one.
CollectiveAllReduce = cross_device_ops.CollectiveAllReduce
normalize_value_destination_pairs = cross_device_ops._normalize_value_destination_pairs

# What `MultiWorkerMirroredStrategy` builds for itself, with the ops above and one device per process. Overridden:
# `_initialize_local`, `_initialize_multi_worker`, `_initialize_local_devices`. Replacement: the same hook.
CollectiveAllReduceExtended = collective_all_reduce_strategy.CollectiveAllReduceExtended

# The class behind tf.distribute.experimental.CommunicationOptions. The public name cannot be subclassed: its `__new__`
# returns an `Options`. Replacement: a public class, or a public field for a tag.
CommunicationOptions = collective_util.Options

# A variable that a strategy's scope does not mirror: per-replica state must not be merged. Replacement: a public way to
# leave a strategy's scope, or `tf.Variable` once distributed variables can be saved per replica.
ResourceVariable = resource_variable_ops.ResourceVariable

# The message in a profile, `*.xplane.pb`. Replacement: the reader of tensorboard-plugin-profile, or one in tf.profiler.
XSpace = xplane_pb2.XSpace


def initialize_strategy(strategy: tf.distribute.Strategy, extended) -> None:
    """Calls `Strategy.__init__`, past `MultiWorkerMirroredStrategy.__init__`, which builds an `extended` of its own."""
    distribute_lib.Strategy.__init__(strategy, extended)


class ClusterPlace(NamedTuple):
    """Where this process stands among the workers; a chief counts as worker 0."""

    worker_index: int
    num_workers: int
    is_chief: bool


def cluster_place(strategy: tf.distribute.MultiWorkerMirroredStrategy) -> ClusterPlace:
    """Returns this process's place. Replacement: `strategy.cluster_resolver`, which numbers a chief apart."""
    extended = strategy.extended
    return ClusterPlace(extended._id_in_cluster, extended._num_workers, extended._is_chief)


def local_replica_index(replica_context: tf.distribute.ReplicaContext) -> int:
    """Returns the replica's index among this worker's replicas, while Python builds the replica's part of a graph.

    Replacement: `replica_id_in_sync_group`, once it is a Python number in every strategy.
    """
    return replica_context._replica_id


def launch(group_key: int, group_size: int, collective_keys, device: str, options):
    """Returns a `CollectiveReplicaLauncher`, which launches one replica's collectives.

    `CollectiveKeys` numbers groups in the order of creation, which may differ between processes; here the caller
    chooses the key. Replacement: public collectives over a chosen group of devices.
    """
    instances = collective_keys._instance_key_table.setdefault(group_key, {})
    instances.setdefault(device, cross_device_utils.INSTANCE_KEY_START_NUMBER)
    return cross_device_utils.CollectiveReplicaLauncher(group_key, group_size, collective_keys, device, options)


def all_gather(launcher, row: tf.Tensor, options) -> tf.Tensor:
    """Returns every replica's `row`, [1, W] each, as [M, W] in the order of ranks.

    Replacement: `ReplicaContext.all_gather`, once it accepts a group other than that of all replicas.
    """
    return launcher._all_gather(row, options)


def all_to_all(launcher, rows: tf.Tensor, options) -> tf.Tensor:
    """Returns [M, W], row i from rank i, of `rows` [M, W], row k to rank k.

    The op is public, but its instance key and its ordering token are the launcher's. Replacement: a public all-to-all.
    """
    merged = launcher._options.merge(options)
    instance_key, token = launcher._next_instance_key(), launcher._get_ordering_token()
    with tf.device(launcher._device):
        return tf.raw_ops.CollectiveAllToAllV2(
            input=rows,
            group_size=launcher._group_size,
            group_key=launcher._group_key,
            instance_key=instance_key,
            communication_hint=merged.implementation.value.lower(),
            timeout_seconds=merged.timeout_seconds or 0,
            ordering_token=[] if token is None else [token],
        )


def update_slice(tensor: tf.Tensor, rows: tf.Tensor, start) -> tf.Tensor:
    """Returns `tensor` with `rows` from row `start` on. Only in compiled functions.

    XLA updates the memory of a loop's own buffer in place; `tf.tensor_scatter_nd_update` becomes a slow scatter there.
    Replacement: a public `tf.raw_ops.XlaDynamicUpdateSlice`.
    """
    return gen_xla_ops.xla_dynamic_update_slice(tensor, rows, tf.stack([start] + [0] * (tensor.shape.rank - 1)))


def is_op_determinism_enabled() -> bool:
    """Returns whether `tf.config.experimental.enable_op_determinism` was called. Replacement: a public getter."""
    return framework_config.is_op_determinism_enabled()


def run_independently(operation: tf.Operation) -> None:
    """Exempts an operation from automatic control dependencies, which put everything with state into one order.

    Does nothing in a graph without them. Replacement: a public attribute of stateful operations.
    """
    manager = getattr(operation.graph, "experimental_acd_manager", None)
    if manager is not None:
        manager.run_independently(operation)


class CoordinationService:
    """Texts under keys, and barriers, by the service that multi-worker strategies start in worker 0.

    All methods raise `tf.errors.OpError` when the service or a worker is gone. Replacement: a public key-value store;
    `tf.experimental.dtensor.barrier` needs DTensor's own cluster.
    """

    def set(self, key: str, text: str) -> None:
        """Stores a text under a key that has none yet."""
        context.context().set_config_key_value(key, text)

    def get(self, key: str, timeout_seconds: float) -> str:
        """Returns the text of a key, once it has one."""
        return context.context().get_config_key_value(key, max(1, int(1e3 * timeout_seconds)))

    def delete(self, key: str) -> None:
        """Removes a key and its text."""
        context.context().delete_config_key_value(key)

    def wait_at_barrier(self, name: str, timeout_seconds: float) -> None:
        """Returns once all workers wait at the barrier of this name; fails at once when one misses its heartbeat."""
        context.context().wait_at_barrier(name, int(1e3 * timeout_seconds))
