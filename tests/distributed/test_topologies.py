"""Oracle test: every compressor in every topology with 2, 3 and 4 replicas of one process, three calls with feedback.

Eagerly here, which checks the equations; compiled as in a run for a few, and with three replicas for all among the
slow tests.
"""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.compressors import blocks
from dqgan_tf.distribute.layout import Slice, Vector
from dqgan_tf.distribute.topologies.packet import Seeds, encoding_key, joined_slices
from tests.distributed import exchange_cases, lockstep
from tests.distributed.exchange_cases import CALLS, MATRICES, POISONED, Case

REPLICAS = (2, 3, 4)
# Values and residuals up to 10 and, at the owner, four times an error: float32 rounds them to 1e-6, three calls long.
TOLERANCE = 1e-5
FOUR = ("linear:bits=4,bucket=32", "randomk:fraction=0.1", "none", "powersgd:rank=2,explore=1")
WITHOUT = ("linear:bits=4,bucket=32", "sign:bucket=32")
COMPILED = {
    (Case("linear:bits=4,bucket=32", "all_gather"), 2),
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
        if replicas < 4 or not case.spec.startswith("topk")  # bisections of top-k take 30 s eagerly
    ]


@pytest.mark.parametrize("case, replicas", by_replicas(quick))
def test_equations(eager, case, replicas):
    assert_follows_oracle(case, replicas)


@pytest.mark.parametrize(
    "case, replicas",
    [case for case in by_replicas(lambda *case: case in COMPILED) if case.values[1] == 3 or not case.marks],
)
def test_compiled(case, replicas):
    assert_follows_oracle(case, replicas, block=blocks.CPU_BLOCK)


