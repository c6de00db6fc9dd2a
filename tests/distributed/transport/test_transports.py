"""Which transport is chosen, which rank every replica has, and who closes what was opened."""

import pytest
import tensorflow as tf

from dqgan_tf.config import TrainConfig
from dqgan_tf.distribute.channel import CompressionOptions
from dqgan_tf.distribute.transport import transports
from dqgan_tf.distribute.transport.collectives import HostCollectives, SocketCollectives, TensorFlowCollectives
from dqgan_tf.distribute.transport.transports import Transports
from dqgan_tf.errors import UsageError
from dqgan_tf.private_tensorflow import ClusterPlace, local_replica_index
from tests.gan.local_strategy import local_strategy

TWO_WORKERS = {"worker": ["a:1", "b:1"]}
ELEVEN_WORKERS = {"worker": [f"h{i}:1" for i in range(11)]}
CPUS = [f"/job:worker/replica:0/task:1/device:CPU:{i}" for i in range(12)]
GPUS = [f"/job:worker/replica:0/task:1/device:GPU:{i}" for i in range(3)]


def made(devices, cluster=None, implementation="AUTO", worker_index=None):
    """The transports of the last of two workers, unless said otherwise, with texts in place of launchers."""
    cluster = TWO_WORKERS if cluster is None else cluster
    num_workers = max(1, sum(map(len, cluster.values())))
    index = min(1, num_workers - 1) if worker_index is None else worker_index
    return Transports(
        ClusterPlace(cluster, index, num_workers, index == 0),
        devices,
        [f"launcher {i}" for i in range(len(devices))],
        lambda key, size, device: (key - (1 << 20), size, device[-1]),
        CompressionOptions(implementation=tf.distribute.experimental.CommunicationImplementation[implementation]),
    )


class Connections(dict):
    """In place of connections: one object that stands for all of them."""

    def __init__(self, addresses, worker):
        super().__init__({0: self})
        self.addresses, self.worker, self.closed = tuple(addresses), worker, False

    def close(self):
        self.closed = True

    def join(self, deadline):
        pass


@pytest.fixture
def opened(monkeypatch):
    """The connections that were opened, and the names of their boards."""
    made = []

    def connect(board, addresses, worker, silence_seconds):
        assert silence_seconds == TrainConfig.silence_timeout
        made.append((Connections(addresses, worker), board._name))
        return made[-1][0]

    monkeypatch.setattr(transports.connection, "connect", connect)
    return made


@pytest.mark.parametrize(
    ("arguments", "transport", "name"),
    [
        ((CPUS[:1],), "auto", "sockets"),
        ((CPUS[:2],), "auto", "ring"),
        ((GPUS[:1],), "auto", "nccl"),
        ((GPUS[:2],), "ring", "ring"),
        ((CPUS[:1], None, "RING"), "auto", "ring"),
        ((GPUS[:1], None, "RING"), "auto", "ring"),
        ((GPUS[:1], None, "NCCL"), "auto", "nccl"),
        ((GPUS[:1], None, "RING"), "nccl", "nccl"),
    ],
)
def test_the_name_of_what_is_used(arguments, transport, name):
    assert made(*arguments).name_of(transport) == name


class TestChoice:
    @pytest.mark.parametrize(
        ("arguments", "transport", "expected"),
        [
            ((CPUS[:1],), "auto", True),
            ((CPUS[:2],), "auto", False),
            ((GPUS[:1],), "auto", False),
            ((GPUS[:1],), "sockets", True),
            ((CPUS[:1],), "ring", False),
            ((GPUS[:1],), "nccl", False),
            ((CPUS[:1], {}), "auto", False),
            ((CPUS[:1], {}), "sockets", False),
            ((CPUS[:1], {"worker": ["a:1"]}), "sockets", False),
            ((CPUS[:1], None, "RING"), "auto", False),
            ((GPUS[:1], None, "NCCL"), "auto", False),
            ((CPUS[:1], None, "RING"), "sockets", True),
        ],
    )
    def test_sockets_or_not(self, arguments, transport, expected):
        assert made(*arguments).uses_sockets(transport) is expected

    @pytest.mark.parametrize("hierarchical", [False, True])
    def test_unknown_transport(self, hierarchical):
        with pytest.raises(UsageError, match="must be one of auto, sockets, ring, nccl. Received: transport='udp'"):
            made(CPUS[:1]).collectives("udp", hierarchical)

    def test_sockets_are_for_one_replica_a_worker(self):
        with pytest.raises(UsageError, match="this one has 3: use transport=ring"):
            made(CPUS[:3]).collectives("sockets")

    @pytest.mark.parametrize("cluster", [{}, TWO_WORKERS])
    def test_nccl_is_for_gpus(self, cluster):
        with pytest.raises(
            UsageError, match="transport=nccl needs GPUs, the replicas run on .*CPU:0: use transport=ring"
        ):
            made(CPUS[:1], cluster).collectives("nccl")

    @pytest.mark.parametrize(
        ("devices", "options", "transport", "implementation"),
        [
            (GPUS[:1], "AUTO", "ring", "RING"),
            (GPUS[:1], "AUTO", "nccl", "NCCL"),
            (GPUS[:1], "AUTO", "auto", "NCCL"),
            (GPUS[:1], "RING", "auto", "AUTO"),  # of the options, which every call merges
            (CPUS[:2], "AUTO", "auto", "AUTO"),
        ],
    )
    def test_the_name_becomes_tensorflows_implementation(self, devices, options, transport, implementation):
        one, *_ = made(devices, implementation=options).collectives(transport)
        assert one._options.implementation.name == implementation


