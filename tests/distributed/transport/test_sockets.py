"""The collectives over sockets, between threads that play the processes."""

import concurrent.futures
import contextlib
import socket

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.distribute.transport.collectives import HostCollectives, SocketCollectives, TensorFlowCollectives
from dqgan_tf.distribute.transport.connection import Connection
from tests.contracts.collectives_contract import CollectivesContract

WORKERS = {2: [0, 1], 3: [2, 0, 1], 4: [0, 3, 1, 2]}  # of every rank


@pytest.fixture(params=[2, 3, 4])
def groups(request):
    """One group per rank; rank and worker are not the same."""
    with contextlib.ExitStack() as stack:
        yield _connected(request.param, stack)


@pytest.fixture
def two_groups():
    """For graphs: a rank that waits holds one of TensorFlow's threads, of which a process may have two."""
    with contextlib.ExitStack() as stack:
        yield _connected(2, stack)


def _connected(count, stack):
    connections = {}
    for first in range(count):
        for second in range(first):
            ends = socket.socketpair()
            connections[first, second] = Connection(ends[0], second, 10.0)
            connections[second, first] = Connection(ends[1], first, 10.0)
    by_worker = [{p: c for (o, p), c in connections.items() if o == own} for own in range(count)]
    workers = WORKERS[count]
    groups = [SocketCollectives(by_worker[workers[rank]], workers, rank) for rank in range(count)]
    for group in groups:
        stack.callback(group.close)
    return groups


def _record(group, monkeypatch, note):
    """Calls `note` with every array that the group sends."""
    for connection in group._connections.values():
        plain = connection.send
        monkeypatch.setattr(connection, "send", lambda tag, array, plain=plain: [note(array), plain(tag, array)])


def _add_at(counted, index, number):
    counted[index] += number


def together(groups, act):
    """Returns `act(group)` of every rank, all at once."""
    with concurrent.futures.ThreadPoolExecutor(len(groups)) as pool:
        return list(pool.map(act, groups))


def vectors(count, size, seed=0):
    return np.random.RandomState(seed).standard_normal([count, size]).astype(np.float32)


class Sockets(CollectivesContract):
    """Eagerly, every rank in a thread of its own."""

    wrap = staticmethod(lambda sockets: sockets)

    def run(self, act):
        def rank(group):
            return tf.nest.map_structure(lambda one: one.numpy() if tf.is_tensor(one) else one, act(self.wrap(group)))

        with contextlib.ExitStack() as stack:
            return together(_connected(self.ranks, stack), rank)

    def alone(self):
        return self.wrap(SocketCollectives({}, [0], 0))


class TestTwoProcesses(Sockets):
    ranks = 2


class TestThreeProcesses(Sockets):
    ranks = 3


class TestFourProcesses(Sockets):
    ranks = 4


class TestHostsOfOneReplica(Sockets):
    ranks = 3
    wrap = staticmethod(lambda sockets: HostCollectives(TensorFlowCollectives(None, 1, 0), sockets))


