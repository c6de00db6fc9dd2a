"""What figures are called, and that each is the right function of the right images."""

import dataclasses

import numpy as np
import pytest

from dqgan_tf.errors import UsageError
from dqgan_tf.evaluation import distances, report, scores
from dqgan_tf.evaluation.features import FeatureNetwork, Features

# Two features and three logits, linear in the pixels of a 2 x 2 image.
TO_POOL = np.array([[1, 0], [0, 1], [2, 0], [0, 3]], np.float32) / 255
TO_LOGITS = np.array([[4, 0, 0], [0, 4, 0], [0, 0, 4], [1, 1, 1]], np.float32) / 255


def linear(images):
    flat = images.reshape(len(images), 4).astype(np.float32)
    return Features(flat @ TO_POOL, flat @ TO_LOGITS)


NETWORK = FeatureNetwork("linear", False, 2, (2, 2), (1,), "f" * 64, linear)


def images(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 1), np.uint8)


def evaluate(network, real, fake, **options):
    features = (report.extract_features(network, batch) for batch in (real, fake))
    return report.compare_features(network, *features, **options)


def test_only_inception_gives_fid_is_and_kid():
    inception = dataclasses.replace(NETWORK, name="inception-2015-12-05", is_inception=True)
    figures = evaluate(inception, images(20, 0), images(20, 1))
    assert {"FID(n=20)", "KID(n=20)", "KID_std(n=20)", "IS(n=20)", "IS_std(n=20)"} <= set(figures)
    assert {"precision(inception-2015-12-05,n=20)", "recall(inception-2015-12-05,n=20)"} <= set(figures)
    assert not [name for name in figures if "distance" in name or "score" in name]


def test_fid_alone_means_the_number_of_the_literature(monkeypatch):
    """Here 20 stands for 50,000."""
    assert report.CONVENTIONAL_NUMBER == 50_000
    monkeypatch.setattr(report, "CONVENTIONAL_NUMBER", 20)
    inception = dataclasses.replace(NETWORK, name="inception-2015-12-05", is_inception=True)
    equal = evaluate(inception, images(20, 0), images(20, 1))
    assert {"FID", "KID", "KID_std", "IS", "IS_std"} <= set(equal)
    fewer = evaluate(inception, images(10, 0), images(20, 1))
    assert {"FID(real=10,fake=20)", "KID(real=10,fake=20)", "IS"} <= set(fewer) and "FID" not in fewer


def test_any_other_network_is_named_in_the_figure():
    figures = evaluate(NETWORK, images(20, 0), images(20, 1))
    assert set(figures) == {
        "frechet_distance(linear,n=20)",
        "kernel_distance(linear,n=20)",
        "kernel_distance_std(linear,n=20)",
        "precision(linear,n=20)",
        "recall(linear,n=20)",
        "classifier_score(linear,n=20)",
        "classifier_score_std(linear,n=20)",
        "feature_network",
        "feature_network_sha256",
        "num_real",
        "num_fake",
        "kernel_subset_size",
    }
    assert (figures["feature_network"], figures["feature_network_sha256"]) == ("linear", "f" * 64)
    known = evaluate(dataclasses.replace(NETWORK, accuracy=0.75), images(20, 0), images(20, 1))
    assert known == figures | {"feature_network_accuracy": 0.75}


def test_figures_are_those_of_the_images(monkeypatch):
    monkeypatch.setattr(report, "BATCH_SIZE", 7)
    real, fake = images(30, 2), images(24, 3)
    figures = evaluate(NETWORK, real, fake, seed=5)
    pool_real, pool_fake = linear(real).pool, linear(fake).pool
    distance = distances.frechet_distance(
        *(pool_real.mean(0), np.cov(pool_real, rowvar=False)), *(pool_fake.mean(0), np.cov(pool_fake, rowvar=False))
    )
    numbers = "real=30,fake=24"
    assert figures[f"frechet_distance(linear,{numbers})"] == pytest.approx(distance, rel=1e-5)
    expected = distances.kernel_distance(pool_real, pool_fake, subset_size=24, seed=5)
    kernel = figures[f"kernel_distance(linear,{numbers})"], figures[f"kernel_distance_std(linear,{numbers})"]
    assert kernel == expected
    expected = distances.precision_recall(pool_real, pool_fake, 3)
    assert (figures[f"precision(linear,{numbers})"], figures[f"recall(linear,{numbers})"]) == expected
    # Scores are of the generated images.
    expected = scores.classifier_score(linear(fake).logits)
    assert (figures["classifier_score(linear,n=24)"], figures["classifier_score_std(linear,n=24)"]) == expected
    assert (figures["num_real"], figures["num_fake"], figures["kernel_subset_size"]) == (30, 24, 24)


@pytest.mark.slow
def test_kernel_subsets_are_no_larger_than_the_convention():
    figures = evaluate(NETWORK, images(1100, 4), images(1200, 5))
    assert figures["kernel_subset_size"] == 1000


def test_a_network_without_logits_gives_no_score():
    silent = dataclasses.replace(NETWORK, function=lambda batch: Features(linear(batch).pool, None))
    figures = evaluate(silent, images(20, 0), images(20, 1))
    assert not [name for name in figures if "score" in name]
    assert "frechet_distance(linear,n=20)" in figures


@pytest.mark.parametrize("real, fake", [(images(1, 0), images(20, 0)), (images(20, 0), images(2, 1))])
def test_too_few_images_are_refused(real, fake):
    with pytest.raises(UsageError, match="must exceed the feature size"):
        evaluate(NETWORK, real, fake)


@pytest.mark.parametrize(
    "batch, by_user, message",
    [
        (np.zeros((3, 2, 2, 1), np.float32), False, "uint8.*dtype=float32"),
        (np.zeros((2, 2, 1), np.uint8), False, r"shape=\(2, 2, 1\)"),
        (np.zeros((3, 4, 4, 1), np.uint8), True, r"2 x 2 with 1 channels for linear. Received: shape=\(3, 4, 4, 1\)"),
        (np.zeros((3, 2, 2, 3), np.uint8), True, r"shape=\(3, 2, 2, 3\)"),
    ],
)
def test_images_that_do_not_fit_the_network_are_refused(batch, by_user, message):
    """The user chooses weights and data set, hence sizes and channels; the type is ours."""
    with pytest.raises(ValueError, match=message) as error:
        NETWORK(batch)
    assert isinstance(error.value, UsageError) == by_user


def test_points():
    """By hand: modes (0, 0) and (9, 9); distances .1, .7, 3 and 0: within 1 all but one, within 3 * .1 two."""
    points = [[0.0, 0.1], [0.7, 0.0], [0.0, 3.0], [9.0, 9.0]]
    figures = report.evaluate_points(points, [[0.0, 0.0], [9.0, 9.0]], radius=1.0, standard_deviation=0.1)
    assert figures == {
        "num_modes": 2,
        "num_fake": 4,
        "modes_found": 2,
        "modes_touched": 2,
        "high_quality_fraction": 0.75,
        "high_quality_radius": 1.0,
        "modes_found_3_sd": 2,
        "modes_touched_3_sd": 2,
        "high_quality_fraction_3_sd": 0.5,
        "radius_3_sd": pytest.approx(0.3),
        "mode_distance": 0.25,
    }
