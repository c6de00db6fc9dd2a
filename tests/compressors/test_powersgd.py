"""Low rank over three simulated workers: numpy oracle, identities, contraction of each worker, warm start."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import PowerSGD
from dqgan_tf.compressors.contrib import powersgd
from tests.oracles import powersgd_numpy as oracle

WORKERS, STEPS = 3, 20
SHAPES = ((12, 20), (7,), (2, 3, 5, 9), (2, 3))
"""A matrix, a bias, a kernel sent transposed as [9, 30], and a matrix too small to be worth it."""
PLAN = PowerSGD(rank=2, explore=1).plan(SHAPES)
SIZE = 12 * 20 + 7 + 270 + 6
MATRIX = PowerSGD(rank=2, explore=1).plan([(12, 20)])


def simulate(plan):
    """Returns the compiled step ([workers, n], state, seed) -> (decoded of each, result, next state)."""

    @tf.function(jit_compile=True, autograph=False)
    def step(vectors, state, seed):
        tensors = [plan.tensors(vector) for vector in tf.unstack(vectors)]
        firsts = [plan.project(tensors_of_worker, state) for tensors_of_worker in tensors]
        first = tf.add_n(firsts) / len(firsts)
        bases = plan.bases(first, seed)
        seconds = [plan.coefficients(tensors_of_worker, bases) for tensors_of_worker in tensors]
        second = tf.add_n(seconds) / len(seconds)
        decoded = [tf.concat(plan.decode(f, bases, s), 0) for f, s in zip(firsts, seconds, strict=True)]
        return tf.stack(decoded), tf.concat(plan.decode(first, bases, second), 0), plan.next_state(second)

    return step


STEP, MATRIX_STEP = simulate(PLAN), simulate(MATRIX)


def updates(n=SIZE, steps=STEPS, seed=0):
    """float32 [steps, workers, n]: a constant part, a part of each worker's own, and noise."""
    rng = np.random.default_rng(seed)
    shape = (steps, WORKERS, n)
    common, of_worker = rng.standard_normal(n), rng.standard_normal((WORKERS, n))
    return (common + 0.5 * of_worker + 0.5 * rng.standard_normal(shape)).astype(np.float32)


def with_feedback(step, vectors, state):
    """Returns (decoded [steps, workers, n], results [steps, n], residuals [workers, n], state)."""
    residuals, decoded, results = np.zeros(vectors.shape[1:], np.float32), [], []
    for t, update in enumerate(vectors):
        sent, result, state = step(tf.constant(update + residuals), state, tf.constant([5, t]))
        residuals = update + residuals - sent.numpy()
        decoded.append(sent.numpy().astype(np.float64))
        results.append(result.numpy().astype(np.float64))
    return np.stack(decoded), np.stack(results), residuals.astype(np.float64), state


def test_twenty_steps_equal_the_oracle():
    """float32 against float64: values and residuals up to 10, where one rounding is 1e-6, fed back 20 times."""
    vectors = updates(240)
    decoded, results, residuals, state = with_feedback(MATRIX_STEP, vectors, MATRIX.initial_state())
    queries, errors = MATRIX.initial_state().reshape(20, 2).astype(np.float64), np.zeros((WORKERS, 12, 20))
    for t in range(STEPS):
        compensated = vectors[t].reshape(WORKERS, 12, 20) + errors
        random = powersgd.gaussian(12, 4, tf.constant([5, t])).numpy()[:, :1]
        expected, mean, queries = oracle.step(compensated, queries, random)
        errors = compensated - expected
        np.testing.assert_allclose(decoded[t], expected.reshape(WORKERS, 240), atol=5e-4)
        np.testing.assert_allclose(results[t], mean.ravel(), atol=5e-4)
    np.testing.assert_allclose(residuals, errors.reshape(WORKERS, 240), atol=5e-4)
    # The sign of a column of QR is free.
    np.testing.assert_allclose(np.abs(state.numpy()), np.abs(queries).ravel(), atol=5e-4)


