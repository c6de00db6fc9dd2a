"""The choice of a transport for the packets of a strategy, and the ranks of its replicas."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from dqgan_tf import config
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.distribute.tf_config import JOBS
from dqgan_tf.distribute.transport import connection
from dqgan_tf.distribute.transport.collectives import (
    Collectives,
    HostCollectives,
    SocketCollectives,
    TensorFlowCollectives,
)
from dqgan_tf.errors import UsageError
from dqgan_tf.private_tensorflow import ClusterPlace

_FIRST_GROUP_KEY = 1 << 20  # TensorFlow counts its own keys up from 1
# Number of times that this process has connected to others. It is part of the name of the message board: all workers
# connect in the same order, so they agree about the name.
_connect_calls = itertools.count()


class Transports:
    """The transports of one strategy on this worker. It owns the connections that it opens: `close` ends them.

    Args:
      place: place of this worker in the cluster.
      devices: the local replicas' devices, in replica order; their full names or the part from `/device:` on.
      launchers: one `CollectiveReplicaLauncher` per local replica, in the group of all replicas.
      new_launcher: (group key, group size, device) -> `CollectiveReplicaLauncher`.
      options: the strategy's communication options.
      silence_seconds: see `connection.Connection`.
    """

    def __init__(
        self,
        place: ClusterPlace,
        devices: Sequence[str],
        launchers: Sequence,
        new_launcher: Callable,
        options: Any,
        silence_seconds: float = config.TrainConfig.silence_timeout,
    ):
        self._silence_seconds = silence_seconds
        self._place, self._devices, self._launchers = place, tuple(devices), tuple(launchers)
        self._new_launcher, self._options = new_launcher, options
        self._addresses = [address for job in JOBS for address in place.cluster.get(job, ())]
        # TensorFlow ranks the members of a group by the text of their device names (2.21.0): task 10 comes before
        # task 2. All transports return rows in that order.
        tasks = [f"/job:{job}/replica:0/task:{i}" for job in JOBS for i in range(len(place.cluster.get(job, ())))]
        self._workers = sorted(range(len(tasks)), key=tasks.__getitem__) or [0]  # the worker index of each rank
        self._rank = self._workers.index(place.worker_index)
        suffixes = [device[device.index("/device:") :] for device in devices]
        self._local_ranks = [sorted(suffixes).index(suffix) for suffix in suffixes]
        self._group_launchers: list[tuple] = []
        self._socket_collectives: SocketCollectives | None = None
        self._channels = itertools.count(1)  # the calls of `collectives`

    def collectives(self, transport: str, hierarchical: bool = False) -> list[Collectives]:
        """Returns a channel's collectives of each local replica. All workers must make the same calls in one order.

        Args:
          transport: see `CompressionConfig.transport`.
          hierarchical: whether the replicas of a host share a rank, so that a rank is a host.

        Raises:
          UsageError: the transport is unknown or does not fit this worker's replicas.
          LostConnectionError, tf.errors.OpError: the workers could not connect, see `connection.connect`.
        """
        sockets, number = self.uses_sockets(transport), next(self._channels)
        if len(self._addresses) > 1:
            logging.info("Transport %s: %s.", transport, "sockets" if sockets else "TensorFlow's collectives")
        hosts, replicas = len(self._workers), len(self._devices)
        on_gpu = "GPU" in self._devices[0]
        implementation = implementation_of(transport, on_gpu and not self._options_name_an_implementation())
        if not hierarchical:
            if sockets:
                return [self._connected().of_channel(number)]
            return [
                TensorFlowCollectives(launcher, hosts * replicas, self._rank * replicas + local_rank, implementation)
                for launcher, local_rank in zip(self._launchers, self._local_ranks, strict=True)
            ]
        if not self._group_launchers:
            self._group_launchers = [
                (
                    self._new_launcher(_FIRST_GROUP_KEY + self._place.worker_index, replicas, device),
                    self._new_launcher(_FIRST_GROUP_KEY + hosts + index, hosts, device),
                )
                for index, device in enumerate(self._devices)
            ]
        return [
            HostCollectives(
                TensorFlowCollectives(local, replicas, local_rank, implementation),
                self._connected().of_channel(number)
                if sockets
                else TensorFlowCollectives(across, hosts, self._rank, implementation),
            )
            for (local, across), local_rank in zip(self._group_launchers, self._local_ranks, strict=True)
        ]

    def uses_sockets(self, transport: str) -> bool:
        """Returns whether packets between workers are sent over sockets. Raises UsageError as `collectives`."""
        config.check_setting("compression.transport", transport)
        on_gpu = "GPU" in self._devices[0]
        if transport == "nccl" and not on_gpu:
            raise UsageError(f"transport=nccl needs GPUs, the replicas run on {self._devices[0]}: use transport=ring.")
        if transport in ("ring", "nccl") or len(self._addresses) < 2:
            return False
        single = len(self._devices) == 1  # see `SocketCollectives._add_operation`
        if transport == "sockets":
            if not single:
                raise UsageError(
                    f"transport=sockets carries the packets of one replica per worker, this one has "
                    f"{len(self._devices)}: use transport=ring."
                )
            return True
        return single and not on_gpu and not self._options_name_an_implementation()

    def name_of(self, transport: str) -> str:
        """Returns what carries packets between workers under this setting, as a value other than `auto`."""
        if self.uses_sockets(transport):
            return "sockets"
        on_gpu = "GPU" in self._devices[0]
        name = implementation_of(transport, on_gpu and not self._options_name_an_implementation())
        if name == "AUTO" and self._options_name_an_implementation():
            name = self._options.implementation.value
        return "ring" if name == "AUTO" else name.lower()  # TensorFlow's AUTO is a ring

    def close(self) -> None:
        """Sends what was handed over, for up to 3 s, and closes the connections. Their collectives fail afterwards."""
        if self._socket_collectives is not None:
            self._socket_collectives.close()

    def _options_name_an_implementation(self):
        """Whether the strategy's options name an implementation, which a channel with transport `auto` uses."""
        return self._options.implementation != tf.distribute.experimental.CommunicationImplementation.AUTO

    def _connected(self):
        # One object owns the connections of all channels.
        if self._socket_collectives is None:
            worker = self._place.worker_index
            name, seconds = f"sockets/{next(_connect_calls)}", self._silence_seconds
            board = MessageBoard(worker, len(self._addresses), name, seconds)
            connections = connection.connect(board, self._addresses, worker, silence_seconds=seconds)
            self._socket_collectives = SocketCollectives(connections, self._workers, self._rank)
        return self._socket_collectives


def implementation_of(transport: str, on_gpu: bool) -> str:
    """Returns the name of the `tf.distribute.experimental.CommunicationImplementation` of a transport.

    On GPUs `auto` is NCCL: TensorFlow's own AUTO is a ring through host memory (2.21.0).
    """
    if transport == "auto" and on_gpu:
        return "NCCL"
    return transport.upper() if transport in ("ring", "nccl") else "AUTO"
