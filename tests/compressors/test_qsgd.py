"""Levels of the 2-norm against numpy with the same uniform numbers."""

import math

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import QSGD, hash_random, reductions
from tests.contracts.compressor_contract import SEED, N, encode, round_trip
from tests.oracles import compressors_numpy as oracle


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("name", ["gaussian", "student_t3", "zeros_90"])
def test_equals_the_oracle(bits, name):
    x = oracle.distributions(N)[name]  # the contract's length: compiled once for both
    u = hash_random.uniform(tf.range(N), tf.constant(SEED)).numpy().astype(np.float64)
    expected, margins = oracle.qsgd(x, u, bits, 512)
    # The norm of 512 float32 squares, and its rounding to 25 - bits bits, may differ in the last place.
    clear = margins > 2.0 ** (bits - 21)
    assert clear.mean() > 0.9
    np.testing.assert_allclose(round_trip(QSGD(bits), x)[clear], expected[clear], rtol=2.0 ** (bits - 23))


def test_unbiased():
    """Mean of 4,000 decodes; a code deviates by at most half a step rms, so 5 sigma is 2.5 step / sqrt(4000)."""
    x = np.tile(oracle.distributions(32)["gaussian"], 4000)
    compressor = QSGD(bits=4, bucket=32)
    step = encode(compressor, x).scales.numpy().max()
    mean = round_trip(compressor, x).astype(np.float64).reshape(4000, 32).mean(axis=0)
    np.testing.assert_allclose(mean, x[:32], atol=2.5 * step / np.sqrt(4000))


@pytest.mark.parametrize("bits, d", [(4, 512), (4, 32), (6, 512), (8, 512)])
def test_delta_is_the_smaller_of_two_bounds(bits, d):
    levels = 2 ** (bits - 1) - 1
    bound = min(d / (4 * levels**2), math.sqrt(d) / levels)
    assert QSGD(bits, d).delta(10**6) == pytest.approx(max(0.0, 1 - bound), abs=3e-5)


def test_four_bits_prove_nothing_in_a_wide_bucket():
    assert QSGD(4, 512).delta(10**6) == 0.0
    assert QSGD(8, 512).delta(10**6) > 0.0


@pytest.mark.parametrize("scale", [1e-25, 1e-10, 1.0, 1e30, 3e38])
def test_row_norm(scale):
    x = (np.random.default_rng(0).uniform(-1, 1, (3, 64)) * scale).astype(np.float32)
    top = np.abs(x).max(axis=1).view(np.int32)
    with np.errstate(over="ignore"):
        expected = np.sqrt(np.sum(x.astype(np.float64) ** 2, axis=1)).astype(np.float32)
    # 16 float32 additions in two stages: 2^-20 of the sum.
    norms = tf.function(reductions.row_norm, jit_compile=True)(x, top).numpy()
    np.testing.assert_allclose(norms, expected, rtol=1e-6)


def test_spec_and_refusals():
    assert QSGD(8, 64).spec == "qsgd:bits=8,bucket=64"
    with pytest.raises(ValueError, match="`bits` must be 2 to 8 or 16. Received: bits=1"):
        QSGD(bits=1)
