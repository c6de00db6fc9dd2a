"""Against scipy's general matrix root, closed forms and numpy's one-shot covariance."""

import numpy as np
import pytest

from dqgan_tf.evaluation import frechet
from tests.oracles import frechet_numpy as oracle


def random_moments(size, seed, smallest=1e-2):
    """Mean, and a covariance with random axes and eigenvalues from `smallest` to 1."""
    generator = np.random.default_rng(seed)
    axes = np.linalg.qr(generator.standard_normal((size, size)))[0]
    return generator.standard_normal(size), (axes * np.geomspace(smallest, 1.0, size)) @ axes.T


@pytest.mark.parametrize("size", [1, 2, 17, 64])
def test_agrees_with_a_general_matrix_root(size):
    first, second = random_moments(size, 0), random_moments(size, 1)
    assert frechet.frechet_distance(*first, *second) == pytest.approx(
        oracle.frechet_distance(*first, *second), rel=1e-10
    )


def test_agrees_on_ill_conditioned_covariances():
    first, second = random_moments(32, 2, smallest=1e-12), random_moments(32, 3, smallest=1e-12)
    # A root of S1 S2, eigenvalues down to 1e-24, keeps about the root of float64's 1e-16.
    assert frechet.frechet_distance(*first, *second) == pytest.approx(
        oracle.frechet_distance(*first, *second), rel=1e-6
    )


def test_diagonal_covariances_have_a_closed_form():
    # sum (m1 - m2)^2 + (s1 - s2)^2 = 1 + 4 + (1 - 2)^2 + (3 - 1)^2
    distance = frechet.frechet_distance([0.0, 0.0], np.diag([1.0, 9.0]), [1.0, -2.0], np.diag([4.0, 1.0]))
    assert distance == pytest.approx(10.0, rel=1e-14)


def test_singular_covariances_have_a_closed_form():
    # One coordinate constant on either side: the traces are all that is left.
    distance = frechet.frechet_distance([0.0, 0.0], np.diag([4.0, 0.0]), [0.0, 0.0], np.diag([0.0, 9.0]))
    assert distance == pytest.approx(13.0, rel=1e-14)


def test_it_is_zero_at_home_symmetric_and_blind_to_rotation():
    (mu1, sigma1), (mu2, sigma2) = random_moments(16, 4), random_moments(16, 5)
    axes = np.linalg.qr(np.random.default_rng(6).standard_normal((16, 16)))[0]
    distance = frechet.frechet_distance(mu1, sigma1, mu2, sigma2)
    turned = frechet.frechet_distance(axes @ mu1, axes @ sigma1 @ axes.T, axes @ mu2, axes @ sigma2 @ axes.T)
    assert 0.0 <= frechet.frechet_distance(mu1, sigma1, mu1, sigma1) < 1e-12
    assert distance == pytest.approx(frechet.frechet_distance(mu2, sigma2, mu1, sigma1), rel=1e-12)
    assert distance == pytest.approx(turned, rel=1e-12)


def test_streamed_moments_equal_one_shot_moments():
    # A mean a million times the spread: a sum of x x^T in float64 would keep four digits of the covariance.
    features = 1e6 + np.random.default_rng(7).standard_normal((1000, 5))
    accumulator = frechet.FeatureMoments(5)
    for batch in np.split(features, [1, 1, 7, 500, 999]):
        accumulator.update(batch)
    mu, sigma = accumulator.result()
    np.testing.assert_allclose(mu, np.mean(features, axis=0), rtol=1e-14)
    np.testing.assert_allclose(sigma, np.cov(features, rowvar=False), rtol=1e-8, atol=1e-8)


def test_covariance_divides_by_n_minus_1():
    # Points 0 and 2 (and 1): variance ((1 + 1 + 0) / 2) = 1.
    mu, sigma = frechet.moments([[0.0], [2.0], [1.0]])
    assert (mu.tolist(), sigma.tolist()) == ([1.0], [[1.0]])


def test_float32_features_are_summed_in_float64():
    # float32 cannot hold 2^24 + 1, so a mean in float32 would lose the half.
    features = np.array([[2.0**24], [2.0**24 + 2.0], [2.0**24], [2.0**24]], np.float32)
    assert frechet.moments(features).mu.tolist() == [2.0**24 + 0.5]


@pytest.mark.parametrize("count", [0, 3, 4])
def test_there_must_be_more_images_than_features(count):
    with pytest.raises(ValueError, match=f"must exceed the feature size. Received: images={count}, feature size=4"):
        frechet.moments(np.zeros((count, 4)))


def test_one_more_image_than_features_will_do():
    assert frechet.moments(np.eye(5, 4)).sigma.shape == (4, 4)


@pytest.mark.parametrize("features, message", [(np.zeros((2, 3)), r"shape=\(2, 3\)"), ([[0.0, np.nan]], "NaN")])
def test_bad_features_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        frechet.FeatureMoments(2).update(features)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        frechet.frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), np.eye(3))
