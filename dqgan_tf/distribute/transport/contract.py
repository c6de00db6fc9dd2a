"""The contract of every transport: three collectives, each with a function that starts it and one that ends it."""

import abc
from collections.abc import Callable, Sequence

import tensorflow as tf


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

    def begin(self, kind: str, value, options) -> Callable[[], list[tf.Tensor]]:
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

    def exchange(self, kind: str, value, options) -> list[tf.Tensor]:
        """Starts a collective and returns its result; arguments as of `begin`."""
        return self.begin(kind, value, options)()

    def rank_mean(self, values: Sequence[tf.Tensor], options) -> list[tf.Tensor]:
        """Returns what this rank encodes: the exact means of `values` over the replicas that share the rank."""
        del options
        return list(values)

    @abc.abstractmethod
    def _begin(self, kind, value, options):
        """`begin` among at least two ranks."""
