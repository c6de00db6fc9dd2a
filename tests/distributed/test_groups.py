"""Which transport is chosen, and which groups that makes."""

import pytest
import tensorflow as tf

from dqgan_tf.distribute import groups
from dqgan_tf.distribute.group import Group
from dqgan_tf.distribute.group_ranks import ranks
from dqgan_tf.distribute.options import CompressionOptions

TWO_WORKERS = {"worker": ["a:1", "b:1"]}
CPUS = [f"/job:worker/replica:0/task:1/device:CPU:{i}" for i in range(3)]
GPUS = [f"/job:worker/replica:0/task:1/device:GPU:{i}" for i in range(3)]


def made(devices, cluster=None, implementation="AUTO"):
    cluster = TWO_WORKERS if cluster is None else cluster
    options = CompressionOptions(implementation=tf.distribute.experimental.CommunicationImplementation[implementation])
    index = len(cluster.get("worker", [""])[:2]) - 1
    task = ("worker", index) if cluster else None
    devices = [device.replace("task:1", f"task:{index}") for device in devices]
    launchers = [f"launcher {i}" for i in range(len(devices))]
    return groups.Groups(devices, launchers, None, options, cluster, ranks(cluster, task, devices), index)


@pytest.mark.parametrize(
    ("arguments", "transport", "expected"),
    [
        ((CPUS[:1],), "auto", True),
        ((CPUS[:2],), "auto", False),
        ((GPUS[:1],), "auto", False),
        ((GPUS[:1],), "sockets", True),
        ((CPUS[:1],), "collectives", False),
        ((CPUS[:1], {}), "auto", False),
        ((CPUS[:1], {}), "sockets", False),
        ((CPUS[:1], {"worker": ["a:1"]}), "sockets", False),
        ((CPUS[:1], None, "RING"), "auto", False),
        ((GPUS[:1], None, "NCCL"), "auto", False),
        ((CPUS[:1], None, "RING"), "sockets", True),
    ],
)
def test_choice(arguments, transport, expected):
    assert made(*arguments).uses_sockets(transport) is expected


def test_unknown_transport():
    with pytest.raises(ValueError, match="must be one of auto, sockets, collectives. Received: transport=udp"):
        made(CPUS[:1]).uses_sockets("udp")


def test_sockets_are_for_one_replica_a_process():
    with pytest.raises(ValueError, match="this one has 3: use the transport collectives"):
        made(CPUS).uses_sockets("sockets")


def test_flat_groups_of_several_local_replicas_are_tensorflows():
    flat = made(CPUS[:2]).flat("auto")
    assert [type(group) for group in flat] == [Group, Group]
    assert [(group.launcher, group.size, group.rank) for group in flat] == [("launcher 0", 4, 2), ("launcher 1", 4, 3)]


def test_flat_group_over_sockets(monkeypatch):
    opened = []
    monkeypatch.setattr(groups.endpoint, "of_process", lambda *place: opened.append(place))
    made_groups = made(CPUS[:1], {"worker": [f"h{i}:1" for i in range(11)]})
    [group] = made_groups.flat("auto")
    assert (group.size, group.rank) == (11, 1)
    assert made_groups.flat("sockets") == [group]  # tags are counted once a process
    assert opened == [(tuple(f"h{i}:1" for i in range(11)), 1)]