def test_transposed_kernel_equals_the_oracle():
    x = updates(steps=1)[0]
    decoded, result, _ = STEP(tf.constant(x), PLAN.initial_state(), tf.constant([5, 0]))
    kernels = x[:, 247:517].reshape(WORKERS, 30, 9).transpose(0, 2, 1).astype(np.float64)
    queries = PLAN.initial_state()[40:].reshape(30, 2)
    # Every matrix has as many rows of random numbers as the one with the most.
    random = powersgd.gaussian(2 * 12, 4, tf.constant([5, 0])).numpy()[12:21, :1]
    expected, mean, _ = oracle.step(kernels, queries, random)
    decoded_kernels = decoded.numpy()[:, 247:517].reshape(WORKERS, 30, 9).transpose(0, 2, 1)
    np.testing.assert_allclose(decoded_kernels, expected, atol=1e-5)
    np.testing.assert_allclose(result.numpy()[247:517].reshape(30, 9), mean.T, atol=1e-5)


def test_nothing_is_lost():
    """sum_t decode + e_T = sum_t update for every worker, and the result is the mean of the decodes."""
    vectors = updates()
    decoded, results, residuals, _ = with_feedback(STEP, vectors, PLAN.initial_state())
    np.testing.assert_allclose(decoded.sum(0) + residuals, vectors.astype(np.float64).sum(0), atol=2e-4)
    np.testing.assert_allclose(results, decoded.mean(1), atol=2e-5)
    np.testing.assert_allclose(results.sum(0) + residuals.mean(0), vectors.astype(np.float64).sum(0).mean(0), atol=2e-4)


def test_vectors_and_small_matrices_are_exact():
    x = updates(steps=1)[0]
    decoded, result, _ = STEP(tf.constant(x), PLAN.initial_state(), tf.constant([0, 0]))
    for exact in (slice(240, 247), slice(517, 523)):
        np.testing.assert_array_equal(decoded.numpy()[:, exact], x[:, exact])
        np.testing.assert_allclose(result.numpy()[exact], x[:, exact].mean(0), rtol=1e-6, atol=1e-7)


def hidden_worker():
    """Two workers of rank 2 in the same rows; the third in the rows orthogonal to theirs, and small beside them."""
    rng = np.random.default_rng(3)
    x = np.zeros((WORKERS, 12, 20))
    x[:2, :2] = 1e3 * rng.standard_normal((2, 20))
    x[2, 2:] = rng.standard_normal((10, 20))
    x[:2, 2:] = -0.5 * x[2, 2:]  # so that the mean's products show nothing of it
    return x.reshape(WORKERS, 240).astype(np.float32)


def loss(step, x, state, seeds):
    """Mean over seeds of ||decode - x||^2 / ||x||^2 of every worker, and three standard errors."""
    lost = []
    for seed in range(seeds):
        decoded = step(tf.constant(x), state, tf.constant([seed, 9]))[0].numpy().astype(np.float64)
        lost.append(np.sum((decoded - x) ** 2, 1) / np.sum(x.astype(np.float64) ** 2, 1))
    return np.mean(lost, 0), 3 * np.std(lost, 0, ddof=1) / np.sqrt(seeds)


def test_contracts_for_every_worker():
    """The third worker's matrix never shows in the mean; the random column alone passes 1 / (12 - 2) of it."""
    mean, margin = loss(MATRIX_STEP, hidden_worker(), MATRIX.initial_state(), 400)
    bound = 1.0 - MATRIX.delta
    assert bound == pytest.approx(0.9, abs=2e-6)
    assert (mean - margin <= bound).all()
    assert mean[2] == pytest.approx(bound, abs=margin[2])


def test_without_exploration_a_worker_may_be_lost():
    published = PowerSGD(rank=2, explore=0).plan([(12, 20)])
    mean, _ = loss(simulate(published), hidden_worker(), published.initial_state(), 2)
    assert published.delta == 0.0 and PowerSGD(explore=0).delta(240) == 0.0
    assert mean[2] > 0.9999 and (mean[:2] < 1e-4).all()


