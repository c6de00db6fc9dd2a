"""The size of packets and slices changes no bit: small ones driven by numpy, real ones through a channel."""

import hashlib

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.compressors import blocks
from dqgan_tf.compressors.contrib import adaptive
from dqgan_tf.distribute.layout import Vector
from dqgan_tf.distribute.topologies import choice
from dqgan_tf.distribute.topologies.packet import Seeds
from tests.distributed import exchange_cases, lockstep
from tests.gan.local_strategy import local_strategy

REPLICAS, ROUNDS = 3, 3


@pytest.mark.slow
class TestSmall:
    """Three replicas, blocks of 64 values, buckets of 32: every vector but that of `randomk` is cut.

    The last vector has a mean of its own in the two-step exchange, which draws by buckets of 128.

    `topk` is never cut either, and takes four times as long to compile: see the slow tests and tests/gan/test_cuts.py,
    which has `all_gather`.
    """

    SPECS = ("linear:bits=8,bucket=32,rounding=stochastic", "sign:bucket=32", "adaptive:bits=3,bucket=32")
    MEAN = "linear:bits=8,bucket=128,rounding=stochastic"
    SIZES, BLOCK = (677, 600, 808, 97, 1000), 64

    @pytest.fixture(scope="class", params=["all_gather", "two_step"])
    @classmethod
    def results(cls, request):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(choice, "_SMALLEST_SLICE", 1)
            patch.setattr(adaptive, "_SAMPLE", 200)  # the histogram counts every fourth bucket
            return [cls.exchanged(request.param, *cut) for cut in ((10**9, 1), (900, 4))]

    @classmethod
    def exchanged(cls, kind, packet_values, threads):
        """(vectors of the slices of every packet, means after every round and what is kept at the end)."""
        specs = [*cls.SPECS, "randomk:fraction=0.1", cls.SPECS[1]]
        vectors = [
            Vector(f"v{i}", compressors.get(spec), ((size,),), (i,))
            for i, (spec, size) in enumerate(zip(specs, cls.SIZES, strict=True))
        ]
        vectors[-1] = vectors[-1]._replace(mean_compressor=compressors.get(cls.MEAN))
        assert [vector.stride for vector in vectors] == [1, 1, 4, 1, 1]
        settings = lockstep.settings(REPLICAS, block=cls.BLOCK)
        packets, learned = lockstep.build(kind, vectors, settings, packet_values, threads)
        arrays = []
        for number in range(ROUNDS):
            values = [np.split(update(number, m, cls.SIZES), np.cumsum(cls.SIZES)[:-1]) for m in range(REPLICAS)]
            seeds = [
                Seeds(tf.constant(exchange_cases.stream(m, number)), tf.constant(exchange_cases.common_stream(number)))
                for m in range(REPLICAS)
            ]
            updates = [[[window(own, part) for part in packet.slices] for own in values] for packet in packets]
            outcomes = [lockstep.reduce(*pair, seeds) for pair in zip(packets, updates, strict=True)]
            histograms = [[] for _ in vectors]
            for packet, of_packet, inputs in zip(packets, outcomes, updates, strict=True):
                for replica, outcome in enumerate(of_packet):
                    assert bool(outcome.bounded)
                    packet.commit(outcome, replica, inputs[replica])
                    for part, histogram in zip(packet.slices, outcome.histograms, strict=True):
                        histograms[part.vector] += [] if histogram is None else [histogram]
            for vector, state, counts in zip(vectors, learned, histograms, strict=True):
                for variable in state.variables if state else []:
                    variable.assign(vector.compressor.next_state(variable, tf.add_n(counts)))
            for index, m in np.ndindex(len(vectors), REPLICAS):
                merged = [pair for of_packet in outcomes for pair in of_packet[m].means]
                arrays.append(lockstep.mean(merged, index, vectors[index].size))
        arrays += [variable.numpy() for state in learned if state for variable in state.variables]
        slices = sorted(
            (part.vector, part.start, residual)
            for packet in packets
            for part, residual in zip(packet.slices, packet.residuals, strict=True)
        )
        for index, m in np.ndindex(len(vectors), REPLICAS):
            arrays.append(np.concatenate([e.variables[m] for vector, _, e in slices if vector == index]))
        return [[part.vector for part in packet.slices] for packet in packets], arrays

    def test_the_cut_is_the_one_that_is_meant(self, results):
        """Several slices of one vector share a packet, and slices of several vectors do."""
        (whole, _), (packets, _) = results
        assert whole == [[4, 3, 2, 1, 0]]
        counts = [sum(packet.count(vector) for packet in packets) for vector in range(5)]
        assert len(packets) > 1 and counts.pop(3) == 1 and min(counts) > 1
        assert any(packet.count(0) > 1 for packet in packets) and any(len(set(packet)) > 1 for packet in packets)

    def test_no_bit_depends_on_the_cut(self, results):
        """Means, residuals and what compressors have learned."""
        (_, whole), (_, cut) = results
        assert len(whole) == len(cut) == ROUNDS * 5 * REPLICAS + REPLICAS + 5 * REPLICAS
        assert [one.tobytes() == other.tobytes() for one, other in zip(whole, cut, strict=True)] == [True] * len(whole)
        assert all(np.any(array) for array in whole)