@pytest.mark.parametrize("sizes", [(1,), (2, 700), (2, 30_000, 1), (900_001, 3), (300_000, 300_000)])
def test_all_reduce_adds_in_order_of_rank(groups, sizes):
    given = [vectors(len(groups), size, seed) for seed, size in enumerate(sizes)]
    expected = [one[0].copy() for one in given]
    for total, one in zip(expected, given, strict=True):
        for row in one[1:]:
            total += row
    results = together(groups, lambda g: g.exchange("all_reduce", [tf.constant(one[g.rank]) for one in given], None))
    for sums in results:
        for total, wanted in zip(sums, expected, strict=True):
            assert total.numpy().tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    "count, sizes, sent",
    [
        (2, (1, 16_383), 4 * 16_384),
        (2, (2, 16_383), 4 * 16_385),
        (3, (1, 2, 1021), 2 * 4 * 1024),  # directly: M - 1 times all bytes
        (3, (3, 2, 1021), 4 * 4 * 1026 // 3),  # 2 (M - 1) / M times
        (3, (2, 2, 1022), 4 * 4 * 1026 // 3),  # vectors with less values than ranks
    ],
)
def test_all_reduce_sends_no_more_than_it_must(count, sizes, sent, monkeypatch):
    counted = [0] * count
    with contextlib.ExitStack() as stack:
        groups = _connected(count, stack)
        for group in groups:
            _record(group, monkeypatch, lambda array, rank=group.rank: _add_at(counted, rank, array.nbytes))
        given = [vectors(count, size, seed) for seed, size in enumerate(sizes)]
        results = together(
            groups, lambda g: g.exchange("all_reduce", [tf.constant(one[g.rank]) for one in given], None)
        )
    for sums in results:
        for total, one in zip(sums, given, strict=True):
            np.testing.assert_allclose(total, one.sum(0), rtol=1e-4, atol=1e-5)
    assert sum(counted) == count * sent  # ranges differ by a value


@pytest.mark.parametrize("size, messages", [(16_384, 1), (16_385, 2)])
def test_two_ranks_save_a_trip_up_to_64_kib(two_groups, monkeypatch, size, messages):
    arrays = []
    for group in two_groups:
        _record(group, monkeypatch, arrays.append)
    together(two_groups, lambda g: g.exchange("all_reduce", [tf.zeros([size])], None))
    assert len(arrays) == 2 * messages


def test_what_is_sent_is_not_what_is_returned(two_groups, monkeypatch):
    """TensorFlow may write its next result to the memory of a sum while the sum still waits to be sent."""
    given, arrays = vectors(2, 600_000), []
    for group in two_groups:
        _record(group, monkeypatch, arrays.append)

    def act(group):
        step = tf.function(
            lambda vector: group.exchange("all_reduce", [vector], None), autograph=False
        )  # takes arrays over
        return step(tf.constant(given[group.rank]))

    results = together(two_groups, act)
    assert len(arrays) == 2 * 2 * 2
    for (total,) in results:
        assert not any(np.shares_memory(np.asarray(memoryview(total)), array) for array in arrays)


def test_in_graphs_all_begin_before_any_result_is_awaited(two_groups):
    """Each rank begins two collectives and finishes them in the other order, in a loop."""
    count, rounds = len(two_groups), 5
    given = vectors(count, 50)

    def act(group):
        @tf.function(autograph=False)
        def step(vector):
            first = group.begin("all_gather", vector, None)
            second = group.begin("all_reduce", [vector], None)
            (total,) = second()
            return total, tf.stack(first())

        return [step(tf.constant(given[group.rank] + number)) for number in range(rounds)]

    for results in together(two_groups, act):
        for number, (total, rows) in enumerate(results):
            np.testing.assert_allclose(total, (given + number).sum(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(rows, given + number)


def test_what_was_handed_over_is_not_overwritten(two_groups):
    """A sender's tensor dies at once in the graph; its memory must live until the packet has left."""
    count, size = len(two_groups), 400_000

    def act(group):
        @tf.function(autograph=False)
        def step(number):
            first = group.begin("all_gather", tf.fill([size], number), None)
            waste = [tf.fill([size], -1.0 - number) for _ in range(4)]
            with tf.control_dependencies(waste):
                rows = first()
            return tf.stack([tf.reduce_min(row) for row in rows]), tf.stack([tf.reduce_max(row) for row in rows])

        return [step(tf.constant(float(10 * number + group.rank))) for number in range(6)]

    for results in together(two_groups, act):
        for number, (low, high) in enumerate(results):
            expected = 10.0 * number + np.arange(count)
            np.testing.assert_array_equal(low, expected)
            np.testing.assert_array_equal(high, expected)


def test_a_lost_worker_is_named_in_the_error_of_the_step(two_groups):
    lost = two_groups[1]
    lost.close()
    with pytest.raises(tf.errors.UnknownError, match="LostConnectionError: worker [0-9] is gone"):
        tf.function(lambda: two_groups[0].exchange("all_gather", tf.zeros([3]), None), autograph=False)()


def test_a_rank_that_traces_once_more_stays_in_step(two_groups):
    """A last batch of another size on one rank makes a new graph there, and none on the others."""

    def act(group):
        @tf.function(autograph=False)
        def step(batch):
            first = group.begin("all_gather", tf.reshape(tf.reduce_sum(batch), [1]), None)
            (total,) = group.exchange("all_reduce", [tf.reshape(tf.reduce_max(batch), [1])], None)
            return total[0], tf.concat(first(), 0)

        sizes = [4, 4 - group.rank, 4, 3]
        return [(total.numpy(), rows.numpy()) for total, rows in (step(tf.ones([size])) for size in sizes)]

    for results in together(two_groups, act):
        for number, (total, rows) in enumerate(results):
            assert total == 2
            np.testing.assert_array_equal(rows, [[4, 4], [4, 3], [4, 4], [3, 3]][number])


def test_channels_have_tags_of_their_own(two_groups):
    """Two channels may run in another order on each rank: functions that share no variable have no order."""

    def act(group):
        channels = {number: group.of_channel(number) for number in (1, 2)}
        order = (1, 2) if group.rank else (2, 1)
        begun = {n: channels[n].begin("all_gather", tf.constant([10.0 * n + group.rank]), None) for n in order}
        return {number: tf.concat(finish(), 0).numpy().tolist() for number, finish in begun.items()}

    for found in together(two_groups, act):
        assert found == {1: [10.0, 11.0], 2: [20.0, 21.0]}


def test_messages_that_were_read_leave_nothing(two_groups):
    together(two_groups, lambda group: [group.exchange("all_gather", tf.zeros([3]), None) for _ in range(5)])
    assert not any(connection._inbox for group in two_groups for connection in group._connections.values())