def test_degenerate_matrices():
    """Zero stays zero, rank one is exact, and queries that have become zero find a matrix again."""
    x = np.zeros((WORKERS, 240), np.float32)
    decoded, result, state = MATRIX_STEP(tf.constant(x), MATRIX.initial_state(), tf.constant([0, 0]))
    assert not decoded.numpy().any() and not result.numpy().any() and not state.numpy().any()
    rng = np.random.default_rng(0)
    rank_one = np.outer(rng.standard_normal(12), rng.standard_normal(20)).ravel().astype(np.float32)
    x = rank_one * np.float32([[1], [-3], [0.5]])
    for t in range(2):
        decoded, _, state = MATRIX_STEP(tf.constant(x), state, tf.constant([0, t]))
    np.testing.assert_allclose(decoded.numpy(), x, atol=2e-6)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_scale_does_not_matter(scale):
    vectors = updates(240, steps=2)
    plain, scaled = (
        with_feedback(MATRIX_STEP, g, MATRIX.initial_state())[0] for g in (vectors, np.float32(scale) * vectors)
    )
    np.testing.assert_allclose(scaled / scale, plain, atol=2e-5)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("position", [3, 243, 300])
def test_poison_reaches_all_workers(poison, position):
    """It is in the mean of the first vector or of the second, hence in the result that all see."""
    x = updates(steps=1)[0]
    x[1, position] = poison
    _, result, _ = STEP(tf.constant(x), PLAN.initial_state(), tf.constant([0, 0]))
    assert not np.isfinite(result.numpy()).all()


def test_warm_start_finds_the_best_approximation():
    """A constant matrix: the error falls to Eckart and Young's, up to what the random column adds to it."""
    rng = np.random.default_rng(1)
    u, v = (np.linalg.qr(rng.standard_normal((size, 12)))[0] for size in (12, 20))
    constant = (u * 0.7 ** np.arange(12)) @ v.T
    x, state = np.tile(constant.ravel(), (WORKERS, 1)).astype(np.float32), MATRIX.initial_state()
    lost = []
    for t in range(40):
        decoded, _, state = MATRIX_STEP(tf.constant(x), state, tf.constant([4, t]))
        lost.append(np.linalg.norm(decoded.numpy()[0] - x[0]))
    best = np.linalg.norm(oracle.best(constant, 2) - constant)
    assert lost[0] > 1.1 * best and max(lost[-10:]) < 1.01 * best


def test_bases_follow_the_seed():
    """Equal for equal seeds; with another one the span of the queries' product stays and the random column is new."""
    first = PLAN.project(PLAN.tensors(tf.constant(updates(steps=1)[0, 0])), PLAN.initial_state())
    first_bases, same_seed, other_seed = (
        [b.numpy() for b in PLAN.bases(first, tf.constant(seed))] for seed in ((1, 1), (1, 1), (1, 2))
    )
    for a, b, c in zip(first_bases, same_seed, other_seed, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a[:, :2], c[:, :2], atol=1e-6)
        assert np.abs(a[:, 2] - c[:, 2]).max() > 0.1


def test_sizes_by_hand():
    """P is 2 (12 + 9), Q^T is 3 (20 + 30), and 7 + 6 values are exact."""
    assert [(m.tensor, m.rows, m.cols, m.transposed) for m in PLAN.matrices] == [(0, 12, 20, False), (2, 9, 30, True)]
    assert (PLAN.first_size, PLAN.second_size, PLAN.wire_bytes) == (42 + 13, 150, 4 * 205)
    assert PLAN.initial_state().shape == (2 * 50,) and PLAN.initial_state().dtype == np.float32
    assert PLAN.delta == pytest.approx(1 / 10, abs=2e-6)
    assert PLAN.project(PLAN.tensors(tf.zeros([SIZE])), PLAN.initial_state()).shape == [55]


def test_delta_holds_for_any_shapes():
    """A matrix of a vector of n values has at most sqrt(n) rows."""
    assert PowerSGD().delta(10**6) == pytest.approx(1 / 1000, abs=2e-6)
    for shapes in ([(1000, 1000)], [(12, 20)], [(5,)], SHAPES):
        plan = PowerSGD().plan(shapes)
        assert PowerSGD().delta(sum(map(np.prod, shapes))) <= plan.delta <= 1.0


def test_without_matrices_everything_is_exact():
    plan = PowerSGD().plan([(5,), (3, 3)])
    x = tf.constant(updates(14, steps=1)[0])
    decoded, _, state = simulate(plan)(x, plan.initial_state(), tf.constant([0, 0]))
    np.testing.assert_array_equal(decoded, x)
    assert plan.wire_bytes == 4 * 14 and state.shape == [0]


