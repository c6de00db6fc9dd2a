"""The largest magnitudes: the compressor, the selection and the code of the positions."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.compressors import TopK, topk
from dqgan_tf.errors import UsageError
from tests.contracts.compressor_contract import encode, round_trip
from tests.oracles import compressors_numpy as oracle


@pytest.mark.parametrize(
    "fraction, n, k",
    [
        (0.01, 150, 2),
        (0.1, 1100, 110),
        *[pytest.param(*p, marks=pytest.mark.slow) for p in [(0.01, 1, 1), (1.0, 33, 33)]],
    ],
)
def test_equals_the_oracle(fraction, n, k):
    x = oracle.distributions(n)["student_t3"]
    assert TopK(fraction).k(n) == k
    mode = "xla" if n == 1100 else "graph"  # the contract has short vectors in XLA
    np.testing.assert_array_equal(round_trip(TopK(fraction), x, mode=mode), oracle.topk(x, k))


def test_indices_are_distinct_even_among_equals():
    decoded = round_trip(TopK(0.5), np.ones(100, np.float32), mode="graph")
    np.testing.assert_array_equal(decoded, np.arange(100) < 50)


def test_nan_and_inf_come_before_everything():
    x = np.linspace(1e30, 3e38, 1000, dtype=np.float32)
    x[[4, 500]] = np.nan, -np.inf
    values = encode(TopK(0.002), x, mode="graph").values.numpy()
    assert np.isnan(values).sum() == 1 and (values == -np.inf).sum() == 1


def test_delta_is_the_share_and_tight():
    x = np.ones(200, np.float32)
    assert TopK(0.1).delta(200) == pytest.approx(0.1, abs=2e-6)
    assert oracle.relative_error(x, round_trip(TopK(0.1), x, mode="graph")) == pytest.approx(0.9)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan"), True, "0.1"])
def test_refuses(fraction):
    with pytest.raises(UsageError, match=r"`fraction` must be in \(0, 1\]. Received: fraction="):
        TopK(fraction)


@pytest.mark.parametrize(
    "values",
    ["linear:bits=8,bucket=512", *[pytest.param(p, marks=pytest.mark.slow) for p in ["sign:bucket=512", "bf16"]]],
)
def test_values_by_a_second_compressor(values):
    """What travels of the k values, in the order of their slots, is what the second compressor makes of them."""
    x = oracle.distributions(5000)["student_t3"]
    inner = compressors.get(values)
    exact, coded = (encode(compressor, x, mode="graph") for compressor in (TopK(0.1), TopK(0.1, inner)))
    np.testing.assert_array_equal(exact.indices, coded.indices)
    support = oracle.topk(x, 500) != 0
    decoded = round_trip(TopK(0.1, inner), x, mode="graph")
    assert not decoded[~support].any()
    np.testing.assert_array_equal(
        np.sort(decoded[support]), np.sort(round_trip(inner, exact.values.numpy(), mode="graph"))
    )


def test_delta_of_two_is_the_product():
    inner = compressors.get("linear:bits=4,bucket=512")
    assert TopK(0.1, inner).delta(10_000) == pytest.approx(0.1 * inner.delta(1000), abs=2e-6)


def test_bytes():
    """1 % of 6,342,272: an index takes 6 + 2.6 bits, an 8-bit value 1 byte and 4 bytes for every 512."""
    n, k = 6_342_272, 63_423
    indices = 4 * (6 * 1982 + -(-(k + 99_135) // 32))
    assert TopK().wire_bytes(n) == indices + 4 * k
    quantized = compressors.get("topk:fraction=0.01+linear:bits=8,bucket=512")
    assert quantized.wire_bytes(n) == indices + 124 * (512 + 4) < 140_000


def test_refuses_values_that_are_no_compressor():
    with pytest.raises(UsageError, match="`values` must be a compressor. Received: values='linear'"):
        TopK(0.1, "linear")


# The selection, against a full stable sort, on all its paths.


N = 150_000
"""More than twice the sample, and no whole number of rows."""


@functools.cache
def chooser(k, jit=True):
    def choose(x):
        slots = topk.largest(x, k)
        return slots, topk.to_indices(slots, x.shape[0])

    return tf.function(choose, jit_compile=jit, autograph=False)


def assert_stable_sort(x, k):
    slots, indices = chooser(k)(x)
    assert (np.diff(slots) > 0).all()
    expected = np.argsort(-np.abs(x).astype(np.float64), kind="stable")[:k]
    np.testing.assert_array_equal(np.sort(indices), np.sort(expected))


@pytest.mark.parametrize("k", [1500, *[pytest.param(k, marks=pytest.mark.slow) for k in [1, 2, 75_000]]])
@pytest.mark.parametrize("name", ["gaussian", "student_t3", "zeros_90"])
def test_equals_a_stable_sort(name, k):
    assert_stable_sort(oracle.distributions(N)[name], k)


@pytest.mark.parametrize(
    "n, k",
    [(1, 1), (33, 5), *[pytest.param(*p, marks=pytest.mark.slow) for p in [(1100, 11), (4096, 4096), (5000, 50)]]],
)
def test_short_vectors(n, k):
    assert_stable_sort(oracle.distributions(n)["gaussian"], k)


def test_ties_go_to_the_first():
    """More equal values than candidates have room for, and among the candidates."""
    assert_stable_sort(np.ones(N, np.float32), 1500)
    assert_stable_sort(np.round(4 * oracle.distributions(N)["gaussian"]), 1500)


@pytest.mark.parametrize("sampled", [True, False])
def test_a_sample_that_misleads(sampled):
    """The largest 1,000 or 5,000 values where samples are taken, or none: too few candidates, or too many."""
    x = np.full(N, 1e-3, np.float32) * (1 + np.arange(N) / N).astype(np.float32)
    sampled_places = np.unique(topk.sample_positions(N))
    places = sampled_places[:1000] if sampled else np.setdiff1d(np.arange(N), sampled_places)[:5000]
    x[places] = 1 + np.arange(len(places)) / 5000
    assert_stable_sort(x, 1500)


def test_slots_are_a_permutation():
    for n in (1, 33, 1100, 5000):
        indices = topk.to_indices(tf.range(topk.num_slots(n)), n).numpy()
        np.testing.assert_array_equal(np.sort(indices), np.arange(topk.num_slots(n)))


def test_slots_follow_the_planes_by_hand():
    """64 values are rows of W = 2 words: slot 32 w + b is value 2 b + w."""
    assert topk.to_indices(tf.constant([0, 1, 31, 32, 63]), 64).numpy().tolist() == [0, 2, 62, 1, 63]


# Positions of set bits, against numpy.


def to_words(flags):
    return np.packbits(flags, bitorder="little").view(np.int32)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("words", [1, 2, 31, 32, 1000])
def test_set_bits_equal_flatnonzero(words, share):
    flags = np.random.default_rng(words).random(32 * words) < share
    expected = np.flatnonzero(flags)
    count = len(expected) + 7
    positions = tf.function(lambda w: topk.set_bits(w, count), jit_compile=True, autograph=False)(
        to_words(flags)
    ).numpy()
    np.testing.assert_array_equal(positions[: len(expected)], expected)
    assert (positions[len(expected) :] >= 32 * words).all()


def test_set_bits_by_hand():
    words = np.array([0, 1 << 31 | 1 << 3, 0, 1], np.uint32).view(np.int32)
    assert topk.set_bits(words, 3).numpy().tolist() == [35, 63, 96]


def test_fewer_set_bits_than_there_are():
    assert topk.set_bits(np.array([-1], np.int32), 5).numpy().tolist() == [0, 1, 2, 3, 4]


# Ascending integers in few bits: by hand, as a bijection, and no longer than promised.


CASES = [
    (1, 1),
    (1, 32),
    (1, 10**6),
    (5, 5),
    (11, 1120),
    (64, 1000),
    (1000, 10**6),
    (3000, 3000),
    (40, 2**31 - 1),
    (2000, 2**22),
]


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("k, universe", CASES)
def test_elias_fano_decode_inverts_encode(k, universe, jit):
    rng = np.random.default_rng(k)
    draws = rng.choice(universe, k, replace=False) if universe < 10**7 else rng.integers(0, universe, k)
    values = np.sort(draws).astype(np.int32)
    values[-1] = universe - 1
    words = tf.function(lambda v: topk.elias_fano_encode(v, universe), jit_compile=jit, autograph=False)(values)
    assert words.shape == (topk.elias_fano_words(k, universe),) and words.dtype == tf.int32
    decoded = tf.function(lambda w: topk.elias_fano_decode(w, k, universe), jit_compile=jit, autograph=False)(words)
    np.testing.assert_array_equal(decoded, values)


@pytest.mark.parametrize("k, universe", [(63_423, 6_344_704), (634_228, 6_344_704), (6_343, 6_344_704), (1000, 10**6)])
def test_elias_fano_bits_of_each(k, universe):
    """floor(log2(u / k)) low bits, and k + u / 2^l < 3 k bits of the vector; at most a word more for each low bit."""
    low = int(math.log2(universe / k))
    classical = -(-k * low // 32) + -(-(k + (universe >> low)) // 32)
    assert topk.elias_fano_words(k, universe) <= classical + low
    assert 32 * topk.elias_fano_words(k, universe) / k < math.log2(universe / k) + 2.3


def test_elias_fano_by_hand():
    """64 values below 1024 have 4 low bits: 8 words; bits j + (v_j >> 4) of 64 + 63 are 4 words more."""
    values = np.arange(64, dtype=np.int32) * 16 + 5
    words = topk.elias_fano_encode(values, 1024).numpy().view(np.uint32)
    assert words.tolist() == [0x55555555] * 8 + [0x55555555] * 4


def test_few_integers_are_sent_as_they_are():
    assert topk.elias_fano_encode(tf.constant([123456]), 10**6).numpy().tolist() == [123456]
