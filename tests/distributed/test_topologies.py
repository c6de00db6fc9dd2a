"""Oracle test: every compressor in every topology with 2, 3 and 4 replicas of one process, three calls with feedback.

Eagerly here, which checks the equations; compiled as in a run for a few, and for all among the slow tests.
"""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.compressors import blocks
from dqgan_tf.distribute import topologies
from dqgan_tf.distribute.segment import Segment
from tests.distributed import exchange_cases, lockstep
from tests.distributed.exchange_cases import CALLS, POISONED, SIZES, Case

REPLICAS = (2, 3, 4)
# Values and residuals up to 10 and, at the owner, four times an error: float32 rounds them to 1e-6, three calls long.
TOLERANCE = 1e-5
FOUR = ("linear:bits=4,bucket=32", "randomk:fraction=0.1", "none", "powersgd:rank=2,explore=1")
WITHOUT = ("linear:bits=4,bucket=32", "sign:bucket=32")
COMPILED = {
    (Case("linear:bits=4,bucket=32", "two_step"), 4),
    (Case("powersgd:rank=2,explore=1", "low_rank"), 3),
}


@pytest.fixture
def eager():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def quick(case, replicas):
    """Every compressor in every topology once, some with four replicas; but bisections of top-k are slow eagerly."""
    if case.topology == "two_step":
        once = replicas == 3 and not case.spec.startswith("topk")
    else:
        once = replicas == 2 and "+" not in case.spec
    return once or (replicas == 4 and case.spec in FOUR)


def by_replicas(quick):
    return [
        pytest.param(case, replicas, marks=[] if quick(case, replicas) else pytest.mark.slow, id=f"{replicas}-{case}")
        for case in exchange_cases.cases()
        for replicas in REPLICAS
    ]


@pytest.mark.parametrize("case, replicas", by_replicas(quick))
def test_equations(eager, case, replicas):
    assert_follows_oracle(case, replicas, topologies.Encoder(error_feedback=True, block=None))


@pytest.mark.parametrize("case, replicas", by_replicas(lambda *case: case in COMPILED))
def test_compiled(case, replicas):
    assert_follows_oracle(case, replicas, topologies.Encoder(error_feedback=True, block=blocks.CPU_BLOCK))


def test_the_mean_of_what_is_not_compressed_is_the_sum_times_the_reciprocal_to_the_bit():
    """Compiled; of three, whose reciprocal is no float32. So is TensorFlow's: see tests/gan/test_identities.py."""
    segments = [Segment("only", 1000, compressors.get("none"), ((1000,),))]
    (topology,) = topologies.build("auto", segments, 3, topologies.Encoder(error_feedback=True, block=blocks.CPU_BLOCK))
    values = np.random.default_rng(4).standard_normal([3, 1000]).astype(np.float32)
    common = {"residuals": [tf.zeros([1000])], "states": [None], "seed": tf.zeros([2], tf.int32)}
    common |= {"common_seed": tf.zeros([2], tf.int32)}
    given = [topologies.Given(values=[tf.constant(v)], rank=tf.constant(i), **common) for i, v in enumerate(values)]
    for reduced in lockstep.reduce(topology, given):
        np.testing.assert_array_equal(reduced.means[0], (values[0] + values[1] + values[2]) * np.float32(1 / 3))


def test_random_values_arrive_as_they_are_by_way_of_an_owner(eager):
    """All replicas and the owner draw the same tenth: the mean holds that tenth of the exact mean, and nothing less."""
    replicas, n = 4, 1280
    segments = [Segment("only", n, compressors.get("randomk:fraction=0.1"), ((n,),))]
    (topology,) = topologies.build("two_step", segments, replicas, topologies.Encoder(error_feedback=True, block=None))
    values = np.random.default_rng(5).standard_normal([replicas, n]).astype(np.float32)
    given = [
        topologies.Given(
            values=[tf.constant(value)],
            residuals=[tf.zeros([n])],
            states=[None],
            seed=tf.constant([rank, 3]),
            common_seed=tf.constant([99, 3]),
            rank=tf.constant(rank),
        )
        for rank, value in enumerate(values)
    ]
    for rank, reduced in enumerate(lockstep.reduce(topology, given)):
        mean = reduced.means[0].numpy()
        drawn = np.flatnonzero(mean)
        assert len(drawn) == n // 10
        np.testing.assert_allclose(mean[drawn], values.mean(0)[drawn], rtol=0, atol=1e-6)
        kept = values[rank].copy()
        kept[drawn] = 0.0
        np.testing.assert_array_equal(reduced.residuals[0], kept)


@pytest.mark.parametrize("replicas", [pytest.param(2, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("case", [Case(spec, topology) for spec in WITHOUT for topology in ("all_gather", "two_step")])
def test_without_feedback(eager, case, replicas):
    assert_follows_oracle(case, replicas, topologies.Encoder(error_feedback=False, block=None))


def assert_follows_oracle(case, replicas, encoder):
    """Compares three reductions with the oracle, as a channel would run them."""
    expected = exchange_cases.expected(case, replicas, encoder.error_feedback)
    names = ("first", "second")
    compressor = compressors.get(case.spec)
    segments = [Segment(name, s.size, compressor, s.shapes) for name, s in zip(names, case.segments, strict=True)]
    name = case.topology if case.topology in topologies.NAMES else "auto"
    (topology,) = topologies.build(name, segments, replicas, encoder)
    assert topology.name == case.topology
    residuals = [[tf.zeros([size]) for size in SIZES] for _ in range(replicas)]
    states = [None if s.initial_state() is None else tf.constant(s.initial_state()) for s in segments]
    for call in range(CALLS):
        given = [
            topologies.Given(
                values=[tf.constant(v) for v in exchange_cases.given(expected.data, replica, replicas, call)],
                residuals=residuals[replica],
                states=states,
                seed=tf.constant(exchange_cases.stream(replica, call)),
                common_seed=tf.constant(exchange_cases.common_stream(call)),
                rank=tf.constant(replica),
            )
            for replica in range(replicas)
        ]
        reduced = lockstep.reduce(topology, given)
        assert [bool(one.finite) for one in reduced] == [call != POISONED] * replicas
        if call == POISONED:
            continue
        assert_equal_to(reduced, expected.calls[call])
        residuals = [one.residuals for one in reduced]
        states = learned(compressor, reduced, states)
        for state, outcome in zip(states, expected.calls[call], strict=True):
            if case.spec.startswith("adaptive"):
                np.testing.assert_array_equal(state[: len(outcome.state[0])], outcome.state[0])


def assert_equal_to(reduced, outcomes):
    for index, outcome in enumerate(outcomes):
        means = [one.means[index].numpy() for one in reduced]
        assert all(mean.tobytes() == means[0].tobytes() for mean in means), "all replicas receive the same bits"
        np.testing.assert_allclose(means[0], outcome.mean, rtol=0, atol=TOLERANCE)
        kept = np.stack([one.residuals[index] for one in reduced])
        np.testing.assert_allclose(kept, outcome.residuals, rtol=0, atol=TOLERANCE)
        energies = np.stack([one.statistics[index] for one in reduced])
        np.testing.assert_allclose(energies, outcome.energies, rtol=1e-4, atol=1e-6)


def learned(compressor, reduced, states):
    """What a channel remembers: the fit to the samples of all replicas, or what the topology returned."""
    new = reduced[0].states
    for index, own in enumerate(zip(*[one.samples for one in reduced], strict=True)):
        if own[0] is not None:
            new[index] = compressor.next_state(states[index], tf.add_n(list(own)))
    return new
