"""Cross-device ops that compress the reductions that ask for it."""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from dqgan_tf import private_tensorflow
from dqgan_tf.distribute import group_ranks
from dqgan_tf.distribute.channel import Channel
from dqgan_tf.distribute.group_ranks import Ranks
from dqgan_tf.distribute.groups import Groups
from dqgan_tf.distribute.options import CompressionOptions
from dqgan_tf.distribute.segment import Segment


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
        self,
        name: str,
        segments: Sequence[Segment],
        *,
        topology: str = "auto",
        transport: str = "auto",
        **settings,
    ) -> Channel:
        """Creates the channel `name`. Eagerly, on every worker in the same order; see `Channel`.

        With several replicas on each of several hosts, `auto` is `hierarchical`, but for what is not compressed: that
        is a sum over all replicas.

        Args:
          name, segments, topology, settings: see `Channel`.
          transport: see `groups.TRANSPORTS`.

        Raises:
          ValueError: the name is taken, or see `Channel` and `Groups.uses_sockets`.
        """
        if name in self._channels:
            raise ValueError(f"Channel {name!r} is open already.")
        replicas = len(self._devices)
        hosts = group_ranks.addresses(self._cluster)[1:] and replicas > 1
        compressed = not all(segment.is_exact for segment in segments)
        if topology == "hierarchical" or (topology == "auto" and hosts and compressed):
            groups, streams = self._groups.of_hosts(transport), [self._worker_index] * replicas
        else:
            groups = self._groups.flat(transport)
            streams = [self._worker_index * replicas + replica for replica in range(replicas)]
        self._channels[name] = Channel(
            name,
            segments,
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
            raise ValueError(f"No channel {name!r} is open. Open: {sorted(self._channels)}")
        if reduce_op != tf.distribute.ReduceOp.MEAN:
            raise ValueError(f"A channel computes means only. Received: reduce_op={reduce_op}")
        channel = self._channels[name]
        flat = tf.nest.flatten(value)
        with tf.device(self._devices[replica_id]):
            means = channel.mean(flat, replica_id, options)
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
