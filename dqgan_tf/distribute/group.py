"""A replica's place among those that exchange packets, and the collectives of that group."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
from tensorflow.python.distribute import cross_device_utils

from dqgan_tf.distribute import collectives


class Group(NamedTuple):
    """All replicas, each sending for itself.

    launcher: this replica's `CollectiveReplicaLauncher`.
    size: M, how many encode.
    rank: of this replica, in the order in which collectives concatenate.
    """

    launcher: object
    size: int
    rank: int

    prefix = ""
    shares = 1  # in how many the words of one payload are sent

    def gather_input(self, values: Sequence[tf.Tensor], options) -> list[tf.Tensor]:
        """Returns what this replica encodes: its own values."""
        del options
        return list(values)

    def all_gather(self, words: tf.Tensor, options) -> tf.Tensor:
        """float32 [W] -> [M, W], row i from rank i, as bits."""
        return collectives.all_gather(self.launcher, words, self.size, options)

    def all_to_all(self, rows: tf.Tensor, options) -> tf.Tensor:
        """float32 [M, W], row k for rank k -> [M, W], row i from rank i."""
        return collectives.all_to_all(self.launcher, rows, self.size, options)

    def all_reduce(self, values: Sequence[tf.Tensor], options) -> list[tf.Tensor]:
        """Returns the exact sums over the M that encode."""
        return collectives.all_reduce(self.launcher, values, self.size, options)


class HostGroup(NamedTuple):
    """Hosts of several local replicas: they add up exactly inside, and send compressed between hosts.

    All replicas of a host encode the same mean, to the same bits, and every one sends its share of the words to the
    replicas of the same local index elsewhere; inside the host the shares are gathered again. A host sends each word
    once, whatever the number of its replicas.

    local: the group of this host's replicas.
    across: the group of the replicas of this local index on all hosts; M and rank of encoding are its.
    """

    local: Group
    across: Group

    prefix = "hierarchical "

    @property
    def shares(self) -> int:
        """In how many shares a host sends its words: the number of its replicas."""
        return self.local.size

    @property
    def size(self) -> int:
        """M, the number of hosts."""
        return self.across.size

    @property
    def rank(self) -> int:
        """Of this host."""
        return self.across.rank

    def gather_input(self, values, options):
        """Returns the exact mean over the host's replicas."""
        return [total / self.local.size for total in self.local.all_reduce(values, options)]

    def all_gather(self, words, options):
        """As `Group.all_gather`, over hosts."""
        rows = words[tf.newaxis]
        return self._by_shares(rows, lambda share: self.across.all_gather(share[0], options), self.size, options)

    def all_to_all(self, rows, options):
        """As `Group.all_to_all`, over hosts."""
        return self._by_shares(rows, lambda share: self.across.all_to_all(share, options), self.size, options)

    def all_reduce(self, values, options):
        """As `Group.all_reduce`, over hosts; the share of a local replica is a slice of each vector."""
        sizes = [value.shape[0] for value in values]
        flat = tf.concat(list(values), 0)[tf.newaxis]
        total = self._by_shares(flat, lambda share: self.across.all_reduce([share[0]], options)[0], 1, options)
        return tf.split(total[0], sizes)

    def _by_shares(self, rows, exchange, count, options):
        """Applies `exchange`, [k, W/R] -> [count, W/R], to this replica's columns and puts all columns together."""
        replicas, width = self.local.size, rows.shape[1]
        share = -(-width // replicas)
        padded = tf.pad(rows, [[0, 0], [0, share * replicas - width]])
        mine = padded[:, self.local.rank * share : (self.local.rank + 1) * share]
        received = exchange(mine)
        shares = self.local.all_gather(tf.reshape(received, [-1]), options)
        columns = tf.reshape(shares, [replicas, count, share])
        return tf.reshape(tf.transpose(columns, [1, 0, 2]), [count, replicas * share])[:, :width]


_FIRST_GROUP_KEY = 1 << 20  # far from the keys that TensorFlow counts up from 1


def host_groups(devices, collective_keys, options, ranks, worker_index: int, num_workers: int) -> list[HostGroup]:
    """Returns the `HostGroup` of every local replica.

    Args:
      devices: of the local replicas.
      collective_keys: the strategy's `CollectiveKeys`.
      options: communication options of the strategy.
      ranks: `group_ranks.Ranks` of the local replicas.
      worker_index, num_workers: of this process among the hosts.
    """
    groups = []
    for index, device in enumerate(devices):
        local_key = _FIRST_GROUP_KEY + worker_index
        across_key = _FIRST_GROUP_KEY + num_workers + index
        local = _launcher(local_key, len(devices), collective_keys, device, options)
        across = _launcher(across_key, num_workers, collective_keys, device, options)
        groups.append(
            HostGroup(Group(local, len(devices), ranks.host[index]), Group(across, num_workers, ranks.across[index]))
        )
    return groups


def _launcher(key, size, collective_keys, device, options):
    # CollectiveKeys numbers groups in the order of creation, which differs between hosts; these are known to all.
    instances = collective_keys._instance_key_table.setdefault(key, {})
    instances.setdefault(device, cross_device_utils.INSTANCE_KEY_START_NUMBER)
    return cross_device_utils.CollectiveReplicaLauncher(key, size, collective_keys, device, options)
