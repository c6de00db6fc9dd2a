"""Sending in buckets: the same bits as all at once, in every topology, for three replicas of one process."""

import hashlib

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.distribute.segment import Segment
from tests.gan.local_strategy import local_strategy

REPLICAS, ROUNDS = 3, 3
SIZES = (420_001, 33)  # 0.25 MiB are two blocks of 32,768 values; the two-step form cuts at three
LINEAR, STOCHASTIC, TOPK = (
    "linear:bits=4,bucket=512",
    "linear:bits=2,bucket=64,rounding=stochastic",
    "topk:fraction=0.01",
)
ADAPTIVE = "adaptive:bits=3,bucket=512"
CASES = [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in [
        (ADAPTIVE, "all_gather", 7),
        (ADAPTIVE, "two_step", 5),
        (LINEAR, "two_step", 5),
        (LINEAR, "all_gather", 7),
        (STOCHASTIC, "two_step", 5),
        (STOCHASTIC, "all_gather", 7),
        (TOPK, "two_step", 2),  # never cut: the second, small vector is a bucket of its own
    ]
]


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(REPLICAS)


def exchanged(strategy, spec, topology, bucket_mb):
    """Means and residuals of every replica after ROUNDS reductions, as digests, and the number of buckets."""
    segments = [Segment(f"part_{index}", size, compressors.get(spec)) for index, size in enumerate(SIZES)]
    feedback = "stochastic" not in spec
    channel = strategy.open_channel(
        "buckets", segments, topology=topology, bucket_mb=bucket_mb, seed=3, error_feedback=feedback
    )

    def replica(vector):
        parts = tf.split(vector, SIZES)
        return tf.distribute.get_replica_context().all_reduce("mean", parts, options=channel.options)

    run = tf.function(lambda value: strategy.run(replica, args=(value,)), autograph=False)
    received = []
    for number in range(ROUNDS):
        value = strategy.experimental_distribute_values_from_function(
            lambda context, number=number: tf.constant(given(number, context.replica_id_in_sync_group))
        )
        received += [digest(v) for mean in run(value) for v in mean.values]
    received += [digest(v) for residual in channel.residuals for v in residual.variables]
    assert all(bool(v.numpy()) for v in channel.accepted.variables)
    strategy.close_channel("buckets")
    return received, len(channel.reductions), channel.sent_bytes


def digest(variable):
    """Short, or a difference would keep pytest busy for minutes explaining it."""
    return hashlib.sha256(variable.numpy().tobytes()).hexdigest()[:16]


def given(number, replica):
    draw = np.random.default_rng(10 * number + replica)
    return (draw.standard_normal(sum(SIZES)) * draw.uniform(0.1, 2.0)).astype(np.float32)


@pytest.mark.parametrize(("spec", "topology", "buckets"), CASES)
def test_no_bit_depends_on_the_size_of_the_buckets(strategy, spec, topology, buckets):
    whole, one, sent = exchanged(strategy, spec, topology, 0.0)
    cut, several, sent_in_buckets = exchanged(strategy, spec, topology, 0.25)
    assert (one, several) == (1, buckets)
    assert sent_in_buckets == sent
    assert cut == whole
