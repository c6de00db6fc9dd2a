"""Every sample once per epoch, in an order that shows no trace of the last one."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.data import images


def order(num_examples, batch_size, num_replicas, steps, seed=0):
    """Returns the samples of all replicas, by global position."""

    @tf.function
    def batch(step, replica):
        return images.permuted_indices(num_examples, batch_size, num_replicas, seed, step, replica)

    ids = tf.range(num_replicas, dtype=tf.int64)
    steps = tf.range(steps, dtype=tf.int64)
    return np.concatenate([batch(step, replica).numpy() for step in steps for replica in ids])


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "num_replicas"),
    [(37, 3, 4), (48, 4, 3), (5, 16, 2), (1, 2, 2), (2, 3, 1)],
)
def test_each_epoch_holds_each_sample_once(num_examples, batch_size, num_replicas):
    steps = 3 * num_examples // (batch_size * num_replicas) + 1
    seen = order(num_examples, batch_size, num_replicas, steps)
    for epoch in range(len(seen) // num_examples):
        np.testing.assert_array_equal(np.sort(seen[epoch * num_examples :][:num_examples]), np.arange(num_examples))


def test_order_does_not_depend_on_how_it_is_cut():
    np.testing.assert_array_equal(order(101, 8, 1, 60), order(101, 2, 4, 60))


def test_orders_of_epochs_and_seeds_are_uncorrelated():
    """The correlation of n random pairs has a standard error of 1/sqrt(n - 1); five for some dozen comparisons."""
    n, batch_size = 50_000, 5_000
    steps = n // batch_size
    orders = [*order(n, batch_size, 1, 3 * steps).reshape(3, n), order(n, batch_size, 1, steps, seed=1)]
    bound = 5 / np.sqrt(n - 1)
    for index, first in enumerate(orders):
        assert abs(np.corrcoef(first, np.arange(n))[0, 1]) < bound
        assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < bound
        for second in orders[index + 1 :]:
            assert abs(np.corrcoef(first, second)[0, 1]) < bound
            assert abs(np.corrcoef(np.argsort(first), np.argsort(second))[0, 1]) < bound


def test_seeds_beyond_32_bits_differ():
    assert np.any(order(1000, 100, 1, 1, seed=3) != order(1000, 100, 1, 1, seed=3 + 2**32))


def test_late_positions():
    """Step 10^12 of 64 replicas: no position overflows, and none leaves the data."""
    step, replica = tf.constant(10**12, tf.int64), tf.constant(63, tf.int64)
    indices = images.permuted_indices(50_000, 128, 64, 0, step, replica).numpy()
    assert len(set(indices)) == 128
    assert indices.min() >= 0 and indices.max() < 50_000
