"""Sixteen-bit casts against numpy, at the ends of their ranges."""

import numpy as np
import pytest

from dqgan_tf.compressors import BFloat16, Float16
from tests.contracts.compressor_contract import encode, round_trip
from tests.oracles import compressors_numpy as oracle

FLT_MAX = np.finfo(np.float32).max
EDGES = [65504, 65519.996, 65520, -70000, FLT_MAX, -FLT_MAX, 6e-8, 2.9e-8, 2049, 2051, 257, 259, -0.0]


@pytest.mark.parametrize("mode", ["eager", "xla"])
@pytest.mark.parametrize("compressor, expected", [(Float16(), oracle.float16), (BFloat16(), oracle.bfloat16)])
def test_equals_the_oracle(compressor, expected, mode):
    x = np.concatenate([oracle.distributions(1100)["student_t3"] * np.float32(1e-3), EDGES]).astype(np.float32)
    np.testing.assert_array_equal(round_trip(compressor, x, mode=mode), expected(x).astype(np.float32))


def test_bfloat16_rounds_every_tie_to_even():
    """1 + k / 256 lies half way between two neighbours for odd k."""
    x = (1 + np.arange(256) / 256).astype(np.float32)
    np.testing.assert_array_equal(round_trip(BFloat16(), x), oracle.bfloat16(x).astype(np.float32))


@pytest.mark.parametrize("compressor", [Float16(), BFloat16()])
def test_only_what_was_not_finite_is_not(compressor):
    x = np.array([np.nan, -np.nan, np.inf, -np.inf, FLT_MAX, -FLT_MAX, 1.0], np.float32)
    hidden = np.array([0x7F800001, 0xFF800001], np.uint32).view(np.float32)
    decoded = round_trip(compressor, np.concatenate([x, hidden]))
    assert np.isnan(decoded).tolist() == [True, True, False, False, False, False, False, True, True]
    assert decoded[2:4].tolist() == [np.inf, -np.inf] and np.isfinite(decoded[4:7]).all()


def test_two_values_to_a_word_by_hand():
    x = np.zeros(32, np.float32)
    x[0], x[16] = 1.0, -2.0  # binary16 0x3C00 and 0xC000; bfloat16 0x3F80 and 0xC000
    assert encode(Float16(), x).words.numpy().view(np.uint32)[0, 0] == 0xC0003C00
    assert encode(BFloat16(), x).words.numpy().view(np.uint32)[0, 0] == 0xC0003F80


@pytest.mark.parametrize("compressor", [Float16(), BFloat16()])
def test_bytes(compressor):
    assert compressor.wire_bytes(1024) == 2048


def test_bfloat16_bound_is_tight():
    """x = 1 + 2^-8 lies half way between 1 and 1 + 2^-7: the relative error is 2^-8 / (1 + 2^-8)."""
    x = np.full(512, 1 + 2.0**-8, np.float32)
    lost = oracle.relative_error(x, round_trip(BFloat16(), x))
    bound = 1.0 - BFloat16().delta(512)
    assert 0.9 * bound <= lost <= bound


def test_half_precision_proves_nothing_because_small_values_vanish():
    x = np.full(40, 2.0**-26, np.float32)
    assert Float16().delta(40) == 0.0
    np.testing.assert_array_equal(round_trip(Float16(), x), 0.0 * x)
