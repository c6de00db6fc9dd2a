"""Ranks within groups, and how hosts of several replicas share what they send."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.distribute.group import Collectives, Group, HostGroup
from dqgan_tf.distribute.group_ranks import addresses, ranks, workers_by_rank

TWO = [f"/job:worker/replica:0/task:0/device:CPU:{i}" for i in range(2)]


class TestRanks:
    def test_one_process(self):
        assert ranks({}, None, TWO) == ([0, 1], [0, 1], [0, 0])

    def test_names_are_ordered_as_text(self):
        cluster = {"worker": [f"host{i}:1" for i in range(12)]}
        found = [ranks(cluster, ("worker", index), TWO[:1]).all[0] for index in range(12)]
        assert found == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3]  # task:10 and task:11 come before task:2
        assert [ranks(cluster, ("worker", index), TWO[:1]).across[0] for index in range(12)] == found

    def test_a_chief_comes_first_and_replicas_of_a_task_stay_together(self):
        cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
        assert ranks(cluster, ("worker", 0), TWO) == ([2, 3], [0, 1], [1, 1])
        assert ranks(cluster, ("chief", 0), TWO).all == [0, 1]


class TestWorkersByRank:
    def test_names_are_ordered_as_text(self):
        cluster = {"worker": [f"host{i}:1" for i in range(12)]}
        by_rank = workers_by_rank(cluster)
        for index in range(12):
            rank = ranks(cluster, ("worker", index), TWO[:1]).all[0]
            assert by_rank[rank] == index

    def test_the_chief_is_worker_0(self):
        cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
        assert addresses(cluster) == ["a:1", "b:1", "c:1"]
        assert workers_by_rank(cluster) == [0, 1, 2]


class FakeHosts:
    """Two hosts of three replicas in plain Python: what any replica gets is computed from what all would send."""

    HOSTS, REPLICAS = 2, 3

    def __init__(self, values):
        self.values = values  # [hosts, replicas] -> what that replica gives

    def run(self, method):
        """Calls `method(group, value)` for every replica with collectives that see everybody's argument."""
        results = None
        for _ in range(3):  # a collective's inputs are known once everyone's earlier collectives are
            self.sent = {}
            results = [[self._one(method, h, r) for r in range(self.REPLICAS)] for h in range(self.HOSTS)]
            self.before = self.sent
        return results

    def _one(self, method, host, replica):
        local = _Recorded(self, ("local", host), replica, self.REPLICAS)
        across = _Recorded(self, ("across", replica), host, self.HOSTS)
        return method(HostGroup(local, across), self.values[host][replica])


class _Recorded(Collectives):
    def __init__(self, world, group, rank, size):
        self.world, self.group, self.rank, self.size, self.count = world, group, rank, size, 0

    def _exchange(self, value):
        key = (*self.group, self.count)
        self.count += 1
        self.world.sent.setdefault(key, {})[self.rank] = value
        known = getattr(self.world, "before", {}).get(key, {})
        return [known.get(rank, tf.zeros_like(value)) for rank in range(self.size)]

    def begin(self, kind, value, options):
        if kind == "all_gather":
            result = tf.stack(self._exchange(value))
        elif kind == "all_to_all":
            result = tf.stack([rows_of_other[self.rank] for rows_of_other in self._exchange(value)])
        else:
            result = [tf.add_n(self._exchange(one)) for one in value]
        return lambda: result

    def gather_input(self, values, options):
        raise AssertionError("hosts add up, the groups that they are made of do not")


@pytest.fixture
def draw():
    return np.random.default_rng(0)


class TestHostGroup:
    def test_all_gather_gives_every_replica_the_words_of_every_host(self, draw):
        words = draw.standard_normal((2, 7)).astype(np.float32)  # 7 words do not divide among 3 replicas
        world = FakeHosts([[tf.constant(words[host])] * 3 for host in range(2)])
        for rows in world.run(lambda group, value: group.all_gather(value, None)):
            for received in rows:
                np.testing.assert_array_equal(received, words)

    def test_all_to_all_gives_every_replica_the_rows_for_its_host(self, draw):
        rows = draw.standard_normal((2, 2, 7)).astype(np.float32)  # [from host, to host, words]
        world = FakeHosts([[tf.constant(rows[host])] * 3 for host in range(2)])
        for host, received_by_replicas in enumerate(world.run(lambda group, value: group.all_to_all(value, None))):
            for received in received_by_replicas:
                np.testing.assert_array_equal(received, rows[:, host])

    def test_all_reduce_adds_over_hosts_alone(self, draw):
        values = draw.integers(-9, 9, (2, 7)).astype(np.float32)
        world = FakeHosts([[tf.constant(values[host])] * 3 for host in range(2)])
        for rows in world.run(lambda group, value: group.all_reduce([value[:3], value[3:]], None)):
            for received in rows:
                np.testing.assert_array_equal(np.concatenate(received), values.sum(0))

    def test_what_a_host_encodes_is_the_mean_of_its_replicas(self, draw):
        values = draw.integers(-9, 9, (2, 3, 5)).astype(np.float32) * 3
        world = FakeHosts([[tf.constant(one) for one in host] for host in values])
        for host, rows in enumerate(world.run(lambda group, value: group.gather_input([value], None))):
            for received in rows:
                np.testing.assert_array_equal(received[0], values[host].mean(0))

    def test_a_flat_group_encodes_what_it_is_given(self):
        given = [tf.constant([1.0, 2.0])]
        assert Group(None, 4, 0).gather_input(given, None) == given
