"""The stream's contract, for drawn and for stored data: a batch is a function of (seed, step, replica) alone."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import data
from dqgan_tf.config import DataConfig
from dqgan_tf.data import images

NUM_IMAGES = 37


@pytest.fixture(params=["gaussian_ring", "numbered"])
def config(request, monkeypatch):
    """A mixture, and images whose value is their index."""
    numbered = np.arange(NUM_IMAGES, dtype=np.uint8)[:, None, None, None]
    monkeypatch.setattr(images, "_find", lambda config: None)
    monkeypatch.setattr(images, "_load", lambda config, user_set: numbered)
    return DataConfig(dataset=request.param)


def build(config, replica_ids=(0, 1, 2, 3), **changed):
    options = {"per_replica_batch_size": 3, "num_replicas": 4, "seed": 5, **changed}
    return data.build(config, replica_ids=list(replica_ids), **options)


def batches(config, take, **options):
    return np.stack(list(build(config, **options).take(take).as_numpy_iterator()))


def test_element_spec_is_static(config):
    spec = build(config).element_spec
    assert spec.dtype == tf.float32
    assert spec.shape == ((3, 2) if config.dataset == "gaussian_ring" else (3, 1, 1, 1))


def test_endless(config):
    assert build(config).cardinality() == tf.data.INFINITE_CARDINALITY


def test_two_iterators_agree(config):
    np.testing.assert_array_equal(batches(config, 40), batches(config, 40))


@pytest.mark.parametrize("start_step", [1, 7, 1000])
def test_start_step_continues(config, start_step):
    whole = build(config).skip(start_step * 4).take(24)
    np.testing.assert_array_equal(np.stack(list(whole.as_numpy_iterator())), batches(config, 24, start_step=start_step))


@pytest.mark.parametrize("workers", [((0, 1), (2, 3)), ((0,), (1,), (2,), (3,)), ((2, 0), (3, 1))])
def test_spread_over_workers_does_not_matter(config, workers):
    steps = 9
    alone = batches(config, 4 * steps).reshape(steps, 4, 3, -1)
    for ids in workers:
        local = batches(config, len(ids) * steps, replica_ids=ids).reshape(steps, len(ids), 3, -1)
        np.testing.assert_array_equal(local, alone[:, list(ids)])


def test_seed_changes_all(config):
    assert not np.array_equal(batches(config, 12), batches(config, 12, seed=6))


def test_replicas_partition_each_epoch(monkeypatch):
    """4 replicas x batch 3 over 37 images: sorted by (step, replica, place), each run of 37 holds each image once."""
    numbered = np.arange(NUM_IMAGES, dtype=np.uint8)[:, None, None, None]
    monkeypatch.setattr(images, "_find", lambda config: None)
    monkeypatch.setattr(images, "_load", lambda config, user_set: numbered)
    seen = batches(DataConfig(dataset="numbered"), 4 * 10).ravel()
    index = np.rint((seen + 1) * 127.5).astype(int)
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(index[epoch * NUM_IMAGES :][:NUM_IMAGES]), np.arange(NUM_IMAGES))
    assert np.any(index[:NUM_IMAGES] != index[NUM_IMAGES : 2 * NUM_IMAGES])


def test_distributed_to_local_replicas(config):
    """Two replicas in one process receive (step, replica 0) and (step, replica 1)."""
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    replicas = {"replica_ids": (0, 1), "num_replicas": 2}
    distributed = iter(strategy.distribute_datasets_from_function(lambda context: build(config, **replicas)))
    expected = batches(config, 6, **replicas)
    for step in range(3):
        local = strategy.experimental_local_results(next(distributed))
        np.testing.assert_array_equal([value.numpy() for value in local], expected[2 * step : 2 * step + 2])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"per_replica_batch_size": 0},
            "`per_replica_batch_size` must be 1 or more. Received: per_replica_batch_size=0",
        ),
        ({"num_replicas": 0}, "`num_replicas` must be 1 or more. Received: num_replicas=0"),
        ({"start_step": -1}, "`start_step` must be 0 or more. Received: start_step=-1"),
        ({"replica_ids": []}, "below num_replicas=4. Received: replica_ids=[]"),
        ({"replica_ids": [4]}, "below num_replicas=4. Received: replica_ids=[4]"),
        ({"replica_ids": [-1]}, "below num_replicas=4. Received: replica_ids=[-1]"),
        ({"replica_ids": [1, 1]}, "below num_replicas=4. Received: replica_ids=[1, 1]"),
    ],
)
def test_errors(changed, message):
    with pytest.raises(ValueError) as error:
        build(DataConfig(), **changed)
    assert message in str(error.value)
