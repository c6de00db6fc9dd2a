"""A replica's place among those that exchange packets, and the collectives of that group."""

import abc
import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from dqgan_tf.distribute import collectives


class Collectives(abc.ABC):
    """The collectives of a group, in two halves: between them the packets travel.

    size: M, how many encode.
    rank: of this replica, in the order in which collectives concatenate.
    """

    size: int
    rank: int

    @abc.abstractmethod
    def begin(self, kind: str, value, options) -> Callable:
        """Launches a collective and returns a function that returns its result.

        Args:
          kind: `all_gather`, of words, float32 [W], to M rows [W], row i from rank i, as bits; `all_to_all`, of rows,
            float32 [M, W], row k for rank k, to M rows, row i from rank i; `all_reduce`, of a list of tensors, to their
            exact sums.
          value: the argument.
          options: communication options.
        """

    @abc.abstractmethod
    def gather_input(self, values: Sequence[tf.Tensor], options) -> list[tf.Tensor]:
        """Returns what this replica encodes, made of its own values."""

    def all_gather(self, words: tf.Tensor, options):
        """Both halves of an all-gather."""
        return self.begin("all_gather", words, options)()

    def all_to_all(self, rows: tf.Tensor, options):
        """Both halves of an all-to-all."""
        return self.begin("all_to_all", rows, options)()

    def all_reduce(self, values: Sequence[tf.Tensor], options) -> list[tf.Tensor]:
        """Both halves of an exact sum."""
        return self.begin("all_reduce", values, options)()


@dataclasses.dataclass(frozen=True, eq=False)
class Group(Collectives):
    """All replicas, each sending for itself, through TensorFlow's collectives.

    launcher: this replica's `CollectiveReplicaLauncher`.
    size, rank: see `Collectives`.
    """

    launcher: object
    size: int
    rank: int

    prefix = ""
    shares = 1  # in how many the words of one payload are sent

    def gather_input(self, values, options):
        """Returns its own values."""
        del options
        return list(values)

    def begin(self, kind, value, options):
        """See `Collectives.begin`; rows come as one tensor [M, W]."""
        result = _KINDS[kind](self.launcher, value, self.size, options)
        return lambda: result


_KINDS = {
    "all_gather": collectives.all_gather,
    "all_to_all": collectives.all_to_all,
    "all_reduce": collectives.all_reduce,
}


@dataclasses.dataclass(frozen=True, eq=False)
class HostGroup(Collectives):
    """Hosts of several local replicas: they add up exactly inside, and send compressed between hosts.

    All replicas of a host encode the same mean, to the same bits, and every one sends its share of the words to the
    replicas of the same local index elsewhere; inside the host the shares are gathered again. A host sends each word
    once, whatever the number of its replicas.

    local: the group of this host's replicas.
    across: the group of the replicas of this local index on all hosts; M and rank of encoding are its.
    """

    local: Group
    across: Collectives

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

    def begin(self, kind, value, options):
        """See `Collectives.begin`, over hosts; rows come as one tensor [M, W].

        The share of a local replica is a slice of the columns, with `all_reduce` of all vectors in a row.
        """
        if kind == "all_gather":
            return self._begin(kind, value[tf.newaxis], lambda share: share[0], self.size, options)
        if kind == "all_to_all":
            return self._begin(kind, value, lambda share: share, self.size, options)
        sizes = [one.shape[0] for one in value]
        row = tf.concat(list(value), 0)[tf.newaxis]
        finish = self._begin(kind, row, lambda share: [share[0]], 1, options)
        return lambda: tf.split(finish()[0], sizes)

    def _begin(self, kind, rows, argument, count, options):
        """Begins on this replica's columns of `rows` [k, W]; the function returned puts all columns together."""
        replicas, width = self.local.size, rows.shape[1]
        share = -(-width // replicas)
        padded = tf.pad(rows, [[0, 0], [0, share * replicas - width]])
        mine = padded[:, self.local.rank * share : (self.local.rank + 1) * share]
        exchanged = self.across.begin(kind, argument(mine), options)

        def finish():
            received = tf.concat([tf.reshape(row, [-1]) for row in _rows(exchanged())], 0)
            shares = self.local.all_gather(received, options)
            columns = tf.reshape(shares, [replicas, count, share])
            return tf.reshape(tf.transpose(columns, [1, 0, 2]), [count, replicas * share])[:, :width]

        return finish


def _rows(result):
    return result if isinstance(result, list) else [result]
