"""The k largest against a full stable sort, on all its paths."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import selection
from tests.oracles import compressors_numpy as oracle

N = 150_000
"""More than twice the sample, and no whole number of rows."""


@functools.cache
def chooser(k, jit=True):
    def choose(x):
        slots = selection.largest(x, k)
        return slots, selection.to_indices(slots, x.shape[0])

    return tf.function(choose, jit_compile=jit)


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
    taken = np.unique(selection._sample_positions(N))
    places = taken[:1000] if sampled else np.setdiff1d(np.arange(N), taken)[:5000]
    x[places] = 1 + np.arange(len(places)) / 5000
    assert_stable_sort(x, 1500)


def test_slots_are_a_permutation():
    for n in (1, 33, 1100, 5000):
        indices = selection.to_indices(tf.range(selection.num_slots(n)), n).numpy()
        np.testing.assert_array_equal(np.sort(indices), np.arange(selection.num_slots(n)))


def test_slots_follow_the_planes_by_hand():
    """64 values are rows of W = 2 words: slot 32 w + b is value 2 b + w."""
    assert selection.to_indices(tf.constant([0, 1, 31, 32, 63]), 64).numpy().tolist() == [0, 2, 62, 1, 63]
