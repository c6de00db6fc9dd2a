"""Tables along a tree, against numpy's indexing and binary search."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import search_tree

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4, 16])
def test_choose_is_indexing(size, jit):
    """Bits above those of the table's numbers, here bit 5 and the sign, do not matter."""
    indices, table = RNG.integers(0, size, (3, 50)), RNG.standard_normal(size).astype(np.float32)
    given = tf.constant(np.where(indices % 2, indices | 32, indices - 64), tf.int32)
    found = tf.function(lambda i: search_tree.choose(i, tf.unstack(tf.constant(table))), jit_compile=jit)(given)
    np.testing.assert_array_equal(found, table[indices])


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("count", [1, 3, 7, 15])
def test_count_below_is_a_binary_search(count, jit):
    """Bounds of each row's own, two of them equal; every bound is among the values and is not below itself."""
    bounds = np.sort(RNG.standard_normal((4, count)).astype(np.float32))
    bounds[1, : min(2, count)] = bounds[1, 0]
    values = np.concatenate([bounds, RNG.standard_normal((4, 40)).astype(np.float32)], 1)

    def count_below(values, bounds):
        return search_tree.count_below(values, tf.unstack(bounds[:, :, None], axis=1))

    found = tf.function(count_below, jit_compile=jit)(values, bounds)
    expected = [np.searchsorted(row, value, side="left") for row, value in zip(bounds, values, strict=True)]
    np.testing.assert_array_equal(found, expected)


def test_nothing_is_below_nan():
    found = search_tree.count_below(tf.constant([[-1.0, 1e30]]), [tf.constant([[np.nan]])] * 7)
    np.testing.assert_array_equal(found, [[0, 0]])