def window(values, part):
    """A slice of a replica's vectors, as a channel passes it on: not copied where it is not a whole vector."""
    return blocks.Window(tf.constant(values[part.vector]), tf.constant(part.start), part.size)


def update(number, replica, sizes):
    draw = np.random.default_rng(10 * number + replica)
    return (draw.standard_normal(sum(sizes)) * draw.uniform(0.1, 2.0)).astype(np.float32)


SIZES = (420_001, 33)  # 0.25 MiB are two blocks of 32,768 values; the two-step form cuts at three
LINEAR, STOCHASTIC, TOPK = (
    "linear:bits=4,bucket=512",
    "linear:bits=2,bucket=64,rounding=stochastic",
    "topk:fraction=0.01",
)
ADAPTIVE = "adaptive:bits=3,bucket=512"
CASES = [
    (ADAPTIVE, "two_step", 5),
    (LINEAR, "all_gather", 7),
    (STOCHASTIC, "two_step", 5),
    (TOPK, "two_step", 2),  # never cut: the second, small vector is a packet of its own
]


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(REPLICAS)


def exchanged(strategy, spec, topology, packet_mb):
    """Means and residuals of every replica after ROUNDS reductions, as digests; the channel's packets; bytes sent."""
    vectors = [Vector(f"part_{i}", compressors.get(spec), ((size,),), (i,), order=i) for i, size in enumerate(SIZES)]
    feedback = "stochastic" not in spec
    channel = strategy.open_channel(
        "packets", vectors, topology=topology, packet_mb=packet_mb, seed=3, error_feedback=feedback
    )

    def replica(values):
        parts = tf.split(values, SIZES)
        return tf.distribute.get_replica_context().all_reduce("mean", parts, options=channel.options)

    run = tf.function(lambda values: strategy.run(replica, args=(values,)), autograph=False)
    received = []
    for number in range(ROUNDS):
        values = strategy.experimental_distribute_values_from_function(
            lambda context, number=number: tf.constant(update(number, context.replica_id_in_sync_group, SIZES))
        )
        received += [digest(v) for mean in run(values) for v in mean.values]
    assert all(bool(v.numpy()) for v in channel.accepted.variables)
    for m in range(REPLICAS):
        received += [None if residual is None else digest(residual) for residual in channel.residuals(m)]
    strategy.close_channel("packets")
    return received, channel.packets, channel.sent_bytes


def digest(tensor):
    """Short, or a difference would keep pytest busy for minutes explaining it."""
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16]


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "topology", "packets"), CASES)
def test_no_bit_depends_on_the_size_of_packets(strategy, spec, topology, packets):
    whole, one, sent = exchanged(strategy, spec, topology, 0.0)
    cut, several, sent_in_packets = exchanged(strategy, spec, topology, 0.25)
    assert (len(one), len(several)) == (1, packets)
    assert sent_in_packets == sent
    assert cut == whole


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["all_gather", "two_step"])
def test_no_bit_depends_on_the_number_of_threads(strategy, topology, monkeypatch):
    """Four slices of the large vector against one."""
    monkeypatch.setattr(choice, "_SMALLEST_SLICE", 1)
    slices = []
    received = []
    for threads in (1, 5):  # a fifth would be shorter than a granule, and is joined to the fourth
        monkeypatch.setattr(strategy, "_threads", threads)
        digests, (packet,), _ = exchanged(strategy, LINEAR, topology, 0.0)
        received.append(digests)
        slices.append(len(packet.slices))
    assert slices == [2, 5]
    assert received[0] == received[1]
