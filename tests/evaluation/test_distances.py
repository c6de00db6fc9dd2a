"""Fréchet distance against scipy's general matrix root and closed forms; kernel distance against a double loop."""

import numpy as np
import pytest

from dqgan_tf.errors import UsageError
from dqgan_tf.evaluation import distances
from tests.oracles import frechet_numpy as oracle


def random_moments(size, seed, smallest=1e-2):
    """Mean, and a covariance with random axes and eigenvalues from `smallest` to 1."""
    generator = np.random.default_rng(seed)
    axes = np.linalg.qr(generator.standard_normal((size, size)))[0]
    return generator.standard_normal(size), (axes * np.geomspace(smallest, 1.0, size)) @ axes.T


@pytest.mark.parametrize("size", [1, 2, 17, 64])
def test_agrees_with_a_general_matrix_root(size):
    first, second = random_moments(size, 0), random_moments(size, 1)
    assert distances.frechet_distance(*first, *second) == pytest.approx(
        oracle.frechet_distance(*first, *second), rel=1e-10
    )


def test_agrees_on_ill_conditioned_covariances():
    first, second = random_moments(32, 2, smallest=1e-12), random_moments(32, 3, smallest=1e-12)
    # A root of S1 S2, eigenvalues down to 1e-24, keeps about the root of float64's 1e-16.
    assert distances.frechet_distance(*first, *second) == pytest.approx(
        oracle.frechet_distance(*first, *second), rel=1e-6
    )


def test_diagonal_covariances_have_a_closed_form():
    # sum (m1 - m2)^2 + (s1 - s2)^2 = 1 + 4 + (1 - 2)^2 + (3 - 1)^2
    distance = distances.frechet_distance([0.0, 0.0], np.diag([1.0, 9.0]), [1.0, -2.0], np.diag([4.0, 1.0]))
    assert distance == pytest.approx(10.0, rel=1e-14)


def test_singular_covariances_have_a_closed_form():
    # One coordinate constant on either side: the traces are all that is left.
    distance = distances.frechet_distance([0.0, 0.0], np.diag([4.0, 0.0]), [0.0, 0.0], np.diag([0.0, 9.0]))
    assert distance == pytest.approx(13.0, rel=1e-14)


def test_it_is_zero_at_home_symmetric_and_blind_to_rotation():
    (mu1, sigma1), (mu2, sigma2) = random_moments(16, 4), random_moments(16, 5)
    axes = np.linalg.qr(np.random.default_rng(6).standard_normal((16, 16)))[0]
    distance = distances.frechet_distance(mu1, sigma1, mu2, sigma2)
    turned = distances.frechet_distance(axes @ mu1, axes @ sigma1 @ axes.T, axes @ mu2, axes @ sigma2 @ axes.T)
    assert 0.0 <= distances.frechet_distance(mu1, sigma1, mu1, sigma1) < 1e-12
    assert distance == pytest.approx(distances.frechet_distance(mu2, sigma2, mu1, sigma1), rel=1e-12)
    assert distance == pytest.approx(turned, rel=1e-12)


def test_moments_are_those_of_numpy_whatever_the_mean():
    # A mean a million times the spread: a sum of x x^T in float64 would keep four digits of the covariance.
    features = 1e6 + np.random.default_rng(7).standard_normal((2345, 5))
    mu, sigma = distances.moments(features)
    np.testing.assert_allclose(mu, np.mean(features, axis=0), rtol=1e-14)
    np.testing.assert_allclose(sigma, np.cov(features, rowvar=False), rtol=1e-8, atol=1e-8)


def test_covariance_divides_by_n_minus_1():
    # Points 0 and 2 (and 1): variance ((1 + 1 + 0) / 2) = 1.
    mu, sigma = distances.moments([[0.0], [2.0], [1.0]])
    assert (mu.tolist(), sigma.tolist()) == ([1.0], [[1.0]])


def test_float32_features_are_summed_in_float64():
    # float32 cannot hold 2^24 + 1, so a mean in float32 would lose the half.
    features = np.array([[2.0**24], [2.0**24 + 2.0], [2.0**24], [2.0**24]], np.float32)
    assert distances.moments(features)[0].tolist() == [2.0**24 + 0.5]


@pytest.mark.parametrize("count", [0, 3, 4])
def test_there_must_be_more_images_than_features(count):
    with pytest.raises(UsageError, match=f"must exceed the feature size; 5 .* images={count}, feature size=4"):
        distances.moments(np.zeros((count, 4)))


def test_one_more_image_than_features_will_do():
    assert distances.moments(np.eye(5, 4))[1].shape == (4, 4)


@pytest.mark.parametrize("features, message", [(np.zeros(6), r"shape=\(6,\)"), ([[0.0, np.nan]] * 5, "NaN")])
def test_bad_features_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        distances.moments(features)


def test_shapes_of_moments_must_agree():
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        distances.frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), np.eye(3))


def features(rows, size, seed, shift=0.0):
    return np.random.default_rng(seed).standard_normal((rows, size)).astype(np.float32) + np.float32(shift)


@pytest.mark.parametrize("rows_x, rows_y", [(2, 2), (7, 7), (5, 9)])
def test_agrees_with_a_double_loop(rows_x, rows_y):
    x, y = features(rows_x, 6, 0), features(rows_y, 6, 1, shift=0.3)
    assert distances.polynomial_mmd2(x, y) == pytest.approx(oracle.polynomial_mmd2(x, y), rel=1e-10)


def test_kernel_by_hand():
    # d = 1: k(1, 3) = 4^3 = 64, k(0, 2) = 1; cross: k(1,0) = 1, k(1,2) = 27, k(3,0) = 1, k(3,2) = 343, mean 93.
    assert distances.polynomial_mmd2([[1.0], [3.0]], [[0.0], [2.0]]) == 64.0 + 1.0 - 2.0 * 93.0


