"""Classifier score by hand and against exp(H(mean p) - mean H(p)); mode coverage by hand, on a few points."""

import numpy as np
import pytest

from dqgan_tf.evaluation.scores import classifier_score, mode_coverage, mode_distance
from tests.oracles import frechet_numpy as oracle

TWO = [[0.0, 0.0], [10.0, 0.0]]


def one_hot_logits(classes, num_classes):
    return 1000.0 * np.eye(num_classes)[classes]


def test_uniform_predictions_score_1():
    assert classifier_score(np.zeros((20, 7))) == (1.0, 0.0)


@pytest.mark.parametrize("num_classes", [2, 5, 10])
def test_confident_predictions_used_equally_score_their_number(num_classes):
    logits = one_hot_logits(np.arange(10 * num_classes) % num_classes, num_classes)
    mean, deviation = classifier_score(logits)
    assert mean == pytest.approx(num_classes, rel=1e-12)
    assert deviation == pytest.approx(0.0, abs=1e-12)


def test_one_confident_class_scores_1():
    assert classifier_score(one_hot_logits([3] * 20, 10))[0] == pytest.approx(1.0, rel=1e-12)


def test_splits_are_consecutive():
    # Class 0 in the first split, class 1 in the second: each alone scores 1. Taken every other row they would score 2.
    assert classifier_score(one_hot_logits([0, 0, 1, 1], 2), num_splits=2)[0] == pytest.approx(1.0, rel=1e-12)


def test_the_deviation_is_of_the_population():
    # Scores 1 and 2: mean 1.5, population deviation .5 (with ddof 1 it would be .707).
    mean, deviation = classifier_score(one_hot_logits([0, 0, 0, 1], 2), num_splits=2)
    assert (mean, deviation) == (pytest.approx(1.5, rel=1e-12), pytest.approx(0.5, rel=1e-12))


def test_agrees_with_the_difference_of_entropies():
    logits = np.random.default_rng(0).standard_normal((23, 9))
    # 23 rows in 4 splits end at 5, 11, 17, 23.
    expected = [oracle.classifier_score(part) for part in np.split(logits, [5, 11, 17])]
    mean, deviation = classifier_score(logits, num_splits=4)
    assert mean == pytest.approx(np.mean(expected), rel=1e-12)
    assert deviation == pytest.approx(np.std(expected), rel=1e-10)


def test_float32_logits_are_computed_in_float64():
    logits = np.random.default_rng(1).standard_normal((40, 1008)).astype(np.float32)
    expected = oracle.classifier_score(logits.astype(np.float64))
    assert classifier_score(logits, num_splits=1)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "logits, splits, message",
    [
        (np.zeros((5, 3)), 10, r"number of rows \(5\). Received: num_splits=10"),
        (np.zeros((5, 3)), 0, "num_splits=0"),
        (np.zeros(5), 1, r"shape=\(5,\)"),
    ],
)
def test_errors_name_what_was_received(logits, splits, message):
    with pytest.raises(ValueError, match=message):
        classifier_score(logits, splits)


def test_the_distance_of_the_modes_by_hand():
    """Shares 3/4 and 1/4 against 1/2 each; then everything at one of two modes; then two samples that count nowhere."""
    points = [[0.0, 0.5], [4.0, 0.0], [-99.0, 0.0], [10.0, 1.0]]
    assert mode_distance(points, TWO) == 0.25
    assert mode_distance(points[:3], TWO) == 0.5
    assert mode_distance([*points, [np.nan, 0.0], [np.inf, 0.0]], TWO) == pytest.approx((0.5 - 1 / 6) / 2)


def test_the_distance_of_a_perfect_generator():
    """sqrt(k / (2 pi n)) of n samples; the mean of 200 draws has a standard error of about 2 %."""
    draw = np.random.default_rng(0)
    modes = np.arange(8.0)[:, None]
    mean = np.mean([mode_distance(draw.integers(0, 8, (1000, 1)), modes) for _ in range(200)])
    # 7/8 under the root is the variance 1/k (1 - 1/k) of a share in place of 1/k.
    assert mean == pytest.approx(np.sqrt(8 / (2 * np.pi * 1000) * 7 / 8), rel=0.06)


def test_modes_by_hand():
    points = [[0.0, 0.5], [0.5, 0.0], [3.0, 0.0], [10.0, 1.0], [9.0, 9.0]]
    coverage = mode_coverage(points, TWO, radius=1.0)
    assert coverage.counts.tolist() == [2, 1]
    assert coverage.high_quality_fraction == 3 / 5
    assert (coverage.modes_found, coverage.modes_touched, coverage.num_modes) == (2, 2, 2)


def test_the_radius_itself_is_of_high_quality():
    assert mode_coverage([[1.0, 0.0], [1.0001, 0.0]], TWO, radius=1.0).counts.tolist() == [1, 0]


def test_a_sample_counts_for_its_nearest_mode_only():
    assert mode_coverage([[4.0, 0.0]], TWO, radius=100.0).counts.tolist() == [1, 0]


@pytest.mark.parametrize("at_second, found", [(0, 1), (4, 1), (5, 2)])
def test_a_mode_needs_a_quarter_of_its_fair_share(at_second, found):
    # 40 samples on 2 modes: the fair share is 20, a quarter of it 5.
    points = [[0.0, 0.0]] * (40 - at_second) + [[10.0, 0.0]] * at_second
    coverage = mode_coverage(points, TWO, radius=1.0)
    assert coverage.modes_found == found
    assert coverage.modes_touched == 1 + (at_second > 0)


def test_noise_finds_no_mode_although_it_touches_one():
    points = [[5.0, 5.0]] * 99 + [[0.0, 0.0]]
    coverage = mode_coverage(points, TWO, radius=1.0)
    assert (coverage.modes_found, coverage.modes_touched, coverage.high_quality_fraction) == (0, 1, 0.01)


def test_diverged_samples_are_of_no_quality():
    points = [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, np.nan], [0.0, 0.0]]
    coverage = mode_coverage(points, TWO, radius=1.0)
    assert coverage.counts.tolist() == [1, 0]
    assert coverage.high_quality_fraction == 1 / 4


def test_a_true_ring_of_gaussians_is_covered():
    # Three standard deviations in two dimensions hold 1 - exp(-9/2) = .98889 of a Gaussian.
    angles = np.arange(8) * np.pi / 4
    centres = 2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    generator = np.random.default_rng(0)
    points = centres[generator.integers(8, size=20000)] + 0.02 * generator.standard_normal((20000, 2))
    coverage = mode_coverage(points, centres, radius=0.06)
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
def test_errors_of_modes_name_what_was_received(points, centres, radius, message):
    with pytest.raises(ValueError, match=message):
        mode_coverage(points, centres, radius)
