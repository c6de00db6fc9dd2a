"""Every name of TensorFlow outside its public API that this project uses.

All names were read in TensorFlow 2.21.0; `docs/compatibility.md` has the versions they were tested with. A comment says
what a name is for and what could replace it.
`make test-next` lists the names that a newer TensorFlow has moved; tests/test_layers.py forbids such imports elsewhere.
"""

import contextlib
import ctypes
import functools
import weakref
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.distribute import (
    collective_all_reduce_strategy,
    collective_util,
    cross_device_ops,
    cross_device_utils,
    distribute_lib,
    multi_worker_util,
)
from tensorflow.python.eager import context
from tensorflow.python.framework import config as framework_config
from tensorflow.python.ops import resource_variable_ops
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from dqgan_tf.errors import UsageError

# The class behind tf.distribute.experimental.CommunicationOptions. The public name cannot be subclassed: its `__new__`
# returns an `Options`. Replacement: a public class, or a public field for a tag.
CommunicationOptions = collective_util.Options

# A variable that a strategy's scope does not mirror: per-replica state must not be merged. Replacement: a public way to
# leave a strategy's scope, or `tf.Variable` once distributed variables can be saved per replica.
ResourceVariable = resource_variable_ops.ResourceVariable

# The message in a profile, `*.xplane.pb`. Replacement: the reader of tensorboard-plugin-profile, or one in tf.profiler.
XSpace = xplane_pb2.XSpace


class ClusterPlace(NamedTuple):
    """Place of this process among the workers.

    cluster: addresses by job; empty for a single process.
    worker_index: index of this process. A chief is worker 0.
    num_workers: number of workers.
    is_chief: whether this worker writes the files that workers share.
    """

    cluster: Mapping[str, Sequence[str]]
    worker_index: int
    num_workers: int
    is_chief: bool


def cluster_place(strategy: tf.distribute.MultiWorkerMirroredStrategy) -> ClusterPlace:
    """Returns this process's place. Replacement: `strategy.cluster_resolver`, which counts chiefs and workers apart."""
    extended = strategy.extended
    cluster = extended._cluster_spec.as_dict() if extended._cluster_spec else {}
    return ClusterPlace(cluster, extended._id_in_cluster, extended._num_workers, extended._is_chief)


class WorkerStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """`MultiWorkerMirroredStrategy` with several replicas on a CPU, and with reductions by `reduce_in_channel`.

    A worker without GPUs may have several replicas, one per logical CPU. Reductions whose options have a `channel` are
    passed to `reduce_in_channel`; all others stay TensorFlow's. Replacement: a public argument `cross_device_ops`, like
    that of `tf.distribute.MirroredStrategy`, and a public choice of local devices.

    Args:
      cluster_resolver: argument of the base class.
      communication_options: a `CommunicationOptions`, not None.
      replicas_per_worker: number of replicas of a machine without GPUs.
      silence_seconds: seconds without a heartbeat after which TensorFlow's coordination service gives a worker up.

    Raises:
      UsageError: fewer logical CPUs than replicas.
    """

    def __init__(self, cluster_resolver, communication_options, replicas_per_worker: int, silence_seconds: float):
        # Not the __init__ of the base class: it would build an `extended` of its own.
        extended = _WorkerExtended(self, cluster_resolver, communication_options, replicas_per_worker, silence_seconds)
        distribute_lib.Strategy.__init__(self, extended)

    def reduce_in_channel(self, reduce_op, values: Sequence[tf.Tensor], replica: int, options) -> list[tf.Tensor]:
        """Returns the reductions of `values` over all replicas.

        Args:
          reduce_op: a `tf.distribute.ReduceOp`.
          values: values of the calling replica.
          replica: index of the local replica.
          options: options of the call; `options.channel` is neither None nor empty.
        """
        raise NotImplementedError

    def launchers(self) -> list:
        """Returns the local replicas' `CollectiveReplicaLauncher`s, in the group of all replicas."""
        return list(self.extended._cross_device_ops._launchers)

    def new_launcher(self, group_key: int, group_size: int, device: str):
        """Returns a `CollectiveReplicaLauncher` in a group with a key that the caller chooses.

        `CollectiveKeys` numbers groups in the order of creation, which may differ between processes.
        """
        keys = self.extended._collective_keys
        instances = keys._instance_key_table.setdefault(group_key, {})
        instances.setdefault(device, cross_device_utils.INSTANCE_KEY_START_NUMBER)
        options = self.extended._communication_options
        return cross_device_utils.CollectiveReplicaLauncher(group_key, group_size, keys, device, options)


