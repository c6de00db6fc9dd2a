"""A MultiWorkerMirroredStrategy whose tagged reductions are compressed."""

from collections.abc import Sequence

import tensorflow as tf

from dqgan_tf import private_tensorflow
from dqgan_tf.config import check_bucket_mb
from dqgan_tf.distribute import group_ranks
from dqgan_tf.distribute.channel import Channel
from dqgan_tf.distribute.cross_device_ops import CompressedAllReduce, plain_options
from dqgan_tf.distribute.segment import Segment


class CompressedStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """`tf.distribute.MultiWorkerMirroredStrategy` with compressed channels.

    Works with TF_CONFIG, without it, and with several local replicas. Build it before any other TensorFlow op. All that
    the base class does stays exact; compression is asked for per call:

        strategy = CompressedStrategy()
        channel = strategy.open_channel("updates", [Segment("weights", n, compressors.get("sign:bucket=512"))])
        mean = tf.distribute.get_replica_context().all_reduce("mean", [update], options=channel.options)[0]

    Args:
      cluster_resolver: as in the base class; None reads TF_CONFIG.
      communication_options: `tf.distribute.experimental.CommunicationOptions`; ask for NCCL here on GPUs, since AUTO
        means RING.
      replicas_per_worker: local replicas on a machine without GPUs, on as many logical CPUs
        (`tf.config.set_logical_device_configuration`). With GPUs every visible one is a replica.

    Raises:
      ValueError: fewer logical CPUs than replicas.
    """

    def __init__(self, cluster_resolver=None, communication_options=None, replicas_per_worker: int = 1):
        extended = _CompressedExtended(
            self, cluster_resolver, plain_options(communication_options), replicas_per_worker
        )
        private_tensorflow.initialize_strategy(self, extended)

    def open_channel(
        self,
        name: str,
        segments: Sequence[Segment],
        *,
        error_feedback: bool = True,
        seed: int = 0,
        topology: str = "auto",
        bucket_mb: float = 0.0,
        allow_non_contractive: bool = False,
        transport: str = "auto",
    ) -> Channel:
        """Opens a compressed reduction; see `Channel` for the mathematics and the errors, `groups` for transports.

        Must be called eagerly, before the function that uses it is traced, on every worker in the same order.
        """
        check_bucket_mb(bucket_mb)
        return self.extended._cross_device_ops.open_channel(
            name,
            segments,
            error_feedback=error_feedback,
            seed=seed,
            topology=topology,
            bucket_mb=bucket_mb,
            allow_non_contractive=allow_non_contractive,
            transport=transport,
        )

    def close_channel(self, name: str) -> None:
        """Forgets a channel and its residuals."""
        self.extended._cross_device_ops.close_channel(name)

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes what the workers share."""
        return private_tensorflow.cluster_place(self).is_chief

    @property
    def worker_index(self) -> int:
        """This worker's index in the cluster."""
        return private_tensorflow.cluster_place(self).worker_index

    @property
    def num_workers(self) -> int:
        """Number of workers in the cluster."""
        return private_tensorflow.cluster_place(self).num_workers

    @property
    def local_devices(self) -> tuple[str, ...]:
        """The local replicas' devices, in replica order."""
        return tuple(self.extended.worker_devices)

    @property
    def local_replica_ids(self) -> list[int]:
        """Global ranks of the local replicas."""
        count = len(self.local_devices)
        return [self.worker_index * count + i for i in range(count)]


class _CompressedExtended(private_tensorflow.CollectiveAllReduceExtended):
    def __init__(self, container_strategy, cluster_resolver, communication_options, replicas_per_worker):
        self._replicas_per_worker = replicas_per_worker
        super().__init__(container_strategy, cluster_resolver, communication_options)

    def _initialize_local_devices(self, cluster_resolver, worker_device):
        devices, kind = super()._initialize_local_devices(cluster_resolver, worker_device)
        if kind != "CPU" or self._replicas_per_worker == 1:
            return devices, kind
        available = len(tf.config.list_logical_devices("CPU"))
        if available < self._replicas_per_worker:
            raise ValueError(
                f"{self._replicas_per_worker} replicas need as many logical CPUs, {available} exist: call "
                "tf.config.set_logical_device_configuration before any other TensorFlow op."
            )
        return tuple(f"{worker_device}/device:CPU:{i}" for i in range(self._replicas_per_worker)), kind

    def _initialize_local(self, cluster_resolver, devices=None):
        super()._initialize_local(cluster_resolver, devices)
        self._install_compressed_ops()

    def _initialize_multi_worker(self, cluster_resolver):
        super()._initialize_multi_worker(cluster_resolver)
        self._install_compressed_ops()

    def _install_compressed_ops(self):
        # The base class builds its ops itself and asserts their class, so ours replace them with the same keys.
        plain = self._cross_device_ops
        cluster = self._cluster_spec.as_dict() if self._cluster_spec else {}
        task = (self._task_type, self._task_id) if cluster else None
        self._cross_device_ops = CompressedAllReduce(
            plain._devices,
            plain._group_size,
            self._communication_options,
            self._collective_keys,
            worker_index=self._id_in_cluster,
            ranks=group_ranks.ranks(cluster, task, plain._devices),
            cluster=cluster,
        )
