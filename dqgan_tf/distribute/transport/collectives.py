"""The collectives of a replica: the contract, and what fulfils it over TensorFlow, between hosts and over TCP."""

import abc
import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dqgan_tf import private_tensorflow
from dqgan_tf.distribute.transport.connection import Connection, aligned, close_all

_PIECE = 1 << 18  # values that an all-reduce adds at a time, 1 MiB
# Up to this size, an all-reduce sends all values to all ranks: one trip instead of two, but more bytes if M > 2.
_SMALL_BYTES = 1 << 12
_SMALL_BYTES_OF_TWO = 1 << 16


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
        results = {"all_gather": lambda: [value], "all_to_all": lambda: [value[0]], "all_reduce": lambda: list(value)}
        return lambda: [tf.identity(tensor) for tensor in results[kind]()]

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
        # R replicas per host: words [W] or [M, W] -> columns of this replica, [..., W / R] -> between hosts: columns of
        # all rows, [rows, W / R] -> inside the host: columns of all replicas, [rows, W].
        reduces = kind == "all_reduce"
        words = tf.concat([tf.reshape(vector, [-1]) for vector in value], 0) if reduces else value
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


class SocketCollectives(Collectives):
    """Every process has one replica, which is a rank; TCP connections of this library send its packets.

    `begin` sends nothing: it adds an operation to the graph that hands the words over to a thread. `finish` adds one
    that waits for the words of the other ranks. Nothing is copied between TensorFlow and the socket. A tag is
    the number of the channel and the number of the collective among those that the channel has run: all processes must
    run a channel's collectives in the same order. It is taken when a graph runs: a process may trace a function once
    more than the others, for a last batch of another size.

    The connections are closed by `close`, when nothing refers to this object any more, or when the interpreter ends:
    what was handed over is sent before, for up to 3 s.

    Args:
      connections: `Connection`, or any object with its methods, by worker index.
      workers: worker index of each rank.
      rank: rank of this replica.
      number: of the channel, equal in all processes.
      owner: the collectives that own the connections, if they are not these; see `of_channel`.

    Attributes:
      last_operation: name of the last operation that was added to a graph, by graph; one for all channels.
    """

    def __init__(
        self,
        connections: Mapping[int, Connection],
        workers: Sequence[int],
        rank: int,
        number: int = 0,
        owner: "SocketCollectives | None" = None,
    ):
        self.size, self.rank = len(workers), rank
        self._connections, self._workers = dict(connections), tuple(workers)
        self._end = owner.close if owner else weakref.finalize(self, close_all, tuple(self._connections.values()))
        others = [k % self.size for k in range(rank + 1, rank + self.size)]
        self._peers = [(other, workers[other]) for other in others]  # (rank, worker), the next rank first
        self._tags = itertools.count(number << 32)
        self.last_operation: weakref.WeakKeyDictionary = owner.last_operation if owner else weakref.WeakKeyDictionary()

    def of_channel(self, number: int) -> "SocketCollectives":
        """Returns the collectives of another channel over the same connections. Channels do not wait for each other."""
        return SocketCollectives(self._connections, self._workers, self.rank, number, owner=self)

    def close(self) -> None:
        """See `connection.close_all`. The collectives fail from now on."""
        self._end()

    def _begin(self, kind: str, value: Any, options: Any) -> Callable[[], list[tf.Tensor]]:
        """Adds the operation that sends to the graph; returns the function that adds the one that receives."""
        timeout = getattr(options, "timeout_seconds", None)
        if kind == "all_reduce":
            return self._begin_all_reduce(timeout, list(value))
        own_row = value if kind == "all_gather" else value[self.rank]
        width = own_row.shape[0]

        def send(array: np.ndarray) -> np.int64:
            tag = next(self._tags)
            for rank, worker in self._peers:
                self._connections[worker].send(tag, array if kind == "all_gather" else array[rank])
            return np.int64(tag)

        (tag,) = self._add_operation(send, [value], [tf.int64])

        def receive(tag: np.int64) -> Any:
            rows = [self._receive(worker, int(tag), width, timeout) for _, worker in self._peers]
            return rows if len(rows) > 1 else rows[0]

        def finish() -> list[tf.Tensor]:
            rows, received = {self.rank: own_row}, self._add_operation(receive, [tag], [tf.float32] * len(self._peers))
            for (rank, _), row in zip(self._peers, received, strict=True):
                rows[rank] = tf.ensure_shape(row, [width])
            return [rows[rank] for rank in range(self.size)]

        return finish

    def _begin_all_reduce(self, timeout: float | None, values: list[tf.Tensor]) -> Callable[[], list[tf.Tensor]]:
        """Adds up S bytes of every rank.

        Small vectors: every rank sends all values to all ranks, and each rank adds them; it sends (M-1) S bytes. Large
        vectors: reduce-scatter, then all-gather; each rank sends 2(M-1)/M S bytes.

        Values are added in the order of ranks, piece by piece: a sum is sent while later pieces arrive.
        """
        shapes = [value.shape for value in values]
        values = [tf.reshape(value, [-1]) for value in values]
        sizes = [value.shape[0] for value in values]
        scatters = 4 * sum(sizes) > (_SMALL_BYTES_OF_TWO if self.size == 2 else _SMALL_BYTES)
        # pieces[vector][rank]: the slices that the rank adds; one slice of everything if `scatters` is false.
        pieces = [[_pieces(n, k, self.size) if scatters else [slice(0, n)] for k in range(self.size)] for n in sizes]

        def send(*arrays: np.ndarray) -> np.int64:
            tag = next(self._tags)
            for array, of_ranks in zip(arrays, pieces, strict=True):
                for rank, worker in self._peers:
                    for piece in of_ranks[rank]:
                        self._connections[worker].send(tag, array[piece])
            return np.int64(tag)

        (tag,) = self._add_operation(send, values, [tf.int64])

        def add(tag: np.int64, *arrays: np.ndarray) -> Any:
            sums = [aligned(4 * array.size).view(np.float32) for array in arrays]
            for array, total, of_ranks in zip(arrays, sums, pieces, strict=True):
                self._add_pieces(array, total, of_ranks[self.rank], int(tag), timeout, scatters)
            if scatters:
                for total, of_ranks in zip(sums, pieces, strict=True):
                    self._gather_pieces(total, of_ranks, int(tag), timeout)
            return sums if len(sums) > 1 else sums[0]

        def finish() -> list[tf.Tensor]:
            totals = self._add_operation(add, [tag, *values], [tf.float32] * len(values))
            return [tf.reshape(tf.ensure_shape(t, [n]), s) for t, n, s in zip(totals, sizes, shapes, strict=True)]

        return finish

    def _add_pieces(
        self, array: np.ndarray, total: np.ndarray, pieces: list[slice], tag: int, timeout: float | None, sends: bool
    ) -> None:
        """Writes the sums over the ranks of this rank's pieces into `total`, and sends them if `sends`."""
        for piece in pieces:
            added = self._add_ranks(array[piece], tag, timeout)
            if sends:
                for _, worker in self._peers:
                    self._connections[worker].send(tag, added)
            total[piece] = added  # a copy: TensorFlow may reuse the result's memory before `added` is sent

    def _gather_pieces(self, total: np.ndarray, of_ranks: list[list[slice]], tag: int, timeout: float | None) -> None:
        """Writes the sums of the other ranks' pieces into `total` as they arrive."""
        for rank, worker in self._peers:
            for piece in of_ranks[rank]:
                total[piece] = self._receive(worker, tag, total[piece].size, timeout)

    def _add_ranks(self, values: np.ndarray, tag: int, timeout: float | None) -> np.ndarray:
        """Returns the sum of `values` and the values of the other ranks, in memory that nothing else uses."""
        parts = {rank: self._receive(worker, tag, values.size, timeout) for rank, worker in self._peers}
        parts[self.rank] = values
        total = parts[1 if self.rank == 0 else 0]  # a received array, which may be overwritten
        np.add(parts[0], parts[1], out=total)
        for rank in range(2, self.size):
            total += parts[rank]
        return total

    def _receive(self, worker: int, tag: int, count: int, timeout: float | None) -> np.ndarray:
        return self._connections[worker].receive(tag, 4 * count, timeout).view(np.float32)

    def _add_operation(
        self, function: Callable, inputs: Sequence[tf.Tensor], dtypes: Sequence[tf.DType]
    ) -> list[tf.Tensor]:
        """Adds an operation that calls a Python function, after the last such operation of this graph.

        All processes execute these operations in the same order. Otherwise two processes with few threads could
        deadlock, each waiting for the packet that the other sends later. TensorFlow's automatic control dependencies
        (2.21.0) would put the operations of several replicas of a process into one order, too, and the replicas would
        wait for each other: hence one replica per process.

        Args:
          function: returns arrays of `dtypes`, or the only one.
          inputs: tensors; the function receives their arrays.
          dtypes: of the results.
        """
        graph: Any = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        last = None if graph is None else self.last_operation.get(graph)
        with tf.control_dependencies([] if last is None else [graph.get_operation_by_name(last)]):
            plain = tf.autograph.experimental.do_not_convert(function)
            results = tf.numpy_function(plain, inputs, list(dtypes))
        results = [results] if tf.is_tensor(results) else results
        if graph is not None:
            self.last_operation[graph] = results[0].op.name
        return results


def _pieces(size: int, rank: int, count: int) -> list[slice]:
    """Returns the range of `rank`, one of `count` equal ranges of a vector, as slices of at most `_PIECE` values."""
    start, stop = rank * size // count, (rank + 1) * size // count
    return [slice(first, min(first + _PIECE, stop)) for first in range(start, stop, _PIECE)]
