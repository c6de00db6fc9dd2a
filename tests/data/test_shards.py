"""Parts of an image set for replicas: a partition in equal parts, by hand and in distribution; the streams from it."""

import dataclasses

import numpy as np
import pytest

from dqgan_tf import data
from dqgan_tf.config import DataConfig
from dqgan_tf.data import images

LABELS = np.random.default_rng(0).integers(0, 10, 1003)
SHARDS = ["by_class", "dirichlet:0.3", "dirichlet:1e-9", "dirichlet:1e6"]


def counts(parts, labels=LABELS):
    """Number of images of each class in each part."""
    return np.array([np.bincount(labels[part], minlength=labels.max() + 1) for part in parts])


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("replicas", [1, 4, 16])
def test_a_partition_in_equal_parts(shards, replicas):
    parts = images.deal(LABELS, shards, replicas, seed=5)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(LABELS)))
    assert {len(part) for part in parts} <= {1003 // replicas, 1003 // replicas + 1}
    for part, again in zip(parts, images.deal(LABELS, shards, replicas, seed=5), strict=True):
        np.testing.assert_array_equal(part, again)
    other = images.deal(LABELS, shards, replicas, seed=6)
    assert any(not np.array_equal(part, part_6) for part, part_6 in zip(parts, other, strict=True))


def test_classes_by_hand():
    """3 images of each of 4 classes: two replicas have two classes each; three have 4 images, cut at 4 and 8."""
    labels = np.array([0, 1, 2, 3] * 3)
    np.testing.assert_array_equal(counts(images.deal(labels, "by_class", 2, 0), labels), [[3, 3, 0, 0], [0, 0, 3, 3]])
    three = counts(images.deal(labels, "by_class", 3, 0), labels)
    np.testing.assert_array_equal(three, [[3, 1, 0, 0], [0, 2, 2, 0], [0, 0, 1, 3]])
    # More replicas than classes: 6 replicas have 2 images each, and some share a class.
    six = counts(images.deal(labels, "by_class", 6, 0), labels)
    np.testing.assert_array_equal(six[:2], [[2, 0, 0, 0], [1, 1, 0, 0]])


def test_alpha_sets_how_unequal_the_parts_are():
    """At 1e6 the shares of the set up to the draws of 250; at 1e-9 parts of as few classes of 100 as hold 250."""
    labels = np.arange(1000) % 10
    even = counts(images.deal(labels, "dirichlet:1e6", 4, 0), labels)
    assert np.all(np.abs(even[:3] - 25) < 5 * np.sqrt(25))
    few = counts(images.deal(labels, "dirichlet:1e-9", 4, 0), labels)
    assert [sorted(part[part > 0].tolist()) for part in few] == [[50, 100, 100]] * 4
    variances = [
        np.mean([np.var(counts(images.deal(labels, f"dirichlet:{alpha}", 4, seed), labels)) for seed in range(30)])
        for alpha in (0.1, 1, 10, 100)
    ]
    assert variances == sorted(variances, reverse=True)


def test_parts_do_not_depend_on_the_version_of_numpy():
    """Recorded with numpy 2.4.6 and 2.5.5, whose `RandomState.multinomial` differ. Workers and a resumed run have the
    same parts with both."""
    labels = np.arange(1000) % 10
    found = counts(images.deal(labels, "dirichlet:1", 4, 0), labels)
    assert found[:2].tolist() == [[42, 9, 0, 0, 0, 1, 0, 100, 87, 11], [0, 1, 1, 100, 0, 99, 0, 0, 13, 36]]


def test_shares_have_the_moments_of_the_distribution():
    """First replica of two, two equal classes: its share of a class has mean 1/2 and variance 1/4 / (ALPHA + 1), as
    Dirichlet(ALPHA / 2, ALPHA / 2) has; the draw of 500 images adds E[s (1 - s)] / 500. 400 seeds; five standard errors
    of the mean, and a quarter of the variance, whose own error is about 5 %."""
    labels, alpha = np.arange(1000) % 2, 4.0
    shares = [np.mean(labels[images.deal(labels, f"dirichlet:{alpha}", 2, seed)[0]]) for seed in range(400)]
    variance = 0.25 / (alpha + 1)
    assert abs(np.mean(shares) - 0.5) < 5 * np.sqrt(variance / 400)
    assert np.var(shares) == pytest.approx(variance + (0.25 - variance) / 500, rel=0.25)


def test_too_many_replicas():
    with pytest.raises(data.DatasetError, match="8 replicas need 16 images or more .* Received: 15 images"):
        images.deal(np.zeros(15, int), "by_class", 8, 0)


@pytest.fixture
def labelled(tmp_path):
    """Returns `labelled(shards)`, a set of 37 images whose value is their index, of 5 classes."""
    numbered = np.arange(37, dtype=np.uint8)[:, None, None, None]
    np.savez(tmp_path / "x.npz", images=np.tile(numbered, (1, 2, 2, 1)), labels=np.arange(37) % 5)
    return lambda shards: DataConfig(dataset=str(tmp_path / "x.npz"), shards=shards)


def batches(config, ids, take, **options):
    options = {"per_replica_batch_size": 4, "num_replicas": 3, "seed": 2} | options
    stream = data.build(config, replica_ids=ids, **options).take(take).as_numpy_iterator()
    return np.stack([np.rint((batch[:, 0, 0, 0] + 1) * 127.5).astype(int) for batch in stream])


@pytest.mark.parametrize("shards", ["by_class", "dirichlet:0.5"])
def test_each_replica_permutes_its_own_part(labelled, shards):
    config = labelled(shards)
    parts = images.deal(np.arange(37) % 5, shards, 3, seed=2)
    orders = []
    for replica, part in enumerate(parts):
        n = len(part)
        seen = batches(config, [replica], 3 * n).ravel()  # 12 epochs of 4 n samples
        for epoch in range(12):
            np.testing.assert_array_equal(np.sort(seen[epoch * n :][:n]), np.sort(part))
        assert np.any(seen[:n] != seen[n : 2 * n])
        places = {image: place for place, image in enumerate(part.tolist())}
        orders.append([places[image] for image in seen[:n].tolist()])
    assert len(orders[0]) == len(orders[1]) == 12 and orders[0] != orders[1]  # streams of their own


@pytest.mark.parametrize("shards", ["by_class", "dirichlet:0.5"])
def test_a_batch_depends_on_seed_step_and_replica_alone(labelled, shards):
    config = labelled(shards)
    whole = batches(config, [0, 1, 2], 60).reshape(20, 3, 4)
    np.testing.assert_array_equal(whole[7:].reshape(-1, 4), batches(config, [0, 1, 2], 39, start_step=7))
    for replica in range(3):
        np.testing.assert_array_equal(whole[9:, replica], batches(config, [replica], 11, start_step=9))
    assert np.any(whole != batches(config, [0, 1, 2], 60, seed=3).reshape(20, 3, 4))


@pytest.mark.parametrize("shards", ["iid", "by_class"])
def test_a_conditional_set_has_the_label_of_every_image(labelled, shards):
    config = dataclasses.replace(labelled(shards), conditional=True)
    assert data.describe(config).num_classes == 5 and data.describe(labelled(shards)).num_classes is None
    options = {"per_replica_batch_size": 4, "num_replicas": 3, "seed": 2, "replica_ids": [0, 1, 2]}
    plain = data.build(labelled(shards), **options).take(20).as_numpy_iterator()
    for (batch, labels), other in zip(data.build(config, **options).take(20), plain, strict=True):
        np.testing.assert_array_equal(batch, other)
        assert labels.dtype == "int32"
        np.testing.assert_array_equal(labels, np.rint((batch[:, 0, 0, 0].numpy() + 1) * 127.5) % 5)


def test_a_set_without_labels(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros([9, 4, 4], np.uint8))
    with pytest.raises(data.DatasetError, match="has no labels, .* --noconditional. .* conditional=True"):
        data.describe(DataConfig(dataset=str(tmp_path / "x.npy"), conditional=True))
    for shards in ("by_class", "dirichlet:1"):
        with pytest.raises(data.DatasetError, match=f"has no labels, .* --shards=iid .* Received: shards={shards}"):
            data.describe(DataConfig(dataset=str(tmp_path / "x.npy"), shards=shards))
