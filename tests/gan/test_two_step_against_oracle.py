"""The two-step exchange of three replicas in one process: against the float64 simulator, and nothing is lost."""

import math

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.distribute.segment import Segment
from tests.gan.local_strategy import local_strategy
from tests.oracles import dqgan_numpy as oracle
from tests.oracles import quantizers_numpy

REPLICAS, STEPS = 3, 10
QUANTIZERS = {
    "sign:bucket=32": quantizers_numpy.sign(32),
    "linear:bits=2,bucket=32": quantizers_numpy.linear(2, 32),
    "linear:bits=4,bucket=32": quantizers_numpy.linear(4, 32),
    "topk:fraction=0.1": lambda x: quantizers_numpy.top_k(math.ceil(0.1 * len(x)))(x),
}
# x is N(0, 1): float32 sums of ten of them round to a few 1e-7, and a step of a bucket to 1e-6 of itself.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def strategy():
    return local_strategy(REPLICAS)


def vectors(sizes):
    """float32 [T, M, n], every worker around a point of its own."""
    rng = np.random.default_rng(6)
    n = sum(sizes)
    return (rng.standard_normal((STEPS, REPLICAS, n)) + rng.standard_normal((1, REPLICAS, n))).astype(np.float32)


def exchanged(strategy, spec, sizes, given, error_feedback=True):
    """Yields (what every replica received, residuals), both float64 [M, n], after each of the real exchanges."""
    segments = [Segment(f"part_{i}", size, compressors.get(spec)) for i, size in enumerate(sizes)]
    channel = strategy.open_channel("two", segments, topology="two_step", error_feedback=error_feedback)

    def replica(vector):
        parts = tf.split(vector, sizes)
        means = tf.distribute.get_replica_context().all_reduce("mean", parts, options=channel.options)
        return tf.concat(means, 0)

    run = tf.function(lambda value: strategy.run(replica, args=(value,)), autograph=False)
    for values in given:
        distributed = strategy.experimental_distribute_values_from_function(
            lambda context, values=values: tf.constant(values[context.replica_id_in_sync_group])
        )
        received = np.array([v.numpy() for v in run(distributed).values], np.float64)
        parts = zip(*[residual.variables for residual in channel.residuals], strict=True)
        yield received, np.array([np.concatenate([v.numpy() for v in part]) for part in parts], np.float64)
    strategy.close_channel("two")


QUICK = ("sign:bucket=32", "linear:bits=2,bucket=32")
SPECS = [pytest.param(spec, marks=[pytest.mark.slow] * (spec not in QUICK)) for spec in QUANTIZERS]


@pytest.mark.parametrize("error_feedback", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("spec", SPECS)
def test_follows_the_oracle(strategy, spec, error_feedback):
    sizes, given = (96, 192), vectors((96, 192))  # one and two buckets of 32 values for every owner
    parts = oracle.players(("part_0", 96), ("part_1", 192))
    buckets = oracle.dealt(parts, 32, REPLICAS) if "bucket" in spec else oracle.shards(parts, REPLICAS)
    settings = oracle.Settings(
        buckets,
        np.ones(288),
        quantizers_numpy.for_all_players(QUANTIZERS[spec]),
        error_feedback=error_feedback,
        two_step=True,
    )
    expected = oracle.run(lambda w, step, worker: given[step - 1, worker], np.zeros(288), REPLICAS, settings, STEPS)
    run = exchanged(strategy, spec, sizes, given, error_feedback)
    for (received, residual), state in zip(run, expected, strict=True):
        assert np.all(received == received[0])
        np.testing.assert_allclose(received[0], state.q, atol=TOLERANCE)
        np.testing.assert_allclose(residual, state.residual, atol=TOLERANCE)


@pytest.mark.parametrize("spec", [pytest.param(s, marks=[pytest.mark.slow] * (s[:4] != "sign")) for s in QUANTIZERS])
def test_nothing_is_lost_when_shards_are_padded(strategy, spec):
    # sum_t q_t + mean_m e_T = sum_t mean_m x_t; 70 and 38 values in shards of 32: the last are padding, in part or all.
    given = vectors((70, 38))
    received, residuals = map(np.array, zip(*exchanged(strategy, spec, (70, 38), given), strict=True))
    assert np.all(received == received[:, :1])
    kept = residuals[-1].mean(0)
    np.testing.assert_allclose(received[:, 0].sum(0) + kept, given.mean(1).sum(0), atol=TOLERANCE)
    assert np.max(np.abs(residuals[-1])) > 0.1
