"""Orthonormal bases of awkward columns, normal numbers, and the choice of columns."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import low_rank

ROWS, K = 40, 4
RNG = np.random.default_rng(0)
SEED = tf.constant([1, 2])


@tf.function(jit_compile=True)
def basis_of(columns):
    return low_rank.orthonormalise(columns[None], low_rank.gaussian(ROWS, K, SEED)[None])[0]


def columns(kind):
    full = RNG.standard_normal((ROWS, K))
    made = {
        "full": full,
        "zero": 0 * full,
        "rank_1": full[:, :1] * [1, -2, 3, 1e-3],
        "zero_between": full * [1, 0, 1, 1],
        "nearly_dependent": full[:, :1] + 1e-3 * full,
        "dependent_to_rounding": full[:, :1] * np.ones(K) * (1 + 1e-7 * full),
        "huge": 1e30 * full,
        "tiny": 1e-30 * full,
        "mixed": full * [1e30, 1e-30, 1, 1e20],
    }
    return made[kind].astype(np.float32)


KINDS = ("full", "zero", "rank_1", "zero_between", "nearly_dependent", "dependent_to_rounding", "huge", "tiny", "mixed")


@pytest.mark.parametrize("kind", KINDS)
def test_orthonormal(kind):
    basis = basis_of(columns(kind)).numpy().astype(np.float64)
    np.testing.assert_allclose(basis.T @ basis, np.eye(K), atol=1e-6)


@pytest.mark.parametrize("kind", ["full", "rank_1", "nearly_dependent", "huge", "tiny", "mixed"])
def test_spans_the_columns(kind):
    """What is left outside is rounding, relative to each column."""
    given = columns(kind)
    basis = basis_of(given).numpy().astype(np.float64)
    given = given.astype(np.float64) / np.linalg.norm(given.astype(np.float64), axis=0)
    assert np.linalg.norm(given - basis @ (basis.T @ given), axis=0).max() < 2e-6


def test_matrices_beside_each_other():
    """Each as if it were alone. The second has as many rows as columns: the last column has one direction left."""
    first, second = columns("full"), columns("full")
    spare = low_rank.gaussian(2 * ROWS, K, SEED).numpy().reshape(2, ROWS, K)
    second[K:], spare[1, K:] = 0.0, 0.0
    both = low_rank.orthonormalise(tf.constant([first, second]), tf.constant(spare)).numpy()
    alone = low_rank.orthonormalise(tf.constant(first[None]), tf.constant(spare[:1])).numpy()[0]
    np.testing.assert_allclose(both[0], alone, atol=1e-6)
    np.testing.assert_allclose(both[1].T @ both[1], np.eye(K), atol=1e-6)
    assert not both[1, K:].any()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_poison_stays_visible(poison):
    given = columns("full")
    given[5, 1] = poison
    basis = basis_of(given).numpy()
    assert np.isfinite(basis[:, 0]).all() and np.isnan(basis[:, 1:]).all()


def test_gaussian():
    """Standard errors of n normal numbers: mean 1 / sqrt(n), variance sqrt(2 / n), fourth moment sqrt(96 / n)."""
    n = 1000 * 200
    g = low_rank.gaussian(1000, 200, SEED).numpy().astype(np.float64)
    assert abs(g.mean()) < 5 / np.sqrt(n) and abs(g.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs(np.mean(g**4) - 3) < 5 * np.sqrt(96 / n) and np.isfinite(g).all()
    assert abs(np.mean(g[:, 1:] * g[:, :-1])) < 5 / np.sqrt(n) and abs(np.mean(g[1:] * g[:-1])) < 5 / np.sqrt(n)


def test_leading_by_hand():
    given = np.float32([[3, 0, 0, 5], [4, 0, 1, 12]])
    np.testing.assert_allclose(low_rank.leading(tf.constant(given), 2), np.float32([[5 / 13, 0.6], [12 / 13, 0.8]]))
    np.testing.assert_array_equal(low_rank.leading(tf.zeros([5, 3]), 2), np.zeros((5, 2)))


@pytest.mark.parametrize("columns", [1, 3, 20])
def test_outer_is_the_product(columns):
    """float32 against float64: each of up to 20 terms is rounded once and added with one more rounding."""
    rng = np.random.default_rng(columns)
    left, right = (rng.standard_normal((size, columns)).astype(np.float32) for size in (5, 7))
    found = tf.function(low_rank.outer, jit_compile=True)(left, right)
    np.testing.assert_allclose(found, left.astype(np.float64) @ right.T.astype(np.float64), atol=1e-5)
