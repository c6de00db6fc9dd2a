"""Modes as published, draws with the announced mean, spread and shares, and independent of each other."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import data
from dqgan_tf.config import DataConfig
from dqgan_tf.data import mixtures

NAMES = ["gaussian_ring", "gaussian_grid"]


def draw(name, batch_size=4096, num_replicas=1, replica_ids=(0,), seed=0, start_step=0, take=1):
    dataset = data.build(
        DataConfig(dataset=name),
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


def test_no_two_draws_share_a_seed():
    """Two seeds (mode, noise) for each of 3 seeds x 4 steps x 5 replicas."""
    keys = [
        mixtures.draw_seed(seed, tf.constant(step, tf.int64), tf.constant(replica, tf.int64)).numpy()
        for seed in (0, 1, 2**40)
        for step in (0, 1, 2, 10**10)
        for replica in range(5)
    ]
    assert len({tuple(row) for key in keys for row in key}) == 2 * 3 * 4 * 5
