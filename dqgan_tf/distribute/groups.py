"""Who exchanges packets with whom, and what carries them."""

from collections.abc import Mapping, Sequence

import tensorflow as tf
from absl import logging

from dqgan_tf import private_tensorflow
from dqgan_tf.distribute import group_ranks
from dqgan_tf.distribute.group import Collectives, Group, HostGroup
from dqgan_tf.distribute.sockets import endpoint
from dqgan_tf.distribute.sockets.group import SocketGroup

TRANSPORTS = ("auto", "sockets", "collectives")
"""What carries packets between processes: `sockets`, TCP connections of our own on ports that the system chooses;
`collectives`, TensorFlow's; `auto`: sockets where every process has one replica, on a CPU, unless the strategy's
communication options name an implementation."""

_FIRST_GROUP_KEY = 1 << 20  # far from the keys that TensorFlow counts up from 1


class Groups:
    """The groups of one process's replicas.

    Args:
      devices: of the local replicas.
      launchers: their `CollectiveReplicaLauncher`s, of the group of all replicas.
      collective_keys: the strategy's `CollectiveKeys`.
      options: communication options of the strategy.
      cluster: addresses by job; empty for a single process.
      ranks: of the local replicas; see `group_ranks`.
      worker_index: of this process.
    """

    def __init__(
        self,
        devices: Sequence[str],
        launchers: Sequence,
        collective_keys,
        options,
        cluster: Mapping[str, Sequence[str]],
        ranks: group_ranks.Ranks,
        worker_index: int,
    ):
        self._devices, self._launchers, self._keys, self._options = devices, launchers, collective_keys, options
        self._addresses = tuple(group_ranks.addresses(cluster))
        self._workers = group_ranks.workers_by_rank(cluster)
        self._ranks, self._worker_index = ranks, worker_index
        self._of_host: list[Group] = []
        self._across_hosts: list[Group] = []
        self._sockets: SocketGroup | None = None

    def flat(self, transport: str) -> list[Collectives]:
        """Returns the group of all replicas, for every local one.

        Raises:
          ValueError: see `uses_sockets`.
        """
        if self.uses_sockets(transport):
            return [self._socket_group()]
        size = len(self._devices) * max(1, len(self._addresses))
        return [Group(launcher, size, rank) for launcher, rank in zip(self._launchers, self._ranks.all, strict=True)]

    def of_hosts(self, transport: str) -> list[HostGroup]:
        """Returns the `HostGroup` of every local replica.

        Raises:
          ValueError: see `uses_sockets`.
        """
        if not self._of_host:
            self._launch_groups_of_hosts()
        across = [self._socket_group()] if self.uses_sockets(transport) else self._across_hosts
        return [HostGroup(local, other) for local, other in zip(self._of_host, across, strict=True)]

    def uses_sockets(self, transport: str) -> bool:
        """Returns whether packets between processes travel over sockets.

        Not those of several replicas in one process: TensorFlow runs operations in Python one after the other in the
        order in which a function was traced, replica by replica, and the second of a replica's collectives needs the
        first of the others'.

        Raises:
          ValueError: unknown transport, or sockets are asked for with several local replicas.
        """
        if transport not in TRANSPORTS:
            raise ValueError(f"`transport` must be one of {', '.join(TRANSPORTS)}. Received: transport={transport}")
        if transport == "collectives" or len(self._addresses) < 2:
            return False
        alone = len(self._devices) == 1
        if transport == "sockets" and not alone:
            raise ValueError(
                f"Sockets carry the packets of one replica per process, this one has {len(self._devices)}: use the "
                "transport collectives (--communication=ring)."
            )
        unnamed = self._options.implementation == tf.distribute.experimental.CommunicationImplementation.AUTO
        on_cpu = "GPU" not in self._devices[0]
        chosen = transport == "sockets" or (alone and unnamed and on_cpu)
        logging.info("Transport %s: %s.", transport, "sockets" if chosen else "TensorFlow's collectives")
        return chosen

    def _socket_group(self):
        if self._sockets is None:
            own = endpoint.of_process(self._addresses, self._worker_index)
            self._sockets = SocketGroup(own, self._workers, self._workers.index(self._worker_index))
        return self._sockets

    def _launch_groups_of_hosts(self):
        hosts, count = max(1, len(self._addresses)), len(self._devices)
        for index, device in enumerate(self._devices):
            local = self._launcher(_FIRST_GROUP_KEY + self._worker_index, count, device)
            across = self._launcher(_FIRST_GROUP_KEY + hosts + index, hosts, device)
            self._of_host.append(Group(local, count, self._ranks.host[index]))
            self._across_hosts.append(Group(across, hosts, self._ranks.across[index]))

    def _launcher(self, key, size, device):
        # CollectiveKeys numbers groups in the order of creation, which differs between hosts; these are known to all.
        return private_tensorflow.launch(key, size, self._keys, device, self._options)
