"""The collectives of a replica: the contract of every transport, and TensorFlow's collectives."""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from dqgan_tf import private_tensorflow


class Collectives(abc.ABC):
    """Exchange of packets with the other replicas. `tests/contracts/collectives_contract.py` tests each subclass.

    size: M, the number of ranks. Each rank encodes and sends packets of its own.
    rank: this replica's rank. Rows are in the order of ranks.
    replicas_per_rank: number of replicas that share this rank. They encode the same values, and each sends its share of
      the words.
    is_hierarchical: whether a rank is a host; else it is a replica.
    """

    size: int
    rank: int
    replicas_per_rank = 1
    is_hierarchical = False

    def begin(self, kind: str, value: Any, options: Any) -> Callable[[], list[tf.Tensor]]:
        """Starts a collective and returns a function, `finish`, which waits for its result, a list of tensors.

        Packets are sent between the two calls. All replicas must begin the same collectives in the same order and
        finish them in the same order, each once.

        | kind | value | result |
        |---|---|---|
        | `all_gather` | words, float32 [W] | M rows [W], row i from rank i, bit for bit |
        | `all_to_all` | rows, float32 [M, W], row k for rank k | M rows [W], row i from rank i, bit for bit |
        | `all_reduce` | list of float32 tensors | their sums over all ranks, equal bits on all ranks |

        Args:
          kind: see the table.
          value: see the table; shapes are static and equal on all replicas.
          options: `tf.distribute.experimental.CommunicationOptions` of this call, or None.
        """
        if self.size > 1:
            return self._begin(kind, value, options)
        own = {"all_gather": lambda: [value], "all_to_all": lambda: [value[0]], "all_reduce": lambda: list(value)}
        return lambda: [tf.identity(tensor) for tensor in own[kind]()]

    def exchange(self, kind: str, value: Any, options: Any) -> list[tf.Tensor]:
        """Starts a collective and returns its result; arguments as of `begin`."""
        return self.begin(kind, value, options)()

    def rank_mean(self, values: Sequence[tf.Tensor], options: Any) -> list[tf.Tensor]:
        """Returns what this rank encodes: the exact means of `values` over the replicas that share the rank."""
        return list(values)

    @abc.abstractmethod
    def _begin(self, kind: str, value: Any, options: Any) -> Callable[[], list[tf.Tensor]]:
        """`begin` among at least two ranks."""


class TensorFlowCollectives(Collectives):
    """Every replica is a rank; TensorFlow's collectives send its packets.

    Args:
      launcher: this replica's `CollectiveReplicaLauncher`.
      size, rank: see `Collectives`.
      implementation: `RING` or `NCCL`; `AUTO`: as in the options of a call, else TensorFlow's choice.
    """

    def __init__(self, launcher: Any, size: int, rank: int, implementation: str = "AUTO"):
        self.size, self.rank = size, rank
        self._launcher = launcher
        self._options = private_tensorflow.CommunicationOptions(implementation=implementation)

    def _begin(self, kind: str, value: Any, options: Any) -> Callable[[], list[tf.Tensor]]:
        options = options.merge(self._options) if options is not None else self._options
        if kind == "all_reduce":
            # Packets hold the last weights first. CollectiveAllReduce sends in that order, too (TensorFlow 2.21.0), so
            # the sums have the bits of an exact reduction without a channel.
            sums = self._launcher.batch_all_reduce([list(value)], options)
            return lambda: sums
        if kind == "all_gather":
            rows = private_tensorflow.all_gather(self._launcher, value[tf.newaxis], options)
        else:
            rows = private_tensorflow.all_to_all(self._launcher, value, options)
        return lambda: tf.unstack(rows, self.size)


class HostCollectives(Collectives):
    """Every host is a rank. Its replicas compute their exact mean and encode it; each sends a share of the words.

    A replica sends its share to the replicas of its local index on the other hosts. The replicas of a host then gather
    all shares. So a host sends each word once, whatever the number of its replicas.

    Args:
      local: collectives of this host's replicas.
      across: collectives of the replicas of this local index on all hosts.
    """

    is_hierarchical = True

    def __init__(self, local: Collectives, across: Collectives):
        self.size, self.rank, self.replicas_per_rank = across.size, across.rank, local.size
        self._local, self._across = local, across

    def rank_mean(self, values: Sequence[tf.Tensor], options: Any) -> list[tf.Tensor]:
        return [total / self._local.size for total in self._local.exchange("all_reduce", values, options)]

    def _begin(self, kind: str, value: Any, options: Any) -> Callable[[], list[tf.Tensor]]:
        reduces = kind == "all_reduce"
        words = tf.concat([tf.reshape(vector, [-1]) for vector in value], 0) if reduces else value  # [W] or [M, W]
        width, replicas, rows = words.shape[-1], self._local.size, 1 if reduces else self.size
        share = -(-width // replicas)
        padding = [[0, 0]] * (words.shape.rank - 1) + [[0, share * replicas - width]]
        start = self._local.rank * share
        columns = tf.pad(words, padding)[..., start : start + share]
        finish_across = self._across.begin(kind, [columns] if reduces else columns, options)

        def finish() -> list[tf.Tensor]:
            received = tf.concat(finish_across(), 0)  # this replica's share of all rows, [rows * share]
            shares = tf.stack(self._local.exchange("all_gather", received, options))
            table = tf.transpose(tf.reshape(shares, [replicas, rows, share]), [1, 0, 2])
            table = tf.reshape(table, [rows, replicas * share])[:, :width]
            if not reduces:
                return tf.unstack(table)
            vectors = tf.split(table[0], [vector.shape.num_elements() for vector in value])
            return [tf.reshape(vector, like.shape) for vector, like in zip(vectors, value, strict=True)]

        return finish
