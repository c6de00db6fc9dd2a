"""Fitted levels: the fit against Lloyd and Max, and what the table may not break."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors, error_feedback
from dqgan_tf.compressors import Adaptive, Linear
from dqgan_tf.compressors.contrib import adaptive
from dqgan_tf.errors import UsageError
from tests.contracts.compressor_contract import bits, round_trip, vectors
from tests.oracles import adaptive_numpy
from tests.oracles import compressors_numpy as oracle

SEED = tf.constant([0, 0])
N = 512 * 48


def round_trip_of(compressor, x):
    payload = compressor.encode(x, SEED)
    return payload, compressor.decode(payload, x.shape[0])


@functools.cache
def compiled(compressor):
    """Returns (x, state) -> (payload, decoded) and (x, state) -> next state, of one replica."""

    def encode(x, state):
        return round_trip_of(compressor.bind(state), x)

    def step(x, state):
        return compressor.next_state(state, compressor.histogram(x))

    return tf.function(encode, jit_compile=True, autograph=False), tf.function(step, jit_compile=True, autograph=False)


@functools.cache
def draws(name, n, seed):
    return oracle.distributions(n, seed)[name]


@functools.cache
def fitted(compressor, name, steps):
    """Returns the state after `steps` steps, each on other values of the distribution."""
    state = tf.constant(compressor.initial_state(N))
    for x in draws(name, N * steps, 0).reshape(steps, N):
        state = compiled(compressor)[1](tf.constant(x), state)
    return state


def table(compressor, state):
    return state.numpy()[: compressor.num_levels]


@pytest.mark.parametrize("size", [3, 4, 5])
@pytest.mark.parametrize("name", ["gaussian", "laplace", "student_t3"])
def test_close_to_the_best_levels(size, name):
    """After 50 steps; Lloyd and Max see half a million values. Linear has the same number of levels, equally spaced."""
    compressor = Adaptive(size)
    state = fitted(compressor, name, 50)
    x = draws(name, 20 * N, 1)
    training = adaptive_numpy.shares(draws(name, 512 * 1000, 2))
    best = adaptive_numpy.lloyd_max(training, compressor.num_levels)
    lost = oracle.relative_error(x, compiled(compressor)[0](tf.constant(x), state)[1].numpy())
    least = oracle.relative_error(x, adaptive_numpy.nearest(x, best)[0])
    assert lost < 0.75 * oracle.relative_error(x, round_trip(Linear(size), x))
    # student_t3 has infinite fourth moments: what is best moves with the draw.
    assert lost < (1.10 if name == "student_t3" else 1.02) * least


def test_equals_the_oracle():
    compressor = Adaptive(4)
    state = fitted(compressor, "laplace", 1)
    x = oracle.distributions(N, seed=1)["laplace"]
    expected, margins = adaptive_numpy.nearest(x, table(compressor, state))
    # The scale is rounded up by at most 2^-15 of itself, which may decide within that distance of a boundary.
    clear = margins > 2.0**-14
    assert clear.mean() > 0.99
    decoded = compiled(compressor)[0](tf.constant(x), state)[1].numpy()
    np.testing.assert_allclose(decoded[clear], expected[clear], rtol=2.0**-15)


def test_bound_decode_is_bitwise_equal_in_all_modes():
    compressor = Adaptive(4)
    state = fitted(compressor, "student_t3", 1)
    for x in (oracle.distributions(N)["gaussian"], vectors()["largest"], vectors()["tiny"]):
        payload, decoded = compiled(compressor)[0](tf.constant(x), state)
        eager = compressor.bind(state).decode(payload, len(x))
        graph = tf.function(lambda x, s: round_trip_of(compressor.bind(s), x)[1])(tf.constant(x), state)
        np.testing.assert_array_equal(bits(eager), bits(decoded))
        np.testing.assert_array_equal(bits(eager), bits(graph))


def test_bound_state_reaches_every_block():
    """A loop over blocks encodes as the whole does, by the state from outside of the loop."""
    compressor = Adaptive(3)
    state, x = fitted(compressor, "laplace", 1), tf.constant(draws("laplace", N, 1))

    def encode(block):
        def encode(x, state):
            return error_feedback.encode(compressor.bind(state), x, tf.zeros([N]), SEED, block=block)

        return tf.function(encode, jit_compile=True, autograph=False)(x, state)

    blocked, whole = encode(512 * 8), compiled(compressor)[0](x, state)
    for field, expected in zip(blocked.payload, whole[0], strict=True):
        np.testing.assert_array_equal(bits(field), bits(expected))
    np.testing.assert_array_equal(blocked.residual, x - whole[1])


def test_products_are_exact():
    compressor = Adaptive(5)
    levels = table(compressor, fitted(compressor, "gaussian", 3)).astype(np.float64)
    payload, _ = compiled(compressor)[0](tf.constant(oracle.distributions(N)["gaussian"]), compressor.initial_state(N))
    products = payload.scales.numpy().astype(np.float64)[:, None] * levels
    np.testing.assert_array_equal(products.astype(np.float32), products)


def test_bound_is_tight_with_the_worst_table():
    """Every level but 0 near 1: all values beside the maximum lose almost half of it."""
    compressor = Adaptive(3)
    state = compressor.initial_state(512)
    state[1:3] = 0.9921875, 0.99609375
    x = np.full(512, 0.496, np.float32)
    x[0] = -1.0
    lost = oracle.relative_error(x, compiled(compressor)[0](tf.constant(x), tf.constant(state))[1].numpy())
    assert compressor.delta(512) == pytest.approx(4 / 515, rel=2e-4)
    assert compressor.delta(512) <= 1.0 - lost < 1.02 * compressor.delta(512)


def test_histogram_by_hand():
    """Bins 8 to an octave from 2^-8, all below in the first; zeros, ones, and what is not finite are not counted."""
    values = np.float32([0, -0.0, 1, 1.5, np.nan, np.inf, 1e-30, -0.001, 2**-8, 0.5, 0.5624, -0.5626, 0.999])
    counts = adaptive.count_bins(tf.constant(values)).numpy()
    expected = np.zeros(64)
    expected[[0, 56, 57, 63]] = 3, 2, 1, 1
    np.testing.assert_array_equal(counts, expected)
    edges = adaptive.bin_edges()
    assert (edges[0], edges[1], edges[56], edges[57], edges[64]) == (0, 2**-8 * 1.125, 0.5, 0.5625, 1)


def test_one_long_bucket_is_sampled_too():
    compressor, x = Adaptive(3, bucket=2**20), oracle.distributions(140_000)["laplace"]
    assert compressor.histogram(tf.constant(x)).numpy().sum() == len(x) - 1


def test_uniform_data_gives_uniform_levels():
    counts = np.diff(adaptive.bin_edges()).astype(np.float32)
    np.testing.assert_allclose(adaptive.fit_levels(tf.constant(counts), 8), np.arange(8) / 7, rtol=2**-8)


@pytest.mark.parametrize("occupied", [[0], [17], [63], [3, 60]])
@pytest.mark.parametrize("count", [4, 16])
def test_levels_increase_strictly(occupied, count):
    counts = np.zeros(64, np.float32)
    counts[occupied] = 1e6
    levels = adaptive.fit_levels(tf.constant(counts), count).numpy()
    assert levels[0] == 0.0 and levels[-1] == 1.0 and (np.diff(levels) > 0).all()
    assert (bits(levels) % 2**16 == 0).all() and levels[1] >= 2.0**-16


def test_histograms_add_over_replicas():
    """Counts are whole: the sum over three replicas is exact and is the histogram of all their values."""
    compressor = Adaptive(3)
    parts = oracle.distributions(3 * 512 * 40)["laplace"].reshape(3, -1)
    total = sum(compressor.histogram(tf.constant(part)) for part in parts)
    np.testing.assert_array_equal(total, compressor.histogram(tf.constant(parts.ravel())))
    assert total.numpy().sum() == 3 * 40 * 511
    assert total.shape == [compressor.histogram_size]


def test_long_vectors_are_sampled():
    """640 buckets are five times 65,536 values: every fourth bucket, without a partial one at the end."""
    x = oracle.distributions(512 * 640)["gaussian"]
    counts = Adaptive(3).histogram(tf.constant(np.append(x, np.float32(9.0)))).numpy()
    assert counts.sum() == 160 * 511
    np.testing.assert_array_equal(counts, Adaptive(3).histogram(tf.constant(x.reshape(640, 512)[::4].ravel())))


def test_pieces_look_at_the_buckets_that_the_whole_looks_at():
    compressor, x = Adaptive(3), oracle.distributions(512 * 640 + 17)["student_t3"]
    whole = compressor.histogram(tf.constant(x))
    every = compressor.histogram_stride(len(x))
    pieces = [compressor.histogram(tf.constant(p), every) for p in np.split(x, [512 * 64, 512 * 128, 512 * 500])]
    np.testing.assert_array_equal(sum(pieces), whole)


@pytest.mark.parametrize("x", [np.zeros(1000), np.ones(1000), np.full(1000, np.nan), np.float32([1e-35])])
def test_nothing_to_learn_leaves_the_state(x):
    compressor = Adaptive(3)
    state = compressor.initial_state(len(x))
    np.testing.assert_array_equal(compiled(compressor)[1](tf.constant(x, tf.float32), tf.constant(state)), state)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_total_that_is_not_finite_leaves_the_state(poison):
    compressor = Adaptive(3)
    state = fitted(compressor, "gaussian", 1)
    total = np.ones(64, np.float32)
    total[5] = poison
    np.testing.assert_array_equal(compressor.next_state(state, tf.constant(total)), state)


def test_levels_follow_a_change():
    """Gaussian, then heavy tails: after 30 steps the running histogram holds 0.9^30 = 4 % of the old values."""
    compressor = Adaptive(4)
    state = fitted(compressor, "gaussian", 3)
    for _ in range(30):
        state = compiled(compressor)[1](tf.constant(oracle.distributions(N)["student_t3"]), state)
    np.testing.assert_allclose(
        table(compressor, state), table(compressor, fitted(compressor, "student_t3", 3)), atol=0.02
    )


def test_bound_and_unbound_are_equal():
    compressor = Adaptive(3)
    bound = compressor.bind(tf.constant(compressor.initial_state(1)))
    assert bound == compressor and hash(bound) == hash(compressor) and bound.spec == compressor.spec


def test_no_table_for_the_values_of_a_sparse_one():
    with pytest.raises(UsageError, match="`values` must have no state.* Received: .*adaptive.*topk:fraction=0.01"):
        compressors.get("topk:fraction=0.1+adaptive")


def test_without_state_nothing_happens():
    compressor, state = Linear(4), tf.constant([1.0])
    assert compressor.initial_state(5) is None and compressor.bind(state) is compressor
    assert compressor.histogram(tf.zeros([5])).shape == [0] and compressor.next_state(state, state) is state


@pytest.mark.parametrize("size, bucket", [(2, 512), (6, 512), (3.0, 512), (3, 100)])
def test_refuses(size, bucket):
    with pytest.raises(UsageError, match="`bits` must be 3, 4 or 5|`bucket` must be a positive multiple of 32"):
        Adaptive(size, bucket)


# Tables along a tree, against numpy's indexing and binary search.


RNG = np.random.default_rng(0)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4, 16])
def test_choose_is_indexing(size, jit):
    """Bits above those of the table's numbers, here bit 5 and the sign, do not matter."""
    indices, table = RNG.integers(0, size, (3, 50)), RNG.standard_normal(size).astype(np.float32)
    codes = tf.constant(np.where(indices % 2, indices | 32, indices - 64), tf.int32)
    entries = tf.function(
        lambda i: adaptive.choose(i, tf.unstack(tf.constant(table))), jit_compile=jit, autograph=False
    )(codes)
    np.testing.assert_array_equal(entries, table[indices])


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("count", [1, 3, 7, 15])
def test_count_below_is_a_binary_search(count, jit):
    """Bounds of each row's own, two of them equal; every bound is among the values and is not below itself."""
    bounds = np.sort(RNG.standard_normal((4, count)).astype(np.float32))
    bounds[1, : min(2, count)] = bounds[1, 0]
    values = np.concatenate([bounds, RNG.standard_normal((4, 40)).astype(np.float32)], 1)

    def count_below(values, bounds):
        return adaptive.count_below(values, tf.unstack(bounds[:, :, None], axis=1))

    counts = tf.function(count_below, jit_compile=jit, autograph=False)(values, bounds)
    expected = [np.searchsorted(row, value, side="left") for row, value in zip(bounds, values, strict=True)]
    np.testing.assert_array_equal(counts, expected)


def test_nothing_is_below_nan():
    counts = adaptive.count_below(tf.constant([[-1.0, 1e30]]), [tf.constant([[np.nan]])] * 7)
    np.testing.assert_array_equal(counts, [[0, 0]])
