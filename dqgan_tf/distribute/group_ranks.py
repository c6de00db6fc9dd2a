"""Which rank TensorFlow gives each replica in a collective group.

A group's members are ranked by the text of their device names (read at TensorFlow 2.21.0, and seen: from 11 workers
on, rank 2 is task 10).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

_JOBS = ("chief", "worker")


class Ranks(NamedTuple):
    """Of one process's replicas, in replica order.

    all: among all replicas of all processes.
    host: among the replicas of this process.
    across: among the replicas of the same local index in all processes.
    """

    all: list[int]
    host: list[int]
    across: list[int]


def ranks(cluster: Mapping[str, Sequence[str]], task: tuple[str, int] | None, local_devices: Sequence[str]) -> Ranks:
    """Returns the ranks of the local replicas.

    Args:
      cluster: addresses by job, empty for a single process.
      task: (job, index) of this process, None for a single process.
      local_devices: full names or suffixes such as `/device:CPU:0`, in replica order; the same count on every task.
    """
    suffixes = [device[device.index("/device:") :] for device in local_devices]
    tasks = _tasks(cluster) or [None]
    everyone = sorted(_name(one, suffix) for one in tasks for suffix in suffixes)
    return Ranks(
        [everyone.index(_name(task, suffix)) for suffix in suffixes],
        [sorted(suffixes).index(suffix) for suffix in suffixes],
        [sorted(_name(one, suffix) for one in tasks).index(_name(task, suffix)) for suffix in suffixes],
    )


def addresses(cluster: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the workers' addresses in the order of their indices: the chief, then the workers."""
    return [address for job in _JOBS for address in cluster.get(job, ())]


def workers_by_rank(cluster: Mapping[str, Sequence[str]]) -> list[int]:
    """Returns the worker index of every rank among replicas of one local index."""
    names = [_name(task, "") for task in _tasks(cluster)]
    return [names.index(name) for name in sorted(names)]


def _tasks(cluster):
    return [(job, index) for job in _JOBS for index in range(len(cluster.get(job, ())))]


def _name(task, suffix):
    job, index = task or ("localhost", 0)
    return f"/job:{job}/replica:0/task:{index}{suffix}"
