"""Packets and slices of the real size: the same bits as all at once, in every topology, for three replicas.

tests/gan/test_cuts.py proves the same on small vectors.
"""

import hashlib

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.distribute.layout import Vector
from tests.gan.local_strategy import local_strategy

pytestmark = pytest.mark.slow
REPLICAS, ROUNDS = 3, 3
SIZES = (420_001, 33)  # 0.25 MiB are two blocks of 32,768 values; the two-step form cuts at three
LINEAR, STOCHASTIC, TOPK = (
    "linear:bits=4,bucket=512",
    "linear:bits=2,bucket=64,rounding=stochastic",
    "topk:fraction=0.01",
)
ADAPTIVE = "adaptive:bits=3,bucket=512"
CASES = [
    (ADAPTIVE, "all_gather", 7),
    (ADAPTIVE, "two_step", 5),
    (LINEAR, "two_step", 5),
    (LINEAR, "all_gather", 7),
    (STOCHASTIC, "two_step", 5),
    (STOCHASTIC, "all_gather", 7),
    (TOPK, "two_step", 2),  # never cut: the second, small vector is a packet of its own
]


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(REPLICAS)


def exchanged(strategy, spec, topology, packet_mb):
    """Means and residuals of every replica after ROUNDS reductions, as digests; the channel's packets; bytes sent."""
    vectors = [Vector(f"part_{i}", compressors.get(spec), ((size,),), (i,), turn=i) for i, size in enumerate(SIZES)]
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
            lambda context, number=number: tf.constant(update(number, context.replica_id_in_sync_group))
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


def update(number, replica):
    draw = np.random.default_rng(10 * number + replica)
    return (draw.standard_normal(sum(SIZES)) * draw.uniform(0.1, 2.0)).astype(np.float32)


@pytest.mark.parametrize(("spec", "topology", "packets"), CASES)
def test_no_bit_depends_on_the_size_of_packets(strategy, spec, topology, packets):
    whole, one, sent = exchanged(strategy, spec, topology, 0.0)
    cut, several, sent_in_packets = exchanged(strategy, spec, topology, 0.25)
    assert (len(one), len(several)) == (1, packets)
    assert sent_in_packets == sent
    assert cut == whole


@pytest.mark.parametrize("topology", ["all_gather", "two_step"])
def test_no_bit_depends_on_the_number_of_threads(strategy, topology, monkeypatch):
    """Three slices of a packet and replica against one."""
    slices = []
    received = []
    for threads in (1, 3):
        monkeypatch.setattr("dqgan_tf.distribute.channel._intra_op_threads", lambda threads=threads: threads * REPLICAS)
        digests, (packet,), _ = exchanged(strategy, LINEAR, topology, 0.0)
        received.append(digests)
        slices.append(len(packet.slices))
    assert slices[0] == 2 and slices[1] > 3
    assert received[0] == received[1]
