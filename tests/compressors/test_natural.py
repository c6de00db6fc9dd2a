"""Exponential levels of a maximum or a 2-norm, against numpy with the same uniform numbers."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import NUQSGD, Natural, hash_random
from dqgan_tf.errors import UsageError
from tests.contracts.compressor_contract import SEED, N, encode, round_trip
from tests.oracles import compressors_numpy as oracle

FLT_MAX = np.finfo(np.float32).max


def uniform(n):
    return hash_random.uniform(tf.range(n), tf.constant(SEED)).numpy().astype(np.float64)


def assert_equals_oracle(compressor, x, u, scale_of):
    expected, margins = oracle.exponential(x, u, compressor.bits, compressor.bucket, scale_of)
    # u has 24 bits of which 23 are added, and the ratio to a norm is rounded to 24: 2^-21 decides nothing clear.
    clear = margins > 2.0**-21
    assert clear.mean() > 0.99
    np.testing.assert_allclose(round_trip(compressor, x)[clear], expected[clear], rtol=2e-6)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("name", ["gaussian", "student_t3", "zeros_90"])
def test_equals_the_oracle(name, bits):
    x = oracle.distributions(N)[name]  # the contract's length: compiled once for both
    assert_equals_oracle(Natural(bits, 512, "nearest"), x, np.full(N, 0.5), oracle.power_of_two_above)
    assert_equals_oracle(Natural(bits, 512), x, uniform(N), oracle.power_of_two_above)
    assert_equals_oracle(NUQSGD(bits, 512), x, uniform(N), oracle.norm)


def test_nearest_by_hand():
    """S = 8 and, at 3 bits, the levels 8, 4, 2 and 0; 3 and 6 are half way and go up, 1 is half way and goes down."""
    x = np.array([7, -6, 5.9, 3, 2.9, -1.1, 1, 0, -0.5], np.float32)
    np.testing.assert_array_equal(round_trip(Natural(3, 512, "nearest"), x), [8, -8, 4, 4, 2, -2, 0, 0, 0])


def test_powers_of_two_are_exact():
    x = (-2.0) ** np.arange(-60, 60).astype(np.float32)
    for rounding in ("nearest", "stochastic"):
        np.testing.assert_array_equal(round_trip(Natural(8, 512, rounding), x), x)


@pytest.mark.parametrize("compressor", [Natural(8, 32), Natural(4, 32), NUQSGD(4, 32), NUQSGD(8, 32)])
def test_unbiased(compressor):
    """Mean of 4,000 decodes: the rms error is at most sqrt(1/8) |x|, or half the lowest level; five standard errors."""
    x = np.tile(oracle.distributions(32)["gaussian"], 4000)
    decoded = round_trip(compressor, x).astype(np.float64).reshape(4000, 32)
    lowest = encode(compressor, x).scales.numpy().max() * 2.0 ** -(2 ** (compressor.bits - 1) - 2)
    rms = np.maximum(np.abs(x[:32]) * np.sqrt(1 / 8), lowest / 2)
    assert (np.abs(decoded.mean(axis=0) - x[:32]) <= 5 * rms / np.sqrt(4000)).all()


@pytest.mark.parametrize("rounding, worst, ratio", [("nearest", 1.4999, 1 / 9), ("stochastic", 4 / 3, 1 / 8)])
def test_bound_is_tight(rounding, worst, ratio):
    x = np.full(512 * 40, worst, np.float32)
    lost = oracle.relative_error(x, round_trip(Natural(8, 512, rounding), x))
    assert 1 - Natural(8, 512, rounding).delta(len(x)) == pytest.approx(ratio, abs=2e-6)
    assert lost == pytest.approx(ratio, rel=0.01)


@pytest.mark.parametrize("bits, contractive", [(3, False), (4, True), (8, True)])
def test_few_levels_prove_nothing_in_a_wide_bucket(bits, contractive):
    assert (NUQSGD(bits).delta(10**6) > 0.0) == (Natural(bits).delta(10**6) > 0.0) == contractive


def test_delta_by_hand():
    """4 bits are K = 7 levels: the lowest is S / 64, and S^2 < 4 max^2."""
    assert NUQSGD(4, 512).delta(10**6) == pytest.approx(1 - 1 / 8 - 512 / 64**2 / 4, abs=3e-6)
    assert Natural(4, 512).delta(10**6) == pytest.approx(1 - 1 / 8 - 4 * 511 / 64**2 / 4, abs=3e-6)


def test_the_top_level_is_no_overflow():
    x = np.array([FLT_MAX, -FLT_MAX, 2.0**127], np.float32)
    decoded = round_trip(Natural(8, 512, "nearest"), x)
    assert np.isfinite(decoded).all() and decoded[:2].tolist() == [FLT_MAX, -FLT_MAX]
    assert np.isfinite(round_trip(NUQSGD(), np.full(512, FLT_MAX))).all()


@pytest.mark.parametrize("compressor", [Natural(8), NUQSGD(8)])
def test_bytes(compressor):
    assert compressor.wire_bytes(1024) == 1024 + 8


@pytest.mark.parametrize("cls", [Natural, NUQSGD])
@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"bits": 2}, "`bits` must be 3 to 8. Received: bits=2"),
        ({"bits": 4.0}, "Received: bits=4.0"),
        ({"bucket": 33}, "Received: bucket=33"),
    ],
)
def test_refuses(cls, parameters, message):
    with pytest.raises(UsageError, match=message):
        cls(**parameters)


def test_refuses_a_rounding():
    with pytest.raises(UsageError, match="`rounding` must be one of stochastic, nearest. Received: rounding=up"):
        Natural(rounding="up")
