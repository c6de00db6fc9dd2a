"""By hand: tiny sets of points around two or four centres."""

import numpy as np
import pytest

from dqgan_tf.evaluation import modes

TWO = [[0.0, 0.0], [10.0, 0.0]]


def test_by_hand():
    points = [[0.0, 0.5], [0.5, 0.0], [3.0, 0.0], [10.0, 1.0], [9.0, 9.0]]
    coverage = modes.mode_coverage(points, TWO, radius=1.0)
    assert coverage.counts.tolist() == [2, 1]
    assert coverage.high_quality_fraction == 3 / 5
    assert (coverage.modes_found, coverage.modes_touched, coverage.num_modes) == (2, 2, 2)


def test_the_radius_itself_is_of_high_quality():
    assert modes.mode_coverage([[1.0, 0.0], [1.0001, 0.0]], TWO, radius=1.0).counts.tolist() == [1, 0]


def test_a_sample_counts_for_its_nearest_mode_only():
    assert modes.mode_coverage([[4.0, 0.0]], TWO, radius=100.0).counts.tolist() == [1, 0]


@pytest.mark.parametrize("at_second, found", [(0, 1), (4, 1), (5, 2)])
def test_a_mode_needs_a_quarter_of_its_fair_share(at_second, found):
    # 40 samples on 2 modes: the fair share is 20, a quarter of it 5.
    points = [[0.0, 0.0]] * (40 - at_second) + [[10.0, 0.0]] * at_second
    coverage = modes.mode_coverage(points, TWO, radius=1.0)
    assert coverage.modes_found == found
    assert coverage.modes_touched == 1 + (at_second > 0)


def test_noise_finds_no_mode_although_it_touches_one():
    points = [[5.0, 5.0]] * 99 + [[0.0, 0.0]]
    coverage = modes.mode_coverage(points, TWO, radius=1.0)
    assert (coverage.modes_found, coverage.modes_touched, coverage.high_quality_fraction) == (0, 1, 0.01)


def test_diverged_samples_are_of_no_quality():
    points = [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, np.nan], [0.0, 0.0]]
    coverage = modes.mode_coverage(points, TWO, radius=1.0)
    assert coverage.counts.tolist() == [1, 0]
    assert coverage.high_quality_fraction == 1 / 4


def test_a_true_ring_of_gaussians_is_covered():
    # Three standard deviations in two dimensions hold 1 - exp(-9/2) = .98889 of a Gaussian.
    angles = np.arange(8) * np.pi / 4
    centres = 2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    generator = np.random.default_rng(0)
    points = centres[generator.integers(8, size=20000)] + 0.02 * generator.standard_normal((20000, 2))
    coverage = modes.mode_coverage(points, centres, radius=0.06)
    assert coverage.modes_found == 8
    # Three standard errors of a share of .98889 at n = 20,000 are .0022.
    assert coverage.high_quality_fraction == pytest.approx(1 - np.exp(-4.5), abs=0.0022)


@pytest.mark.parametrize(
    "points, centres, radius, message",
    [
        (np.zeros((0, 2)), TWO, 1.0, r"points.shape=\(0, 2\)"),
        (np.zeros((3, 3)), TWO, 1.0, r"points.shape=\(3, 3\)"),
        (np.zeros(3), TWO, 1.0, r"points.shape=\(3,\)"),
        (np.zeros((3, 2)), np.zeros((0, 2)), 1.0, r"modes.shape=\(0, 2\)"),
        (np.zeros((3, 2)), TWO, 0.0, "radius=0.0"),
        (np.zeros((3, 2)), TWO, float("nan"), "radius=nan"),
    ],
)
def test_errors_name_what_was_received(points, centres, radius, message):
    with pytest.raises(ValueError, match=message):
        modes.mode_coverage(points, centres, radius)
