"""Positions of set bits against numpy."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import bitset


def to_words(flags):
    return np.packbits(flags, bitorder="little").view(np.int32)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("words", [1, 2, 31, 32, 1000])
def test_equals_flatnonzero(words, share):
    flags = np.random.default_rng(words).random(32 * words) < share
    expected = np.flatnonzero(flags)
    count = len(expected) + 7
    positions = tf.function(lambda w: bitset.positions(w, count), jit_compile=True)(to_words(flags)).numpy()
    np.testing.assert_array_equal(positions[: len(expected)], expected)
    assert (positions[len(expected) :] >= 32 * words).all()
    assert int(bitset.total(to_words(flags))) == len(expected)


def test_by_hand():
    words = np.array([0, 1 << 31 | 1 << 3, 0, 1], np.uint32).view(np.int32)
    assert bitset.positions(words, 3).numpy().tolist() == [35, 63, 96]


def test_fewer_than_there_are():
    assert bitset.positions(np.array([-1], np.int32), 5).numpy().tolist() == [0, 1, 2, 3, 4]
