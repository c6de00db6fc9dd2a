"""The counter generator: uniform, and seeds that have nothing to do with each other."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import hash_random

N = 1 << 20


def draw(seed, n=N):
    return hash_random.uniform(tf.range(n), tf.constant(seed, tf.int32)).numpy().astype(np.float64)


@pytest.mark.parametrize("seed", [(0, 0), (1, 2), (-1, 2**31 - 1)])
def test_moments(seed):
    """Standard errors of n uniforms: mean 1 / sqrt(12 n), variance sqrt(1/180 / n); five of them."""
    u = draw(seed)
    assert u.min() >= 0.0 and u.max() < 1.0
    assert u.mean() == pytest.approx(0.5, abs=5 / np.sqrt(12 * N))
    assert u.var() == pytest.approx(1 / 12, abs=5 / np.sqrt(180 * N))


def test_histogram():
    """Chi square of 256 cells: mean 255, standard deviation sqrt(2 * 255)."""
    counts = np.bincount((draw((5, 6)) * 256).astype(int), minlength=256)
    chi_square = np.sum((counts - N / 256) ** 2) / (N / 256)
    assert abs(chi_square - 255) < 5 * np.sqrt(510)


@pytest.mark.parametrize("lag", [1, 2, 16, 512])
def test_neighbours_are_uncorrelated(lag):
    u = draw((7, 8)) - 0.5
    assert abs(np.mean(u[:-lag] * u[lag:]) * 12) < 5 / np.sqrt(N - lag)


@pytest.mark.parametrize("other", [(0, 1), (1, 0), (1, 1), (0, -1), (1 << 20, 0)])
def test_seeds_are_independent(other):
    a, b = draw((0, 0)), draw(other)
    assert abs(np.mean((a - 0.5) * (b - 0.5)) * 12) < 5 / np.sqrt(N)
    # Not the same numbers in another order either: 2^20 of 2^24 values, an expected 6 % in common.
    assert np.isin(a[:65536], b).mean() < 0.08


def test_pure_function_of_position_and_seed():
    np.testing.assert_array_equal(draw((3, 4), 1000), draw((3, 4))[:1000])
    compiled = tf.function(hash_random.uniform, jit_compile=True, autograph=False)(tf.range(1000), tf.constant([3, 4]))
    np.testing.assert_array_equal(compiled.numpy(), draw((3, 4), 1000).astype(np.float32))


def test_lowbias32_by_hand():
    """Key 0 is lowbias32; the reference is its C code in Python integers."""

    def lowbias32(x):
        x = ((x ^ x >> 16) * 0x7FEB352D) % 2**32
        x = ((x ^ x >> 15) * 0x846CA68B) % 2**32
        return x ^ x >> 16

    words = [0, 1, 2, 0xDEADBEEF, 0xFFFFFFFF]
    mixed = hash_random.mix(tf.constant(words, tf.uint32), tf.constant(0, tf.uint32)).numpy().tolist()
    assert mixed == [lowbias32(word) for word in words]