def test_the_kernel_estimate_is_unbiased():
    # Same distribution on both sides, so the mean is 0. Keeping the diagonal adds 2 (E k(x, x) - E k(x, y)) / 20: with
    # s = |x|^2 / 4 (moments 1, 1.5, 3) E k(x, x) is 3 + 4.5 + 3 + 1 and, with E (x.y / 4)^2 = 1/4, E k(x, y) is 1.75.
    biased = 2 * ((3 + 3 * 1.5 + 3 * 1 + 1) - 1.75) / 20
    generator = np.random.default_rng(2)
    draws = [distances.polynomial_mmd2(*generator.standard_normal((2, 20, 4))) for _ in range(2000)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / np.sqrt(len(draws)) < biased / 20


def test_one_subset_of_everything_is_the_plain_estimate():
    x, y = features(30, 4, 3), features(30, 4, 4, shift=1.0)
    mean, deviation = distances.kernel_distance(x, y, num_subsets=3, subset_size=30)
    assert mean == pytest.approx(distances.polynomial_mmd2(x, y), rel=1e-12)
    assert deviation == pytest.approx(0.0, abs=1e-12)


def test_subsets_are_drawn_by_seed():
    x, y = features(200, 4, 5), features(200, 4, 6, shift=0.5)
    arguments = {"num_subsets": 5, "subset_size": 50}
    first = distances.kernel_distance(x, y, seed=1, **arguments)
    assert first == distances.kernel_distance(x, y, seed=1, **arguments)
    assert first != distances.kernel_distance(x, y, seed=2, **arguments)
    assert first[1] > 0.0


def test_the_deviation_is_of_the_population():
    # The draws replayed, the estimate by the oracle, the deviation with a divisor of 4.
    x, y = features(60, 3, 7), features(60, 3, 8)
    generator = np.random.default_rng(9)
    values = []
    for _ in range(4):
        chosen = [generator.choice(60, 20, replace=False) for _ in range(2)]
        values.append(oracle.polynomial_mmd2(x[chosen[0]], y[chosen[1]]))
    mean, deviation = distances.kernel_distance(x, y, num_subsets=4, subset_size=20, seed=9)
    assert mean == pytest.approx(sum(values) / 4, rel=1e-9)
    assert deviation == pytest.approx(np.sqrt(sum((value - mean) ** 2 for value in values) / 4), rel=1e-9)


@pytest.mark.parametrize(
    "rows, arguments, message",
    [
        (10, {"subset_size": 11}, "10 fake.*subset_size=11"),
        (10, {"subset_size": 1}, "subset_size=1"),
        (10, {"subset_size": 5, "num_subsets": 0}, "num_subsets=0"),
    ],
)
def test_errors_name_what_was_received(rows, arguments, message):
    with pytest.raises(ValueError, match=message):
        distances.kernel_distance(np.zeros((20, 2)), np.zeros((rows, 2)), **arguments)


def test_shapes_of_features_must_agree():
    with pytest.raises(ValueError, match=r"shapes=\(5, 2\), \(5, 3\)"):
        distances.kernel_distance(np.zeros((5, 2)), np.zeros((5, 3)), subset_size=5)


def neighbours_loop(real, fake, k):
    """Precision and recall by their definition: one pair at a time, distances by differences, radii by sorting."""

    def radius(members, i):
        others = [np.sqrt(np.sum((members[i] - member) ** 2)) for j, member in enumerate(members) if j != i]
        return sorted(others)[k - 1]

    def share_near(points, members):
        radii = [radius(members, i) for i in range(len(members))]
        near = [
            any(np.sqrt(np.sum((point - s) ** 2)) <= r for s, r in zip(members, radii, strict=True)) for point in points
        ]
        return sum(near) / len(near)

    return share_near(fake, real), share_near(real, fake)


@pytest.mark.parametrize(("n", "m", "shift", "k"), [(30, 30, 0.5, 3), (25, 40, 1.5, 1), (40, 21, 1.3, 5)])
def test_precision_and_recall_agree_with_a_loop(n, m, shift, k, monkeypatch):
    monkeypatch.setattr(distances, "_DISTANCE_ROWS", 7)  # several blocks, the last one shorter
    real, fake = features(n, 3, 10), 0.7 * features(m, 3, 11, shift=shift)
    precision, recall = distances.precision_recall(real, fake, k)
    assert (precision, recall) == neighbours_loop(real.astype(float), fake.astype(float), k)
    assert 0 < precision < 1 and 0 < recall < 1 and precision != recall


def test_precision_and_recall_by_hand():
    """k = 1. Real 0, 1, 10 have radii 1, 1, 9; fakes 1.5 and 30 have radii 28.5 each.

    1.5 lies within 1 of 1, 30 within nothing: precision 1/2. Each real lies within 28.5 of 1.5: recall 1.
    """
    assert distances.precision_recall([[0.0], [1.0], [10.0]], [[1.5], [30.0]], k=1) == (0.5, 1.0)


def test_a_large_mean_does_not_blur_the_neighbours():
    real, fake = features(40, 4, 12).astype(float), features(40, 4, 13, shift=0.7).astype(float)
    moved = distances.precision_recall(real + 2.0**20, fake + 2.0**20)
    assert moved == distances.precision_recall(real, fake)


@pytest.mark.parametrize(("k", "columns", "message"), [(5, 2, "Received: k=5"), (0, 2, "k=0"), (1, 3, "shapes")])
def test_precision_needs_neighbours(k, columns, message):
    with pytest.raises(ValueError, match=message):
        distances.precision_recall(np.zeros((9, 2)), np.zeros((5, columns)), k)
