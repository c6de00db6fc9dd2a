"""Against a double loop over pairs, by hand, and what unbiasedness means."""

import numpy as np
import pytest

from dqgan_tf.evaluation import kernel
from tests.oracles import frechet_numpy as oracle


def features(rows, size, seed, shift=0.0):
    return np.random.default_rng(seed).standard_normal((rows, size)).astype(np.float32) + np.float32(shift)


@pytest.mark.parametrize("rows_x, rows_y", [(2, 2), (7, 7), (5, 9)])
def test_agrees_with_a_double_loop(rows_x, rows_y):
    x, y = features(rows_x, 6, 0), features(rows_y, 6, 1, shift=0.3)
    assert kernel.polynomial_mmd2(x, y) == pytest.approx(oracle.polynomial_mmd2(x, y), rel=1e-10)


def test_by_hand():
    # d = 1: k(1, 3) = 4^3 = 64, k(0, 2) = 1; cross: k(1,0) = 1, k(1,2) = 27, k(3,0) = 1, k(3,2) = 343, mean 93.
    assert kernel.polynomial_mmd2([[1.0], [3.0]], [[0.0], [2.0]]) == 64.0 + 1.0 - 2.0 * 93.0


def test_the_estimate_is_unbiased():
    # Same distribution on both sides, so the mean is 0. Keeping the diagonal adds 2 (E k(x, x) - E k(x, y)) / 20: with
    # s = |x|^2 / 4 (moments 1, 1.5, 3) E k(x, x) is 3 + 4.5 + 3 + 1 and, with E (x.y / 4)^2 = 1/4, E k(x, y) is 1.75.
    biased = 2 * ((3 + 3 * 1.5 + 3 * 1 + 1) - 1.75) / 20
    generator = np.random.default_rng(2)
    draws = [kernel.polynomial_mmd2(*generator.standard_normal((2, 20, 4))) for _ in range(2000)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / np.sqrt(len(draws)) < biased / 20


def test_one_subset_of_everything_is_the_plain_estimate():
    x, y = features(30, 4, 3), features(30, 4, 4, shift=1.0)
    mean, deviation = kernel.kernel_distance(x, y, num_subsets=3, subset_size=30)
    assert mean == pytest.approx(kernel.polynomial_mmd2(x, y), rel=1e-12)
    assert deviation == pytest.approx(0.0, abs=1e-12)


def test_subsets_are_drawn_by_seed():
    x, y = features(200, 4, 5), features(200, 4, 6, shift=0.5)
    arguments = {"num_subsets": 5, "subset_size": 50}
    first = kernel.kernel_distance(x, y, seed=1, **arguments)
    assert first == kernel.kernel_distance(x, y, seed=1, **arguments)
    assert first != kernel.kernel_distance(x, y, seed=2, **arguments)
    assert first[1] > 0.0


def test_the_deviation_is_of_the_population():
    # The draws replayed, the estimate by the oracle, the deviation with a divisor of 4.
    x, y = features(60, 3, 7), features(60, 3, 8)
    generator = np.random.default_rng(9)
    values = []
    for _ in range(4):
        chosen = [generator.choice(60, 20, replace=False) for _ in range(2)]
        values.append(oracle.polynomial_mmd2(x[chosen[0]], y[chosen[1]]))
    mean, deviation = kernel.kernel_distance(x, y, num_subsets=4, subset_size=20, seed=9)
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
        kernel.kernel_distance(np.zeros((20, 2)), np.zeros((rows, 2)), **arguments)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"shapes=\(5, 2\), \(5, 3\)"):
        kernel.kernel_distance(np.zeros((5, 2)), np.zeros((5, 3)), subset_size=5)
