"""Modes as published, draws with the announced mean, spread and shares, and independent of each other."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import data
from dqgan_tf.config import DataConfig
from dqgan_tf.data import mixtures

NAMES = ["gaussian_ring", "gaussian_grid"]


def draw(name, batch_size=4096, num_replicas=1, replica_ids=(0,), seed=0, start_step=0, take=1, shards="iid"):
    dataset = data.build(
        DataConfig(dataset=name, shards=shards),
        per_replica_batch_size=batch_size,
        num_replicas=num_replicas,
        replica_ids=replica_ids,
        seed=seed,
        start_step=start_step,
    )
    return np.stack(list(dataset.take(take).as_numpy_iterator()))


def test_ring_as_in_metz_et_al():
    """Eight modes on the circle of radius 2, deviation .02; neighbours are 2 * 2 sin(pi / 8) = 1.5307 apart."""
    spec = data.describe(DataConfig(dataset="gaussian_ring"))
    np.testing.assert_allclose(np.linalg.norm(spec.modes, axis=1), np.full(8, 2.0), rtol=1e-6)
    neighbours = np.linalg.norm(spec.modes - np.roll(spec.modes, 1, axis=0), axis=1)
    np.testing.assert_allclose(neighbours, np.full(8, 1.5307337), rtol=1e-6)
    assert spec.standard_deviation == 0.02
    assert spec.high_quality_radius == 0.25


def test_grid_as_in_srivastava_et_al():
    spec = data.describe(DataConfig(dataset="gaussian_grid"))
    expected = {(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)}
    assert {tuple(mode) for mode in spec.modes} == expected
    assert spec.standard_deviation == 0.05
    assert spec.high_quality_radius == pytest.approx(3 * 0.05)


@pytest.mark.parametrize("option, value", [("image_size", 32), ("split", "test[:50%]")])
def test_settings_of_images_are_refused(option, value):
    """As where --dataset was forgotten."""
    with pytest.raises(
        data.DatasetError, match=f"--{option} is for images: leave it out, or name .*Received: {option}"
    ):
        data.describe(DataConfig(**{option: value}))


def test_a_data_dir_has_no_effect(caplog):
    data.describe(DataConfig(data_dir="/nonexistent"))
    assert "data_dir=/nonexistent has no effect with dataset=gaussian_ring" in caplog.text


@pytest.mark.parametrize("name", NAMES)
class TestDraws:
    def test_spec(self, name):
        spec = data.describe(DataConfig(dataset=name))
        assert (spec.kind, spec.shape, spec.num_examples, spec.name) == ("points", (2,), None, name)
        assert spec.modes.dtype == np.float32

    def test_moments(self, name):
        """Four standard errors: s/sqrt(n) of a mean, s/sqrt(2 n) of a deviation, sqrt(n p (1 - p)) of a count."""
        spec = data.describe(DataConfig(dataset=name))
        points = draw(name, batch_size=50_000)[0]
        assert points.dtype == np.float32
        offsets = points[:, None] - spec.modes
        nearest = np.linalg.norm(offsets, axis=-1).argmin(axis=1)
        noise = offsets[np.arange(len(points)), nearest]
        s = spec.standard_deviation
        np.testing.assert_allclose(noise.mean(axis=0), 0, atol=4 * s / np.sqrt(len(points)))
        np.testing.assert_allclose(noise.std(axis=0), s, atol=4 * s / np.sqrt(2 * len(points)))
        assert abs(np.corrcoef(noise.T)[0, 1]) < 4 / np.sqrt(len(points))
        share = 1 / len(spec.modes)
        counts = np.bincount(nearest, minlength=len(spec.modes))
        np.testing.assert_allclose(counts, share * 50_000, atol=4 * np.sqrt(50_000 * share * (1 - share)))

    def test_steps_replicas_and_seeds_share_no_point(self, name):
        points = draw(name, batch_size=64, num_replicas=2, replica_ids=(0, 1), take=6).reshape(-1, 2)
        other = draw(name, batch_size=64, num_replicas=2, replica_ids=(0, 1), take=6, seed=1).reshape(-1, 2)
        both = np.concatenate([points, other])
        assert len({tuple(point) for point in both}) == len(both)


# By hand, exact shares of the modes: K = 8 modes among 4 replicas are pairs; 8 among 16 give each mode two replicas;
# 8 among 3 are cut at 8/3 and 16/3; 25 among 4 at 6.25, 12.5, 18.75, and replica 1 has the line from 6.25 to 12.5.
@pytest.mark.parametrize(
    ("name", "replicas", "replica", "shares"),
    [
        ("gaussian_ring", 4, 1, {2: 1 / 2, 3: 1 / 2}),
        ("gaussian_ring", 16, 5, {2: 1}),
        ("gaussian_ring", 3, 1, {2: 1 / 8, 3: 3 / 8, 4: 3 / 8, 5: 1 / 8}),
        ("gaussian_grid", 4, 1, {6: 0.12, 7: 0.16, 8: 0.16, 9: 0.16, 10: 0.16, 11: 0.16, 12: 0.08}),
        ("gaussian_ring", 1, 0, dict.fromkeys(range(8), 1 / 8)),
    ],
)
def test_modes_are_dealt_to_the_replicas(name, replicas, replica, shares):
    """Four standard errors of a count, sqrt(n p (1 - p)); a mode of another replica has none."""
    points = draw(name, 20_000, replicas, [replica], shards="by_class")[0]
    modes = data.describe(DataConfig(dataset=name)).modes
    counts = np.bincount(np.linalg.norm(points[:, None] - modes, axis=-1).argmin(axis=1), minlength=len(modes))
    expected = np.array([shares.get(mode, 0.0) for mode in range(len(modes))])
    assert expected.sum() == pytest.approx(1)
    errors = np.sqrt(20_000 * expected * (1 - expected))
    np.testing.assert_array_less(np.abs(counts - expected * 20_000), 4 * errors + 1)


def test_a_mixture_has_no_samples_to_deal_out():
    with pytest.raises(data.DatasetError, match="by --shards=iid or --shards=by_class. Received: shards=dirichlet:0.3"):
        draw("gaussian_ring", shards="dirichlet:0.3")


def test_no_two_draws_share_a_seed():
    """Two seeds (mode, noise) for each of 3 seeds x 4 steps x 5 replicas."""
    keys = [
        mixtures.draw_seed(seed, tf.constant(step, tf.int64), tf.constant(replica, tf.int64)).numpy()
        for seed in (0, 1, 2**40)
        for step in (0, 1, 2, 10**10)
        for replica in range(5)
    ]
    assert len({tuple(row) for key in keys for row in key}) == 2 * 3 * 4 * 5


def test_labels_are_the_modes_of_the_points():
    """A conditional data set has the points of the other one, each with the nearest mode's number."""
    options = {"per_replica_batch_size": 300, "num_replicas": 2, "replica_ids": [0, 1], "seed": 5}
    for name in mixtures.MIXTURES:
        for shards in ("iid", "by_class"):
            config = DataConfig(dataset=name, shards=shards, conditional=True)
            spec = data.describe(config)
            assert spec.num_classes == len(spec.modes)
            plain = iter(data.build(dataclasses.replace(config, conditional=False), **options))
            for points, labels in data.build(config, **options).take(3):
                assert labels.dtype == tf.int32
                np.testing.assert_array_equal(points, next(plain))
                distances = np.linalg.norm(points.numpy()[:, None] - spec.modes, axis=2)
                np.testing.assert_array_equal(labels, np.argmin(distances, 1))