# Orthonormal bases of awkward columns, normal numbers, and the choice of columns.


ROWS, K = 40, 4
RNG = np.random.default_rng(0)
SEED = tf.constant([1, 2])


@tf.function(jit_compile=True, autograph=False)
def basis_of(columns):
    return powersgd.orthonormalise(columns[None], powersgd.gaussian(ROWS, K, SEED)[None])[0]


def columns(kind):
    full = RNG.standard_normal((ROWS, K))
    matrices = {
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
    return matrices[kind].astype(np.float32)


KINDS = ("full", "zero", "rank_1", "zero_between", "nearly_dependent", "dependent_to_rounding", "huge", "tiny", "mixed")


@pytest.mark.parametrize("kind", KINDS)
def test_orthonormal(kind):
    basis = basis_of(columns(kind)).numpy().astype(np.float64)
    np.testing.assert_allclose(basis.T @ basis, np.eye(K), atol=1e-6)


@pytest.mark.parametrize("kind", ["full", "rank_1", "nearly_dependent", "huge", "tiny", "mixed"])
def test_spans_the_columns(kind):
    """What is left outside is rounding, relative to each column."""
    matrix = columns(kind)
    basis = basis_of(matrix).numpy().astype(np.float64)
    matrix = matrix.astype(np.float64) / np.linalg.norm(matrix.astype(np.float64), axis=0)
    assert np.linalg.norm(matrix - basis @ (basis.T @ matrix), axis=0).max() < 2e-6


def test_matrices_beside_each_other():
    """Each as if it were alone. The second has as many rows as columns: the last column has one direction left."""
    first, second = columns("full"), columns("full")
    spare = powersgd.gaussian(2 * ROWS, K, SEED).numpy().reshape(2, ROWS, K)
    second[K:], spare[1, K:] = 0.0, 0.0
    both = powersgd.orthonormalise(tf.constant([first, second]), tf.constant(spare)).numpy()
    first_basis = powersgd.orthonormalise(tf.constant(first[None]), tf.constant(spare[:1])).numpy()[0]
    np.testing.assert_allclose(both[0], first_basis, atol=1e-6)
    np.testing.assert_allclose(both[1].T @ both[1], np.eye(K), atol=1e-6)
    assert not both[1, K:].any()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_poison_stays_visible(poison):
    matrix = columns("full")
    matrix[5, 1] = poison
    basis = basis_of(matrix).numpy()
    assert np.isfinite(basis[:, 0]).all() and np.isnan(basis[:, 1:]).all()


def test_gaussian():
    """Standard errors of n normal numbers: mean 1 / sqrt(n), variance sqrt(2 / n), fourth moment sqrt(96 / n)."""
    n = 1000 * 200
    g = powersgd.gaussian(1000, 200, SEED).numpy().astype(np.float64)
    assert abs(g.mean()) < 5 / np.sqrt(n) and abs(g.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs(np.mean(g**4) - 3) < 5 * np.sqrt(96 / n) and np.isfinite(g).all()
    assert abs(np.mean(g[:, 1:] * g[:, :-1])) < 5 / np.sqrt(n) and abs(np.mean(g[1:] * g[:-1])) < 5 / np.sqrt(n)


def test_leading_by_hand():
    matrix = np.float32([[3, 0, 0, 5], [4, 0, 1, 12]])
    np.testing.assert_allclose(powersgd.leading(tf.constant(matrix), 2), np.float32([[5 / 13, 0.6], [12 / 13, 0.8]]))
    np.testing.assert_array_equal(powersgd.leading(tf.zeros([5, 3]), 2), np.zeros((5, 2)))


@pytest.mark.parametrize("columns", [1, 3, 20])
def test_outer_is_the_product(columns):
    """float32 against float64: each of up to 20 terms is rounded once and added with one more rounding."""
    rng = np.random.default_rng(columns)
    left, right = (rng.standard_normal((size, columns)).astype(np.float32) for size in (5, 7))
    product = tf.function(powersgd.outer, jit_compile=True, autograph=False)(left, right)
    np.testing.assert_allclose(product, left.astype(np.float64) @ right.T.astype(np.float64), atol=1e-5)
