"""A MultiWorkerMirroredStrategy whose tagged reductions are compressed."""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from dqgan_tf import config, private_tensorflow
from dqgan_tf.distribute import group_ranks
from dqgan_tf.distribute.channel import Channel, CompressionOptions
from dqgan_tf.distribute.group_ranks import Ranks
from dqgan_tf.distribute.groups import Groups
from dqgan_tf.distribute.layout import Vector
from dqgan_tf.errors import UsageError


class CompressedStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """`tf.distribute.MultiWorkerMirroredStrategy` with compressed channels.

    Works with TF_CONFIG, without it, and with several local replicas. Build it before any other TensorFlow operation.
    All reductions of the base class stay exact; compression is asked for per call:

        strategy = CompressedStrategy()
        vectors = layout.vectors("weights", names, shapes, compressors.get("sign:bucket=512"))
        channel = strategy.open_channel("updates", vectors)
        means = tf.distribute.get_replica_context().all_reduce("mean", updates, options=channel.options)

    Args:
      cluster_resolver: as in the base class; None reads TF_CONFIG.
      communication_options: `tf.distribute.experimental.CommunicationOptions`; ask for NCCL here on GPUs, since AUTO
        means RING.
      replicas_per_worker: local replicas on a machine without GPUs, on as many logical CPUs
        (`tf.config.set_logical_device_configuration`). With GPUs every visible one is a replica.

    Raises:
      UsageError: fewer logical CPUs than replicas.
    """

    def __init__(self, cluster_resolver=None, communication_options=None, replicas_per_worker: int = 1):
        extended = _CompressedExtended(
            self, cluster_resolver, plain_options(communication_options), replicas_per_worker
        )
        private_tensorflow.initialize_strategy(self, extended)

    def open_channel(
        self,
        name: str,
        vectors: Sequence[Vector],
        *,
        error_feedback: bool = True,
        seed: int = 0,
        topology: str = "auto",
        packet_mb: float = 0.0,
        allow_non_contractive: bool = False,
        transport: str = "auto",
    ) -> Channel:
        """Opens a compressed reduction; see `Channel` for the mathematics and the errors, `groups` for transports.

        Must be called eagerly, before the function that uses it is traced, on every worker in the same order.
        """
        config.check(config.settings()["compression.packet_mb"], packet_mb)
        return self.extended._cross_device_ops.open_channel(
            name,
            vectors,
            error_feedback=error_feedback,
            seed=seed,
            topology=topology,
            packet_mb=packet_mb,
            allow_non_contractive=allow_non_contractive,
            transport="collectives" if transport in ("ring", "nccl") else transport,
        )

    def close_channel(self, name: str) -> None:
        """Forgets a channel and its residuals."""
        self.extended._cross_device_ops.close_channel(name)

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the files that workers share."""
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
            raise UsageError(
                f"{self._replicas_per_worker} replicas need as many logical CPUs, {available} exist: call "
                "tf.config.set_logical_device_configuration before any other TensorFlow operation."
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


class CompressedAllReduce(private_tensorflow.CollectiveAllReduce):
    """`CollectiveAllReduce` in which a reduction whose options name a channel goes through that channel.

    Args: as `CollectiveAllReduce`, and
      worker_index: of this process in the cluster.
      ranks: of the local replicas; see `group_ranks`.
      cluster: addresses by job; empty for a single process.
    """

    def __init__(
        self,
        devices,
        group_size,
        options,
        collective_keys=None,
        *,
        worker_index: int = 0,
        ranks: Ranks | None = None,
        cluster: Mapping[str, Sequence[str]] | None = None,
    ):
        super().__init__(devices, group_size, options, collective_keys)
        self._worker_index, self._cluster = worker_index, cluster or {}
        self._groups = Groups(
            self._devices,
            self._launchers,
            collective_keys,
            self._options,
            self._cluster,
            ranks or Ranks([0], [0], [0]),
            worker_index,
        )
        self._channels: dict[str, Channel] = {}

    def __deepcopy__(self, memo):
        # The base class would come back as a plain CollectiveAllReduce (TensorFlow 2.21.0) and drop the channels.
        return self

    def open_channel(
        self, name: str, vectors: Sequence[Vector], *, topology: str = "auto", transport: str = "auto", **settings
    ) -> Channel:
        """Creates the channel `name`; see `CompressedStrategy.open_channel`.

        With several replicas on each of several hosts, `auto` is `hierarchical`, except for values that are not
        compressed: these are added up over all replicas.

        Raises:
          UsageError: the name is taken, or see `Channel` and `Groups.uses_sockets`.
        """
        if name in self._channels:
            raise UsageError(f"Channel {name!r} is open already.")
        replicas = len(self._devices)
        hosts = group_ranks.addresses(self._cluster)[1:] and replicas > 1
        compressed = not all(vector.is_exact for vector in vectors)
        if topology == "hierarchical" or (topology == "auto" and hosts and compressed):
            groups, streams = self._groups.of_hosts(transport), [self._worker_index] * replicas
        else:
            groups = self._groups.flat(transport)
            streams = [self._worker_index * replicas + replica for replica in range(replicas)]
        self._channels[name] = Channel(
            name,
            vectors,
            topology=topology,
            devices=self._devices,
            groups=groups,
            streams=streams,
            options=self._options,
            **settings,
        )
        return self._channels[name]

    def close_channel(self, name: str) -> None:
        """Forgets the channel `name` and its residuals."""
        del self._channels[name]

    def batch_reduce(self, reduce_op, value_destination_pairs, options=None):
        # The base class returns early for a single replica; a tagged reduction still encodes and decodes.
        if getattr(options, "channel", None):
            pairs = private_tensorflow.normalize_value_destination_pairs(value_destination_pairs)
            return self.batch_reduce_implementation(reduce_op, pairs, options)
        return super().batch_reduce(reduce_op, value_destination_pairs, options)

    def _all_reduce(self, reduce_op, value, replica_id, options):
        name = getattr(options, "channel", None)
        if not name:
            return super()._all_reduce(reduce_op, value, replica_id, options)
        if name not in self._channels:
            raise UsageError(f"No channel {name!r} is open. Open: {sorted(self._channels)}")
        if reduce_op != tf.distribute.ReduceOp.MEAN:
            raise UsageError(f"A channel computes means only. Received: reduce_op={reduce_op}")
        with tf.device(self._devices[replica_id]):
            means = self._channels[name].mean(tf.nest.flatten(value), replica_id, options)
        return tf.nest.pack_sequence_as(value, means)


def plain_options(options) -> CompressionOptions:
    """Returns `options` (or the defaults for None) as a `CompressionOptions` without a channel."""
    if options is None:
        return CompressionOptions()
    return CompressionOptions(
        bytes_per_pack=options.bytes_per_pack,
        timeout_seconds=options.timeout_seconds,
        implementation=options.implementation,
    )
