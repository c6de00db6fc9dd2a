"""The two-step exchange of three replicas in one process: against the float64 simulator, and nothing is lost."""

import math

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.distribute.layout import Vector
from dqgan_tf.distribute.topologies.packet import Seeds
from tests.distributed import lockstep
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


@pytest.fixture(autouse=True)
def eager():
    """The equations alone: what is compiled is followed in tests/distributed and by the models here."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def vectors(sizes):
    """float32 [T, M, n], every worker around a point of its own."""
    rng = np.random.default_rng(6)
    n = sum(sizes)
    return (rng.standard_normal((STEPS, REPLICAS, n)) + rng.standard_normal((1, REPLICAS, n))).astype(np.float32)


def exchanged(spec, sizes, values, error_feedback=True, mean_spec=None, topology="two_step"):
    """Yields (what every replica received, residuals), both float64 [M, n], after each of the real exchanges."""
    spec, mean_spec = (text and compressors.get(text) for text in (spec, mean_spec))
    vectors = [Vector(f"part_{i}", spec, ((size,),), (i,), mean_compressor=mean_spec) for i, size in enumerate(sizes)]
    (packet,), _ = lockstep.build(topology, vectors, lockstep.settings(REPLICAS, error_feedback))
    residuals = dict(zip([part.vector for part in packet.slices], packet.residuals, strict=True))
    for call, rows in enumerate(values):
        parts = [tf.split(tf.constant(row), sizes) for row in rows]
        updates = [[own[part.vector] for part in packet.slices] for own in parts]
        seeds = [Seeds(tf.constant([rank, call]), tf.constant([-1, call])) for rank in range(REPLICAS)]
        outcomes = lockstep.reduce(packet, updates, seeds)
        assert all(outcome.bounded for outcome in outcomes)
        for rank, outcome in enumerate(outcomes):
            packet.commit(outcome, rank, updates[rank])
        received = [np.concatenate([lockstep.mean(o.means, i, n) for i, n in enumerate(sizes)]) for o in outcomes]
        yield np.array(received, np.float64), by_replica([residuals[i] for i in range(len(sizes))])


def by_replica(variables):
    """float64 [M, n] of one variable per vector; zeros where nothing is kept."""
    if variables[0] is None:
        return np.zeros((REPLICAS, 1))
    rows = zip(*[variable.variables for variable in variables], strict=True)
    return np.array([np.concatenate([part.numpy() for part in row]) for row in rows], np.float64)


QUICK = ("sign:bucket=32", "linear:bits=2,bucket=32")
FOUR_BIT = "linear:bits=4,bucket=32"
PAIRS = [(spec, None) for spec in QUICK] + [("sign:bucket=32", FOUR_BIT)]
SLOW_PAIRS = [(spec, None) for spec in QUANTIZERS if spec not in QUICK]
SLOW_PAIRS += [("topk:fraction=0.1", FOUR_BIT), (FOUR_BIT, "sign:bucket=32")]


@pytest.mark.parametrize("error_feedback", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("spec", "mean_spec"), PAIRS + [pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW_PAIRS]
)
def test_follows_the_oracle(spec, mean_spec, error_feedback):
    sizes, values = (96, 192), vectors((96, 192))  # one and two buckets of 32 values for every owner
    parts = oracle.players(("part_0", 96), ("part_1", 192))
    buckets = oracle.dealt(parts, 32, REPLICAS) if "bucket" in spec else oracle.shards(parts, REPLICAS)
    settings = oracle.Settings(
        buckets,
        np.ones(288),
        quantizers_numpy.for_all_players(QUANTIZERS[spec]),
        error_feedback=error_feedback,
        two_step=True,
        mean_quantizer=mean_spec and quantizers_numpy.for_all_players(QUANTIZERS[mean_spec]),
    )
    expected = oracle.run(lambda w, step, worker: values[step - 1, worker], np.zeros(288), REPLICAS, settings, STEPS)
    run = exchanged(spec, sizes, values, error_feedback, mean_spec)
    for (received, residual), state in zip(run, expected, strict=True):
        assert np.all(received == received[0])
        np.testing.assert_allclose(received[0], state.q, atol=TOLERANCE)
        np.testing.assert_allclose(residual, state.residual if error_feedback else 0.0, atol=TOLERANCE)
        assert error_feedback or not np.any(state.residual)


def test_a_mean_in_float32_is_that_of_the_all_gather_without_error_feedback():
    """To the bit: only the second encoding tells the two apart."""
    values = vectors((96, 192))
    two_step, all_gather = (
        exchanged("sign:bucket=32", (96, 192), values, error_feedback=False, mean_spec="none", topology=topology)
        for topology in ("two_step", "all_gather")
    )
    for ours, others in zip(two_step, all_gather, strict=True):
        np.testing.assert_array_equal(ours[0], others[0])


def test_a_mean_in_float32_leaves_the_owner_no_residual():
    """Nothing of its own travels: its own value enters the mean as it is."""
    values = vectors((96, 192))
    owners = np.concatenate([np.arange(96) // 32, np.arange(192) // 32 % REPLICAS])
    owned = owners == np.arange(REPLICAS)[:, None]
    before = np.zeros((REPLICAS, 288))
    for (received, residuals), x in zip(
        exchanged("sign:bucket=32", (96, 192), values, mean_spec="none"), values, strict=True
    ):
        assert not residuals[owned].any() and residuals[~owned].all()
        np.testing.assert_allclose(received[0], (x + before - residuals).mean(0), atol=TOLERANCE)
        before = residuals


@pytest.mark.parametrize("spec", [pytest.param(s, marks=[pytest.mark.slow] * (s[:4] != "sign")) for s in QUANTIZERS])
def test_nothing_is_lost_when_shards_are_padded(spec):
    # sum_t q_t + mean_m e_T = sum_t mean_m x_t; 70 and 38 values in shards of 32: the last are padding, in part or all.
    values = vectors((70, 38))
    received, residuals = map(np.array, zip(*exchanged(spec, (70, 38), values), strict=True))
    assert np.all(received == received[:, :1])
    kept = residuals[-1].mean(0)
    np.testing.assert_allclose(received[:, 0].sum(0) + kept, values.mean(1).sum(0), atol=TOLERANCE)
    assert np.max(np.abs(residuals[-1])) > 0.1