class _WorkerExtended(collective_all_reduce_strategy.CollectiveAllReduceExtended):
    """Implementation of `WorkerStrategy`: several CPU replicas in a worker, a limit for silence, `_ChannelAllReduce`.

    Replacement: arguments of `MultiWorkerMirroredStrategy` for the three.
    """

    def __init__(self, strategy, cluster_resolver, communication_options, replicas_per_worker, silence_seconds):
        self._replicas_per_worker, self._silence_seconds = replicas_per_worker, silence_seconds
        super().__init__(strategy, cluster_resolver, communication_options)

    def _initialize_local_devices(self, cluster_resolver, worker_device):
        devices, kind = super()._initialize_local_devices(cluster_resolver, worker_device)
        if kind != "CPU" or self._replicas_per_worker == 1:
            return devices, kind
        available = len(tf.config.list_logical_devices("CPU"))
        if available < self._replicas_per_worker:
            raise UsageError(
                f"{self._replicas_per_worker} replicas need as many logical CPUs, {available} exist: call "
                "tf.config.set_logical_device_configuration before any other TensorFlow op."
            )
        return tuple(f"{worker_device}/device:CPU:{i}" for i in range(self._replicas_per_worker)), kind

    def _initialize_local(self, cluster_resolver, devices=None):
        super()._initialize_local(cluster_resolver, devices)
        self._replace_cross_device_ops()

    def _initialize_multi_worker(self, cluster_resolver):
        if not joined_cluster():
            self._configure_coordination_service(
                multi_worker_util.normalize_cluster_spec(cluster_resolver.cluster_spec())
            )
        super()._initialize_multi_worker(cluster_resolver)
        self._replace_cross_device_ops()

    def _configure_coordination_service(self, cluster):
        """Configures the service before the base class does, which keeps an existing configuration: with our limit for
        heartbeats instead of TensorFlow's 10 s.
        """
        jobs = [job for job in ("chief", "worker") if job in cluster.jobs]
        context.context().configure_coordination_service(
            service_type="standalone",
            service_leader=multi_worker_util.coordination_leader(cluster),
            coordinated_jobs=[
                coordination_config_pb2.CoordinatedJob(name=job, num_tasks=cluster.num_tasks(job)) for job in jobs
            ],
            heartbeat_timeout_in_ms=int(1e3 * self._silence_seconds),
        )

    def _replace_cross_device_ops(self):
        # The base class builds an object of its own and asserts its class; this one replaces it, with the same keys.
        plain, options, keys = self._cross_device_ops, self._communication_options, self._collective_keys
        self._cross_device_ops = _ChannelAllReduce(plain._devices, plain._group_size, options, keys)
        self._cross_device_ops.strategy = weakref.proxy(self._container_strategy())


class _ChannelAllReduce(cross_device_ops.CollectiveAllReduce):
    """`CollectiveAllReduce` that passes reductions in channels to the strategy.

    `ReplicaContext.all_reduce` calls `batch_reduce`, which calls `_all_reduce` for each local replica (TensorFlow
    2.21.0). docs/algorithm.md has the whole chain of calls. Replacement: a strategy of several workers that accepts a
    subclass of `tf.distribute.CrossDeviceOps`.
    """

    strategy: WorkerStrategy

    def __deepcopy__(self, memo):
        # A copy by the base class would be a plain CollectiveAllReduce without channels.
        return self

    def batch_reduce(self, reduce_op, value_destination_pairs, options=None):
        # For a channel, not the method of the base class: that one skips the reduction for a single replica, and splits
        # values of unknown device, such as arguments of a function, into single reductions.
        if getattr(options, "channel", None):
            pairs = cross_device_ops._normalize_value_destination_pairs(value_destination_pairs)
            return self._all_reduce_per_replica_values(reduce_op, [value for value, _ in pairs], options)
        return super().batch_reduce(reduce_op, value_destination_pairs, options)

    def _all_reduce(self, reduce_op, value, replica_id, options):
        if not getattr(options, "channel", None):
            return super()._all_reduce(reduce_op, value, replica_id, options)
        with tf.device(self._devices[replica_id]):
            results = self.strategy.reduce_in_channel(reduce_op, tf.nest.flatten(value), replica_id, options)
        return tf.nest.pack_sequence_as(value, results)


def joined_cluster() -> bool:
    """Returns whether a multi-worker strategy of this process has joined its cluster. Replacement: a public getter."""
    return context.context().coordination_service is not None


def joined_silence_seconds() -> float | None:
    """Returns how long the joined cluster waits for a heartbeat; None: no cluster, or TensorFlow's own limit.

    Replacement: a public getter.
    """
    service = context.context().coordination_service
    return service.heartbeat_timeout_in_ms / 1e3 or None if service is not None else None


def local_replica_index(replica_context: tf.distribute.ReplicaContext) -> int:
    """Returns the replica's index among this worker's replicas, an int, while Python builds its part of a graph.

    Replacement: `replica_id_in_sync_group`, once it is a Python number in every strategy.
    """
    return replica_context._replica_id


def all_gather(launcher, row: tf.Tensor, options) -> tf.Tensor:
    """Returns every replica's `row`, [1, W] each, as [M, W] in the order of ranks.

    Replacement: `ReplicaContext.all_gather`, once it accepts a group other than that of all replicas.
    """
    return launcher._all_gather(row, options)


