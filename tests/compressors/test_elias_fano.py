"""Ascending integers in few bits: by hand, as a bijection, and no longer than promised."""

import math

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import elias_fano

CASES = [
    (1, 1),
    (1, 32),
    (1, 10**6),
    (5, 5),
    (11, 1120),
    (64, 1000),
    (1000, 10**6),
    (3000, 3000),
    (40, 2**31 - 1),
    (2000, 2**22),
]


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("k, universe", CASES)
def test_decode_inverts_encode(k, universe, jit):
    rng = np.random.default_rng(k)
    drawn = rng.choice(universe, k, replace=False) if universe < 10**7 else rng.integers(0, universe, k)
    values = np.sort(drawn).astype(np.int32)
    values[-1] = universe - 1
    words = tf.function(lambda v: elias_fano.encode(v, universe), jit_compile=jit)(values)
    assert words.shape == (elias_fano.num_words(k, universe),) and words.dtype == tf.int32
    decoded = tf.function(lambda w: elias_fano.decode(w, k, universe), jit_compile=jit)(words)
    np.testing.assert_array_equal(decoded, values)


@pytest.mark.parametrize("k, universe", [(63_423, 6_344_704), (634_228, 6_344_704), (6_343, 6_344_704), (1000, 10**6)])
def test_bits_of_each(k, universe):
    """floor(log2(u / k)) low bits, and k + u / 2^l < 3 k bits of the vector; at most a word more for each low bit."""
    low = int(math.log2(universe / k))
    classical = -(-k * low // 32) + -(-(k + (universe >> low)) // 32)
    assert elias_fano.num_words(k, universe) <= classical + low
    assert 32 * elias_fano.num_words(k, universe) / k < math.log2(universe / k) + 2.3


def test_by_hand():
    """64 values below 1024 have 4 low bits: 8 words; bits j + (v_j >> 4) of 64 + 63 are 4 words more."""
    values = np.arange(64, dtype=np.int32) * 16 + 5
    words = elias_fano.encode(values, 1024).numpy().view(np.uint32)
    assert words.tolist() == [0x55555555] * 8 + [0x55555555] * 4


def test_few_integers_are_sent_as_they_are():
    assert elias_fano.encode(tf.constant([123456]), 10**6).numpy().tolist() == [123456]