def ranks(devices, cluster, worker_index, hierarchical=False, transport="ring"):
    replicas = made(devices, cluster, worker_index=worker_index).collectives(transport, hierarchical)
    return [(one.rank, one.size) for one in replicas]


class TestRanks:
    def test_one_process(self):
        assert ranks(CPUS[:2], {}, 0) == [(0, 2), (1, 2)]
        assert ranks(CPUS[:2], {}, 0, hierarchical=True) == [(0, 1)] * 2

    def test_device_names_are_ordered_as_text(self):
        """CPU:10 and CPU:11 come before CPU:2."""
        assert [rank for rank, _ in ranks(CPUS, {}, 0)] == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3]

    @pytest.mark.parametrize("hierarchical", [False, True])
    def test_tasks_are_ordered_as_text(self, hierarchical):
        """Task 10 comes before task 2."""
        found = [ranks(CPUS[:1], ELEVEN_WORKERS, index, hierarchical)[0] for index in range(11)]
        assert found == [(rank, 11) for rank in [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 2]]

    def test_the_ranks_are_tensorflows(self):
        """What TensorFlow itself gathers lies where these ranks say."""
        strategy = local_strategy(8)
        replicas = strategy._transports.collectives("ring")

        @tf.function(autograph=False)
        def gather():
            def replica():
                context = tf.distribute.get_replica_context()
                return context.all_gather(tf.constant([replicas[local_replica_index(context)].rank]), axis=0)

            return strategy.run(replica)

        assert strategy.experimental_local_results(gather())[0].numpy().tolist() == list(range(8))

    def test_a_chief_comes_first_and_replicas_of_a_worker_stay_together(self):
        cluster = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
        assert ranks(CPUS[:2], cluster, 1) == [(2, 6), (3, 6)]
        assert ranks(CPUS[:2], cluster, 0) == [(0, 6), (1, 6)]
        assert ranks(CPUS[:2], cluster, 2, hierarchical=True) == [(2, 3)] * 2

    def test_sockets_reach_the_worker_of_each_rank(self, opened):
        transports = made(CPUS[:1], ELEVEN_WORKERS, worker_index=2)
        (one,) = transports.collectives("auto")
        assert isinstance(one, SocketCollectives) and (one.rank, one.size) == (3, 11)
        workers = [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]
        assert sorted(one._peers) == [(rank, worker) for rank, worker in enumerate(workers) if rank != 3]


class TestGroups:
    def test_several_local_replicas_use_tensorflows_collectives(self):
        replicas = made(CPUS[:2]).collectives("auto")
        assert [type(one) for one in replicas] == [TensorFlowCollectives] * 2
        assert [one._launcher for one in replicas] == ["launcher 0", "launcher 1"]

    def test_hosts_have_groups_of_their_own(self):
        """Keys are equal on all members and different between groups; they are made once for all channels."""
        both = [made(CPUS[:2], worker_index=index) for index in range(2)]
        for worker in both:
            first, again = worker.collectives("auto", True), worker.collectives("auto", True)
            assert [one._across._launcher for one in first] == [one._across._launcher for one in again]
        first, second = [worker.collectives("ring", True) for worker in both]
        assert [one._local._launcher for one in first] == [(0, 2, "0"), (0, 2, "1")]
        assert [one._local._launcher for one in second] == [(1, 2, "0"), (1, 2, "1")]
        assert [one._across._launcher for one in first] == [(2, 2, "0"), (3, 2, "1")]
        assert [one._across._launcher for one in first] == [one._across._launcher for one in second]

    def test_a_host_of_one_replica_sends_over_sockets(self, opened):
        (host,) = made(CPUS[:1]).collectives("auto", True)
        assert isinstance(host, HostCollectives) and isinstance(host._across, SocketCollectives)
        assert (host.rank, host.size, host.replicas_per_rank) == (1, 2, 1)


class TestConnections:
    def test_all_channels_of_a_strategy_share_them(self, opened):
        """Their messages have tags of their own, which the order of the channels decides."""
        transports = made(CPUS[:1])
        channels = [transports.collectives("auto")[0], transports.collectives("sockets")[0]]
        channels.append(transports.collectives("auto", True)[0]._across)
        assert [next(channel._tags) >> 32 for channel in channels] == [1, 2, 3]
        assert all(channel._connections == channels[0]._connections for channel in channels)
        assert [(end.addresses, end.worker) for end, _ in opened] == [(("a:1", "b:1"), 1)]

    def test_another_strategy_has_its_own_by_a_board_of_its_own(self, opened):
        first, second = made(CPUS[:1]), made(CPUS[:1])
        (one,), (other,) = first.collectives("auto"), second.collectives("auto")
        assert one is not other
        assert len({name for _, name in opened}) == 2
        first.close()
        assert [end.closed for end, _ in opened] == [True, False]

    def test_strategies_without_connections_count_for_nothing(self, opened):
        """A worker may build one for itself, say to evaluate: the next board has the same name on all workers."""
        made(CPUS[:1]).collectives("auto")
        made(CPUS[:1], {}).collectives("auto")
        made(CPUS[:1]).collectives("auto")
        before, after = [int(name.removeprefix("sockets/")) for _, name in opened]
        assert after == before + 1

    def test_nothing_to_close(self, opened):
        made(CPUS[:1]).close()
        assert not opened