@pytest.mark.parametrize("replicas", [pytest.param(2, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("case", [Case(spec, topology) for spec in WITHOUT for topology in ("all_gather", "two_step")])
def test_without_feedback(eager, case, replicas):
    assert_follows_oracle(case, replicas, error_feedback=False)


def test_the_mean_of_what_is_not_compressed_is_the_sum_times_the_reciprocal_to_the_bit():
    """Compiled; of three, whose reciprocal is no float32. So is TensorFlow's: see tests/gan/test_identities.py."""
    packet, _ = built([Vector("only", compressors.get("none"), ((1000,),), (0,))], lockstep.settings(3))
    assert packet.name == "dense" and packet.residuals == [None]
    values = np.random.default_rng(4).standard_normal([3, 1000]).astype(np.float32)
    outcomes = lockstep.reduce(packet, [[tf.constant(v)] for v in values], [seeds(m, 0) for m in range(3)])
    for outcome in outcomes:
        mean = lockstep.mean(outcome.means, 0, 1000)
        np.testing.assert_array_equal(mean, (values[0] + values[1] + values[2]) * np.float32(1 / 3))


def test_random_values_arrive_as_they_are_by_way_of_an_owner(eager):
    """All replicas and the owner draw the same tenth: the mean holds that tenth of the exact mean, and nothing less."""
    replicas, n = 4, 1280
    vector = Vector("only", compressors.get("randomk:fraction=0.1"), ((n,),), (0,))
    packet, _ = built([vector], lockstep.settings(replicas), "two_step")
    values = np.random.default_rng(5).standard_normal([replicas, n]).astype(np.float32)
    common = tf.constant([99, 3])
    drawing = [Seeds(tf.constant([rank, 3]), common) for rank in range(replicas)]
    outcomes = lockstep.reduce(packet, [[tf.constant(value)] for value in values], drawing)
    for rank, outcome in enumerate(outcomes):
        mean = lockstep.mean(outcome.means, 0, n)
        drawn = np.flatnonzero(mean)
        assert len(drawn) == n // 10
        np.testing.assert_allclose(mean[drawn], values.mean(0)[drawn], rtol=0, atol=1e-6)
        expected = values[rank].copy()
        expected[drawn] = 0.0
        np.testing.assert_array_equal(outcome.residuals[0], expected)


@pytest.mark.parametrize("topology", ["all_gather", "two_step"])
def test_replicas_round_by_numbers_of_their_own(eager, topology):
    """Equal updates on all replicas: with one stream for all, each of them would keep the same residual."""
    vector = Vector("only", compressors.get("linear:bits=2,bucket=32,rounding=stochastic"), ((96,),), (0,))
    packet, _ = built([vector], lockstep.settings(3), topology)
    update = np.random.default_rng(6).standard_normal(96).astype(np.float32)

    def residuals(call):
        outcomes = lockstep.reduce(packet, [[tf.constant(update)]] * 3, [seeds(m, call) for m in range(3)])
        return [outcome.residuals[0].numpy().tobytes() for outcome in outcomes]

    assert len({*residuals(0), *residuals(1)}) == 6, "of every replica and every call"
    assert residuals(0) == residuals(0)


@pytest.mark.parametrize(
    ("spec", "groups"),
    [("sign:bucket=32", ((2, 3, 1), (4,), (0,))), ("topk:fraction=0.1", ((2,), (3,), (1,), (4,), (0,)))],
)
def test_slices_without_a_gap_are_decoded_together_where_a_compressor_works_bucket_by_bucket(spec, groups):
    ranges = [(1, 0, 32), (0, 64, 32), (0, 0, 32), (0, 32, 32), (0, 128, 8)]
    vectors = [Vector(name, compressors.get(spec), ((136,),), (i,)) for i, name in enumerate(("first", "second"))]
    slices = [Slice(*one) for one in ranges]
    keys = [encoding_key(vectors[part.vector], part.size) for part in slices]
    ranges, indices = joined_slices(slices, keys)
    assert indices == groups
    assert ranges == [
        Slice(slices[group[0]].vector, slices[group[0]].start, sum(slices[index].size for index in group))
        for group in groups
    ]


def built(vectors, settings, topology=None):
    """Returns the only packet of these vectors, and what their compressors have learned."""
    (packet,), learned = lockstep.build(topology, vectors, settings)
    return packet, learned


def seeds(replica, call):
    """As a channel makes them."""
    return Seeds(tf.constant(exchange_cases.stream(replica, call)), tf.constant(exchange_cases.common_stream(call)))


def assert_follows_oracle(case, replicas, *, error_feedback=True, block=None):
    """Compares three reductions with the oracle, as a channel would run them."""
    expected = exchange_cases.expected(case, replicas, error_feedback)
    compressor = compressors.get(case.spec)
    weights = ((0, 1), (2,))
    vectors = [Vector(*row) for row in zip(("first", "second"), [compressor] * 2, MATRICES, weights, strict=True)]
    topology = case.topology if case.topology in ("all_gather", "two_step") else None
    packet, learned = built(vectors, lockstep.settings(replicas, error_feedback, block), topology)
    assert packet.name == case.topology
    assert [part.vector for part in packet.slices] == [1, 0], "the last weights come first"
    for call in range(CALLS):
        values = [exchange_cases.inputs(expected.data, replica, replicas, call) for replica in range(replicas)]
        updates = [[tf.constant(own[part.vector]) for part in packet.slices] for own in values]
        outcomes = lockstep.reduce(packet, updates, [seeds(replica, call) for replica in range(replicas)])
        assert [bool(outcome.bounded) for outcome in outcomes] == [call != POISONED] * replicas
        if call == POISONED:
            continue
        for replica, outcome in enumerate(outcomes):
            packet.commit(outcome, replica, updates[replica])
        learn(packet, learned, outcomes)
        for place, part in enumerate(packet.slices):
            energies = np.stack([outcome.energies[place] for outcome in outcomes])
            means = [lockstep.mean(outcome.means, part.vector, vectors[part.vector].size) for outcome in outcomes]
            wanted, state = expected.calls[call][part.vector], learned[part.vector]
            assert_equal_to(wanted, means, state, packet.residuals[place], energies)


def assert_equal_to(expected, means, state, residual, energies):
    """Compares one vector's means, state, residuals and energies with the oracle's `Outcome`."""
    assert all(mean.tobytes() == means[0].tobytes() for mean in means), "all replicas receive the same bits"
    np.testing.assert_allclose(means[0], expected.mean, rtol=0, atol=TOLERANCE)
    if residual is None:
        assert not expected.residuals.any()
    else:
        np.testing.assert_allclose(np.stack(residual.variables), expected.residuals, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(energies, expected.energies, rtol=1e-4, atol=1e-6)
    if isinstance(expected.state, tuple):  # levels, which are exact, and a running histogram
        levels = expected.state[0]
        np.testing.assert_array_equal(state.variables[0][: len(levels)], levels)


def learn(packet, learned, outcomes):
    """As a channel: states are fitted to the histograms of all replicas, or are those that the packet returned."""
    for place, part in enumerate(packet.slices):
        state, histograms = learned[part.vector], [outcome.histograms[place] for outcome in outcomes]
        for replica, variable in enumerate(state.variables if state else []):
            if histograms[0] is None:
                variable.assign(outcomes[replica].learned[place])
            else:
                variable.assign(packet.vectors[place].compressor.next_state(variable, tf.add_n(histograms)))


@pytest.mark.parametrize("spec", ["topk:fraction=0.01", "randomk:fraction=0.01"])
def test_two_steps_of_more_replicas_trace_about_as_many_operations(spec):
    """1.2 times as many for eight as for two, the parts of the packets; copies for every shard were three times."""
    of_two, of_eight = (_operations(_exchange_of_zeros(spec, replicas)) for replicas in (2, 8))
    assert of_two > 1000
    assert of_eight < 1.5 * of_two


def _exchange_of_zeros(spec, replicas, size=40_001):
    """Returns a function of no arguments that runs one exchange of zeros."""
    vectors = [Vector("v", compressors.get(spec), ((size,),), (0,))]
    settings = lockstep.settings(replicas, block=blocks.CPU_BLOCK)
    (packet,), _ = lockstep.build("two_step", vectors, settings)
    streams = tf.constant(exchange_cases.stream(0, 0)), tf.constant(exchange_cases.common_stream(0))
    generator = packet.reduce([tf.zeros([size])], 0, 0, Seeds(*streams))

    def exchange():
        rows = next(generator).value
        words = generator.send([rows[0]] * replicas).value
        with pytest.raises(StopIteration):
            generator.send([words] * replicas)

    return exchange


def _operations(function):
    """Returns the number of operations that a function of tensors traces, those of its functions included."""
    graph = tf.function(function, autograph=False).get_concrete_function().graph.as_graph_def()
    return len(graph.node) + sum(len(inner.node_def) for inner in graph.library.function)
