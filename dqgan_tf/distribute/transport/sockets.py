"""Packets by TCP connections of this library, between processes with one CPU replica each."""

import itertools
import weakref
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from dqgan_tf.distribute.transport.connection import aligned
from dqgan_tf.distribute.transport.contract import Collectives
from dqgan_tf.distribute.transport.endpoint import Endpoint

_NO_RESULT = np.float32(0)  # an operation must return a tensor
_PIECE = 1 << 18  # values that an all-reduce adds at a time, 1 MiB
# Up to this size an all-reduce sends everything to everybody: one trip instead of two, but more bytes. Two workers send
# the same number of bytes either way.
_SMALL_BYTES = 1 << 12
_SMALL_BYTES_OF_TWO = 1 << 16


class SocketCollectives(Collectives):
    """The collectives of the only replica of a process.

    Sending takes no time of the graph: `begin` hands the words over and returns, and a thread sends them. `finish`
    waits for the words of the others. Nothing is copied between TensorFlow and the socket. Each call of `begin` takes
    the next tag while the graph is built: all processes must build the same calls in the same order.

    Args:
      endpoint: of this process.
      workers: the worker index of each rank.
      rank: of this replica.
    """

    def __init__(self, endpoint: Endpoint, workers: Sequence[int], rank: int):
        self.size, self.rank = len(workers), rank
        self._endpoint = endpoint
        others = [k % self.size for k in range(rank + 1, rank + self.size)]
        self._peers = [(other, workers[other]) for other in others]  # (rank, worker), the next rank first
        self._tags = itertools.count()
        self._last_operation = weakref.WeakKeyDictionary()  # graph -> name of the operation that the next one follows

    def _begin(self, kind, value, options):
        tag, timeout = next(self._tags), getattr(options, "timeout_seconds", None)
        if kind == "all_reduce":
            return self._begin_all_reduce(tag, timeout, list(value))
        own = value if kind == "all_gather" else value[self.rank]
        width = own.shape[0]

        def send(array):
            for rank, worker in self._peers:
                self._endpoint.send(worker, tag, array if kind == "all_gather" else array[rank])
            return _NO_RESULT

        def receive():
            rows = [self._receive(worker, tag, width, timeout) for _, worker in self._peers]
            return rows if len(rows) > 1 else rows[0]

        def finish():
            rows = {self.rank: own}
            for (rank, _), row in zip(self._peers, self._run(receive, [], len(self._peers)), strict=True):
                rows[rank] = tf.ensure_shape(row, [width])
            return [rows[rank] for rank in range(self.size)]

        self._run(send, [value], 1)
        return finish

    def _begin_all_reduce(self, tag, timeout, values):
        """Sends small vectors to everybody, who adds them. Of larger ones each rank adds one range and sends the sums.

        Of S bytes a worker sends 2 (M - 1) / M S in the second way, (M - 1) S in the first. Sums are formed in the
        order of ranks, piece by piece: finished pieces leave while others arrive.
        """
        shapes = [value.shape for value in values]
        values = [tf.reshape(value, [-1]) for value in values]
        sizes = [value.shape[0] for value in values]
        scatters = 4 * sum(sizes) > (_SMALL_BYTES_OF_TWO if self.size == 2 else _SMALL_BYTES)
        # pieces[vector][rank]: the slices that the rank adds; everything in one slice where nothing is scattered.
        pieces = [[_pieces(n, k, self.size) if scatters else [slice(0, n)] for k in range(self.size)] for n in sizes]

        def send(*arrays):
            for array, of_ranks in zip(arrays, pieces, strict=True):
                for rank, worker in self._peers:
                    for piece in of_ranks[rank]:
                        self._endpoint.send(worker, tag, array[piece])
            return _NO_RESULT

        def add(*arrays):
            sums = [aligned(4 * array.size).view(np.float32) for array in arrays]
            for array, total, of_ranks in zip(arrays, sums, pieces, strict=True):
                for piece in of_ranks[self.rank]:
                    added = self._add_ranks(array[piece], tag, timeout)
                    if scatters:
                        for _, worker in self._peers:
                            self._endpoint.send(worker, tag, added)
                    total[piece] = added  # a copy: TensorFlow may reuse the result's memory before `added` has left
            if scatters:
                for total, of_ranks in zip(sums, pieces, strict=True):
                    for rank, worker in self._peers:
                        for piece in of_ranks[rank]:
                            total[piece] = self._receive(worker, tag, total[piece].size, timeout)
            return sums if len(sums) > 1 else sums[0]

        def finish():
            totals = self._run(add, values, len(values))
            return [tf.reshape(tf.ensure_shape(t, [n]), s) for t, n, s in zip(totals, sizes, shapes, strict=True)]

        self._run(send, values, 1)
        return finish

    def _add_ranks(self, own, tag, timeout):
        """Returns own + what the other ranks have sent for the same values, in memory that nobody else uses."""
        parts = {rank: self._receive(worker, tag, own.size, timeout) for rank, worker in self._peers}
        parts[self.rank] = own
        total = parts[1 if self.rank == 0 else 0]  # a received array, hence free to be overwritten
        np.add(parts[0], parts[1], out=total)
        for rank in range(2, self.size):
            total += parts[rank]
        return total

    def _receive(self, worker, tag, count, timeout):
        return self._endpoint.receive(worker, tag, 4 * count, timeout).view(np.float32)

    def _run(self, function, inputs, num_results):
        """Adds an operation that calls a Python function, after the previous one of this graph.

        One order for all processes: with few threads an operation could otherwise wait for a packet that another
        process sends only after what it waits for itself. Several replicas in one process would be put into one order
        too, by TensorFlow's automatic control dependencies (2.21.0), and block each other: hence one replica a process.

        Args:
          function: returns `num_results` float32 arrays.
          inputs: tensors, whose arrays the function receives.
          num_results: how many.
        """
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        known = graph is not None and graph in self._last_operation
        with tf.control_dependencies([graph.get_operation_by_name(self._last_operation[graph])] if known else []):
            plain = tf.autograph.experimental.do_not_convert(function)
            results = tf.numpy_function(plain, inputs, [tf.float32] * num_results)
        results = [results] if tf.is_tensor(results) else results
        if graph is not None:
            self._last_operation[graph] = results[0].op.name
        return results


def _pieces(size, rank, count):
    """The range of `rank` among `count` in a vector, as slices of at most `_PIECE` values."""
    start, stop = rank * size // count, (rank + 1) * size // count
    return [slice(first, min(first + _PIECE, stop)) for first in range(start, stop, _PIECE)]
