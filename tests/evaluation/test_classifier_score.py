"""By hand, and against exp(H(mean p) - mean H(p))."""

import numpy as np
import pytest

from dqgan_tf.evaluation.classifier_score import classifier_score
from tests.oracles import frechet_numpy as oracle


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
        (np.zeros((5, 3)), 10, r"there are \(5\). Received: num_splits=10"),
        (np.zeros((5, 3)), 0, "num_splits=0"),
        (np.zeros(5), 1, r"shape=\(5,\)"),
    ],
)
def test_errors_name_what_was_received(logits, splits, message):
    with pytest.raises(ValueError, match=message):
        classifier_score(logits, splits)
