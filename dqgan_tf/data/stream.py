"""A function (step, replica id) -> batch, laid out as the endless dataset of one worker."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

BatchAt = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Who takes how much from which step on.

    per_replica_batch_size: samples per batch.
    num_replicas: replicas of all workers together.
    replica_ids: this worker's global replica ids.
    start_step: the first step.
    """

    per_replica_batch_size: int
    num_replicas: int
    replica_ids: tuple[int, ...]
    start_step: int = 0

    def __post_init__(self):
        for field, least in (("per_replica_batch_size", 1), ("num_replicas", 1), ("start_step", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"`{field}` must be {least} or more. Received: {field}={getattr(self, field)}")
        inside = all(0 <= replica < self.num_replicas for replica in self.replica_ids)
        if not self.replica_ids or not inside or len(set(self.replica_ids)) != len(self.replica_ids):
            raise ValueError(
                f"`replica_ids` must be one or more different ids below num_replicas={self.num_replicas}. "
                f"Received: replica_ids={list(self.replica_ids)}"
            )


def build(schedule: Schedule, batch_at: BatchAt) -> tf.data.Dataset:
    """Returns batches in the order (start_step, replica_ids[0]), (start_step, replica_ids[1]), ...

    Args:
      schedule: steps and replicas.
      batch_at: (step i64 [], replica id i64 []) -> batch; a pure function.
    """
    local = len(schedule.replica_ids)
    replicas = tf.constant(schedule.replica_ids, tf.int64)

    def element(position):
        return batch_at(position // local, replicas[position % local])

    positions = tf.data.Dataset.counter(start=schedule.start_step * local)
    batches = positions.map(element, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE)
