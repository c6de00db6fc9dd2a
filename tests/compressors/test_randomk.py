"""Random values: distinct, equally likely, the same on both sides of the wire."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.compressors import RandomK, hash_random
from dqgan_tf.compressors.contrib import randomk
from tests.contracts.compressor_contract import encode, round_trip
from tests.oracles import compressors_numpy as oracle


def draw(seed, n, k):
    return randomk.random_indices(tf.constant(seed, tf.int32), n, k).numpy()


@pytest.mark.parametrize("n, k", [(1, 1), (33, 33), (100, 7), (1100, 11), (1_000_003, 10_001)])
def test_indices_are_distinct_and_in_range(n, k):
    indices = draw((1, 2), n, k)
    assert len(set(indices.tolist())) == k and indices.min() >= 0 and indices.max() < n


def test_every_index_is_equally_likely():
    """Of 4,000 draws of 3 in 10 each index is in 1,200 +- 29; arcs of 3, 3 and 4 values; five standard deviations."""
    drawer = tf.function(lambda seed: randomk.random_indices(seed, 10, 3), jit_compile=True, autograph=False)
    counts = np.bincount(np.concatenate([drawer(tf.constant([t, 5])) for t in range(4000)]), minlength=10)
    assert (np.abs(counts - 1200) < 5 * np.sqrt(4000 * 0.3 * 0.7)).all()


def test_what_is_drawn_arrives_and_the_rest_is_zero():
    x = oracle.distributions(1100)["gaussian"]
    decoded = round_trip(RandomK(0.1), x, seed=(4, 4))
    expected = np.zeros_like(x)
    expected[draw((4, 4), 1100, 110)] = x[draw((4, 4), 1100, 110)]
    np.testing.assert_array_equal(decoded, expected)


def test_the_seed_travels_and_no_index():
    assert encode(RandomK(0.1), np.ones(1100, np.float32), seed=(8, 9)).indices.numpy().tolist() == [8, 9]
    assert RandomK(0.1).wire_bytes(1100) == 8 + 4 * 110


def test_rounding_does_not_depend_on_the_draw():
    """Values of 0.3 at even places among ones are rounded up in three of ten cases, in every draw of about 256 of them.

    Arcs of two values: the first or second half of the hash decides which, and would decide the rounding as well.
    """
    compressor = compressors.get("randomk:fraction=0.5+linear:bits=2,bucket=32,rounding=stochastic")
    x = tf.constant(np.tile(np.array([0.3, 1.0], np.float32), 512))
    coder = tf.function(
        lambda seed: compressor.decode(compressor.encode(x, seed), 1024), jit_compile=True, autograph=False
    )
    for t in range(20):
        indices = draw((t, 1), 1024, 512)
        decoded = coder(tf.constant([t, 1])).numpy()[indices[indices % 2 == 0]]
        assert decoded.mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / len(decoded)))


def test_delta_is_the_share():
    assert RandomK(0.01).delta(6_342_272) == pytest.approx(0.01, abs=2e-6)


def test_integers_are_uniform():
    """Chi square of 7 cells: mean 6, standard deviation sqrt(12)."""
    numbers = hash_random.integers(tf.range(70_000), tf.constant([1, 2]), tf.constant(7, tf.int64)).numpy()
    counts = np.bincount(numbers, minlength=7)
    assert len(counts) == 7 and np.sum((counts - 10_000) ** 2) / 10_000 < 6 + 5 * np.sqrt(12)
