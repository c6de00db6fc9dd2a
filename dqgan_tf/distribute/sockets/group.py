"""The collectives of a group over the sockets of its processes."""

import itertools
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from dqgan_tf.distribute.group import Collectives
from dqgan_tf.distribute.sockets.connection import aligned
from dqgan_tf.distribute.sockets.endpoint import Endpoint

_NOTHING = np.float32(0)  # an operation must return something
_PIECE = 1 << 18  # values that an all-reduce adds up at a time, 1 MiB
_SMALL_BYTES = 1 << 12  # up to here an all-reduce sends everything to everybody: one trip instead of two, more bytes
_SMALL_BYTES_OF_TWO = 1 << 16  # two workers send the same number of bytes either way


class SocketGroup(Collectives):
    """As `group.Group`, for the only replica in each of several processes, on CPUs.

    Sending takes no time of the graph: `begin` hands the words over and returns, a thread sends them, and what it
    returns waits for the others'. Nothing is copied between TensorFlow and the socket. Every call of `begin` while a
    graph is built has its own tag: all processes must build the same calls in the same order.

    Args:
      endpoint: of this process.
      workers: the process of every rank.
      rank: of this replica.
    """

    prefix = ""
    shares = 1

    def __init__(self, endpoint: Endpoint, workers: Sequence[int], rank: int):
        self.size = len(workers)
        self.rank = rank
        self._endpoint = endpoint
        self._peers = [(k % self.size, workers[k % self.size]) for k in range(rank + 1, rank + self.size)]
        self._tags = itertools.count()
        self._last = weakref.WeakKeyDictionary()  # graph -> name of the operation that the next one waits for

    def gather_input(self, values: Sequence[tf.Tensor], options) -> list[tf.Tensor]:
        """Returns what this replica encodes: its own values."""
        del options
        return list(values)

    def begin(self, kind: str, value, options) -> Callable:
        """See `group.Collectives.begin`. `all_gather` and `all_to_all` give a list of M rows instead of [M, W]."""
        tag, timeout = next(self._tags), getattr(options, "timeout_seconds", None)
        if kind == "all_reduce":
            return self._begin_all_reduce(tag, timeout, list(value))
        own = value if kind == "all_gather" else value[self.rank]
        count = own.shape[0]

        def send(array):
            for rank, worker in self._peers:
                self._endpoint.send(worker, tag, array if kind == "all_gather" else array[rank])
            return _NOTHING

        def receive():
            rows = [self._receive(worker, tag, count, timeout) for _, worker in self._peers]
            return rows if len(rows) > 1 else rows[0]

        def finish():
            rows = {self.rank: own}
            received = self._run(receive, [], len(self._peers))
            rows |= {rank: tf.ensure_shape(row, [count]) for (rank, _), row in zip(self._peers, received, strict=True)}
            return [rows[rank] for rank in range(self.size)]

        self._run(send, [value], 1)
        return finish

    def _begin_all_reduce(self, tag, timeout, values):
        """Small vectors go to everybody, who adds them up; of others each rank adds up a range and sends the sums.

        Of S bytes a worker sends 2 (M - 1) / M S; (M - 1) S where they are small.

        Sums are formed in the order of the ranks, piece by piece: what is added up leaves while more arrives.
        """
        shapes = [value.shape for value in values]
        values = [tf.reshape(value, [-1]) for value in values]
        sizes = [value.shape[0] for value in values]
        scatter = 4 * sum(sizes) > (_SMALL_BYTES_OF_TWO if self.size == 2 else _SMALL_BYTES)
        pieces = [[_pieces(n, k, self.size) if scatter else [slice(0, n)] for k in range(self.size)] for n in sizes]

        def send(*arrays):
            for array, of_ranks in zip(arrays, pieces, strict=True):
                for rank, worker in self._peers:
                    for piece in of_ranks[rank]:
                        self._endpoint.send(worker, tag, array[piece])
            return _NOTHING

        def add_up(*arrays):
            sums = [aligned(4 * array.size).view(np.float32) for array in arrays]
            for array, total, of_ranks in zip(arrays, sums, pieces, strict=True):
                for piece in of_ranks[self.rank]:
                    added = self._add(array[piece], tag, timeout)
                    for _, worker in self._peers if scatter else ():
                        self._endpoint.send(worker, tag, added)
                    total[piece] = added  # a copy: TensorFlow may write to what is returned before all has left
            for total, of_ranks in zip(sums, pieces, strict=True) if scatter else ():
                for rank, worker in self._peers:
                    for piece in of_ranks[rank]:
                        total[piece] = self._receive(worker, tag, total[piece].size, timeout)
            return sums if len(sums) > 1 else sums[0]

        def finish():
            totals = self._run(add_up, values, len(values))
            return [tf.reshape(tf.ensure_shape(t, [n]), s) for t, n, s in zip(totals, sizes, shapes, strict=True)]

        self._run(send, values, 1)
        return finish

    def _add(self, own, tag, timeout):
        """Returns the sum over ranks of what they have sent for `own`, in memory that nobody else has."""
        parts = {rank: self._receive(worker, tag, own.size, timeout) for rank, worker in self._peers}
        parts[self.rank] = own
        total = parts[1 if self.rank == 0 else 0]  # received, thus free to write to
        np.add(parts[0], parts[1], out=total)
        for rank in range(2, self.size):
            total += parts[rank]
        return total

    def _receive(self, worker, tag, count, timeout):
        return self._endpoint.receive(worker, tag, 4 * count, timeout).view(np.float32)

    def _run(self, function, inputs, count):
        """Calls a Python function, which returns `count` float32 arrays, as an operation after the one before it.

        All processes wait in one order: with few threads one could otherwise wait for what another one, waiting
        itself, has not sent. Several replicas of one process would be put into one order too, by TensorFlow's automatic
        control dependencies (2.21.0), and wait for each other: a process has one `SocketGroup`.
        """
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        last = [graph.get_operation_by_name(self._last[graph])] if graph is not None and graph in self._last else []
        plain = tf.autograph.experimental.do_not_convert(function)
        with tf.control_dependencies(last):
            results = tf.numpy_function(plain, inputs, [tf.float32] * count)
        results = [results] if tf.is_tensor(results) else results
        if graph is not None:
            self._last[graph] = results[0].op.name
        return results


def _pieces(size, rank, count):
    """The range of `rank` among `count` in a vector, as slices of at most `_PIECE` values."""
    start, stop = rank * size // count, (rank + 1) * size // count
    return [slice(first, min(first + _PIECE, stop)) for first in range(start, stop, _PIECE)]