def all_to_all(launcher, rows: tf.Tensor, options) -> tf.Tensor:
    """Returns [M, W], row i from rank i, of `rows` [M, W], row k to rank k.

    The op is public, but it needs the launcher's instance key and ordering token. Replacement: a public all-to-all.
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

    XLA updates the buffer of a loop in place; `tf.tensor_scatter_nd_update` would become a slow scatter.
    Replacement: a public `tf.raw_ops.XlaDynamicUpdateSlice`.
    """
    return gen_xla_ops.xla_dynamic_update_slice(tensor, rows, tf.stack([start] + [0] * (tensor.shape.rank - 1)))


def is_op_determinism_enabled() -> bool:
    """Returns whether `tf.config.experimental.enable_op_determinism` was called. Replacement: a public getter."""
    return framework_config.is_op_determinism_enabled()


def run_independently(operation: tf.Operation) -> None:
    """Exempts an operation from automatic control dependencies, which put all stateful operations into one order.

    Does nothing in a graph without them. Replacement: a public attribute of stateful operations.
    """
    manager = getattr(operation.graph, "experimental_acd_manager", None)
    if manager is not None:
        manager.run_independently(operation)


class CoordinationService:
    """A store of texts by key, and barriers: the service that multi-worker strategies start in worker 0.

    All methods raise `tf.errors.OpError` if the service or a worker is gone. Replacement: a public key-value store;
    `tf.experimental.dtensor.barrier` needs DTensor's own cluster.
    """

    def set(self, key: str, text: str) -> None:
        """Stores the text of a key that has none yet."""
        context.context().set_config_key_value(key, text)

    def get(self, key: str, timeout_seconds: float) -> str:
        """Waits until a key has a text; returns it."""
        return context.context().get_config_key_value(key, max(1, int(1e3 * timeout_seconds)))

    def delete(self, key: str) -> None:
        """Removes a key and its text."""
        context.context().delete_config_key_value(key)

    def wait_at_barrier(self, name: str, timeout_seconds: float) -> None:
        """Waits until all workers wait at the barrier of this name; fails at once if one misses its heartbeat.

        It calls TensorFlow's C function, because `Context.wait_at_barrier` keeps Python's lock (GIL) while it waits:
        no thread of the process would run, send a heartbeat, notice that worker 0 is gone or see a signal. ctypes
        releases the lock.
        """
        _call("TFE_WaitAtBarrier", context.context()._handle, name.encode(), int(1e3 * timeout_seconds))


@contextlib.contextmanager
def other_threads_run():
    """In the body, TensorFlow connects to its cluster without Python's lock: TFE_EnableCollectiveOps would keep it.

    So another thread can set a limit to this wait, which ends by itself after an hour (TensorFlow 2.21). Replacement: a
    limit for the wait, or a binding that releases the lock.
    """
    module = context.pywrap_tfe
    original = module.TFE_EnableCollectiveOps

    def enable(handle, server_def):
        _call("TFE_EnableCollectiveOps", handle, server_def, len(server_def))

    module.TFE_EnableCollectiveOps = enable
    try:
        yield
    finally:
        module.TFE_EnableCollectiveOps = original


def _call(name, handle, *arguments):
    """Calls a C function of a context's handle without Python's lock; raises the error of its status."""
    c = _c_functions()
    status = c["TF_NewStatus"]()
    try:
        pointer = c["PyCapsule_GetPointer"](handle, c["PyCapsule_GetName"](handle))
        c[name](pointer, *arguments, status)
        code, message = c["TF_GetCode"](status), c["TF_Message"](status).decode(errors="replace")
    finally:
        c["TF_DeleteStatus"](status)
    if code:
        raise tf.compat.v1.errors.exception_type_from_error_code(code)(None, None, message)


@functools.cache
def _c_functions():
    """Returns C functions by name. ctypes takes pointers for 32-bit numbers unless types are declared.

    TensorFlow has loaded both libraries already. Replacement: methods of `Context` that release Python's lock.
    """
    eager, framework = ctypes.CDLL("libtensorflow_cc.so.2"), ctypes.CDLL("libtensorflow_framework.so.2")
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    functions = {}
    for library, name, result, *arguments in (
        (ctypes.pythonapi, "PyCapsule_GetName", text, ctypes.py_object),  # None in 2.21, a name in 2.22
        (ctypes.pythonapi, "PyCapsule_GetPointer", pointer, ctypes.py_object, text),
        (framework, "TF_NewStatus", pointer),
        (framework, "TF_GetCode", ctypes.c_int, pointer),
        (framework, "TF_Message", text, pointer),
        (framework, "TF_DeleteStatus", None, pointer),
        (eager, "TFE_EnableCollectiveOps", None, pointer, text, size, pointer),
        (eager, "TFE_WaitAtBarrier", None, pointer, text, ctypes.c_int64, pointer),
    ):
        function = functions[name] = library[name]  # by index: an object of its own, which nobody else declares
        function.restype, function.argtypes = result, arguments
    return functions
