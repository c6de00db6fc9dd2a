"""TensorFlow's collectives and hosts of several replicas, on logical CPUs of one process."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.distribute.transport.collectives import Collectives, HostCollectives, TensorFlowCollectives
from dqgan_tf.private_tensorflow import local_replica_index
from tests.contracts.collectives_contract import CollectivesContract, draw
from tests.gan.local_strategy import local_strategy

_KEYS = itertools.count(1 << 24)


@pytest.fixture(scope="module")
def strategies():
    """Strategies by number of replicas: all classes share them."""
    return {}


class OnLogicalCpus(CollectivesContract):
    """All replicas are logical CPUs, in one graph."""

    @pytest.fixture(autouse=True)
    def _build(self, strategies):
        count = self.ranks * self.replicas_per_rank
        self._strategy = strategies.setdefault(count, None) or local_strategy(count)
        strategies[count] = self._strategy
        self._replicas = self.collectives()

    def run(self, act):
        structures = {}

        @tf.function(autograph=False)
        def step():
            def replica():
                index = local_replica_index(tf.distribute.get_replica_context())
                structures[index] = act(self._replicas[index])
                return [tf.identity(tensor) for tensor in tf.nest.flatten(structures[index]) if tf.is_tensor(tensor)]

            return self._strategy.run(replica)

        results = [self._strategy.experimental_local_results(value) for value in step()]
        packed = []
        for index in range(len(self._replicas)):
            arrays = iter([result[index].numpy() for result in results])
            flat = [next(arrays) if tf.is_tensor(one) else one for one in tf.nest.flatten(structures[index])]
            packed.append(tf.nest.pack_sequence_as(structures[index], flat))
        return packed

    def launchers(self, size, groups):
        """One launcher per replica, in new groups of `size` replicas: `groups` names every replica's."""
        keys = {group: next(_KEYS) for group in groups}
        devices = self._strategy.local_devices
        return [self._strategy.new_launcher(keys[g], size, d) for g, d in zip(groups, devices, strict=True)]


class Replicas(OnLogicalCpus):
    def collectives(self):
        launchers = self._strategy.launchers()
        return [TensorFlowCollectives(one, self.ranks, rank, "RING") for rank, one in enumerate(launchers)]

    def alone(self):
        return TensorFlowCollectives(None, 1, 0)


class TestTwoReplicas(Replicas):
    ranks = 2


class TestThreeReplicas(Replicas):
    ranks = 3


class Hosts(OnLogicalCpus):
    def collectives(self):
        hosts = np.repeat(range(self.ranks), self.replicas_per_rank).tolist()
        indices = np.tile(range(self.replicas_per_rank), self.ranks).tolist()
        local = self.launchers(self.replicas_per_rank, hosts)
        across = self.launchers(self.ranks, indices)
        return [
            HostCollectives(
                TensorFlowCollectives(inside, self.replicas_per_rank, index),
                TensorFlowCollectives(outside, self.ranks, host),
            )
            for inside, outside, host, index in zip(local, across, hosts, indices, strict=True)
        ]

    def alone(self):
        return HostCollectives(TensorFlowCollectives(None, 1, 0), TensorFlowCollectives(None, 1, 0))

    def test_a_rank_is_a_host(self):
        assert all(one.is_hierarchical for one in self._replicas)


class TestTwoHostsOfThree(Hosts):
    ranks, replicas_per_rank = 2, 3


class TestThreeHostsOfTwo(Hosts):
    ranks, replicas_per_rank = 3, 2


@pytest.mark.parametrize("kind", ["all_gather", "all_to_all", "all_reduce"])
def test_a_replica_sends_its_share_of_the_words(kind):
    words = {"all_gather": draw(7), "all_to_all": draw(2, 7), "all_reduce": [draw(3), draw(4)]}[kind]
    across = Recorded(2, 0)
    one = HostCollectives(Recorded(3, 2), across)
    one.exchange(kind, tf.nest.map_structure(tf.constant, words), None)
    (sent,) = across.sent
    whole = np.concatenate(words) if kind == "all_reduce" else words
    np.testing.assert_array_equal(sent[..., :1], whole[..., 6:])  # 7 words among 3 replicas: 3, 3, and 1 filled up to 3
    assert sent.shape[-1] == 3


class Recorded(Collectives):
    """Keeps what it is given and returns that again, as if all ranks had sent the same."""

    def __init__(self, size, rank):
        self.size, self.rank, self.sent = size, rank, []

    def _begin(self, kind, value, options):
        if kind == "all_reduce":
            self.sent.append(value[0].numpy())
            return lambda: list(value)
        self.sent.append(value.numpy())
        return lambda: [value] * self.size if kind == "all_gather" else tf.unstack(value)


@pytest.mark.parametrize(
    "named, asked, used", [("AUTO", "RING", "RING"), ("NCCL", "RING", "NCCL"), ("RING", "AUTO", "RING")]
)
def test_the_transport_decides_before_the_options_of_a_call(named, asked, used):
    class Launcher:
        def batch_all_reduce(self, packs, options):
            self.implementation = options.implementation.name
            return packs[0]

    launcher = Launcher()
    options = tf.distribute.experimental.CommunicationOptions(implementation=asked)
    TensorFlowCollectives(launcher, 2, 0, named).exchange("all_reduce", [tf.zeros([1])], options)
    assert launcher.implementation == used
