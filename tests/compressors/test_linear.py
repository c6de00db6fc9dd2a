"""Linear levels against the numpy oracle, the bound's worst case, and refusals."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.compressors import QSGD, Linear, float_bits, hash_random
from dqgan_tf.errors import UsageError
from tests.contracts.compressor_contract import SEED, N, encode, round_trip
from tests.oracles import compressors_numpy as oracle

ALL_BITS = (2, 3, 4, 5, 6, 7, 8, 16)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("name", ["gaussian", "student_t3", "zeros_90"])
def test_equals_the_oracle(bits, name):
    x = oracle.distributions(1100)[name]
    expected, margins = oracle.linear_nearest(x, bits, 512)
    decoded = round_trip(Linear(bits=bits), x)
    # x * (1 / step) has a relative error of 2^-23, which may decide a tie the other way: L 2^-23 codes wide.
    clear = margins > 2.0 ** (bits - 24)
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(decoded[clear], expected[clear].astype(np.float32))


def test_by_hand():
    # L = 7, maximum 7, so the step is 1 and ties go to even.
    x = np.array([7, -7, 0.4, 0.5, 1.5, -2.5, 3.49, -0.0], np.float32)
    np.testing.assert_array_equal(round_trip(Linear(bits=4), x), [7, -7, 0, 0, 2, -2, 3, 0])


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("d", [2, 100, 512])
def test_bound_is_tight(bits, d):
    """The maximum at L steps and all others just below half a step, as the proof has it: within 1 % of 1 - delta."""
    levels = 2 ** (bits - 1) - 1
    x = np.full(d, 0.5 * (1 - 1e-3), np.float32)
    x[0] = levels
    compressor = Linear(bits=bits)
    lost = oracle.relative_error(x, round_trip(compressor, x, mode="eager"))
    bound = 1.0 - compressor.delta(d)
    assert 0.99 * bound - 2e-6 <= lost <= bound


@pytest.mark.parametrize("bits", ALL_BITS)
def test_delta_is_the_derived_formula(bits):
    levels = 2 ** (bits - 1) - 1
    assert Linear(bits=bits).delta(10**6) == pytest.approx(1 - 511 / (4 * levels**2 + 511), abs=5e-6)


@pytest.mark.parametrize("bits, bucket", [(2, 32), (4, 64), (8, 512), (8, 8192), (16, 512)])
def test_stochastic_delta_is_the_worst_fraction(bits, bucket):
    square, others = (2 ** (bits - 1) - 1) ** 2, bucket - 1
    f = np.linspace(0, 1, 1_000_001)
    worst = np.max(others * f * (1 - f) / (square + others * f**2))
    compressor = Linear(bits=bits, bucket=bucket, rounding="stochastic")
    assert compressor.delta(10**6) == pytest.approx(max(0.0, 1 - worst), abs=2e-5)


def test_ternary_stochastic_proves_nothing():
    assert compressors.get("linear:bits=2,rounding=stochastic").delta(10**6) == 0.0
    assert compressors.get("linear:bits=2").delta(10**6) > 0.0


def test_stochastic_is_unbiased():
    """Mean of 4,000 decodes; each code deviates by at most half a step, so 5 sigma is 2.5 step / sqrt(4000)."""
    x = np.tile(oracle.distributions(32)["gaussian"], 4000)
    compressor = Linear(bits=4, bucket=32, rounding="stochastic")
    mean = round_trip(compressor, x).astype(np.float64).reshape(4000, 32).mean(axis=0)
    step = np.abs(x[:32]).max() / 7
    np.testing.assert_allclose(mean, x[:32], atol=2.5 * step / np.sqrt(4000))


def test_stochastic_never_leaves_the_levels():
    x = np.full(512 * 200, -1.0, np.float32)
    for bits in (2, 4, 8, 16):
        decoded = round_trip(Linear(bits=bits, rounding="stochastic"), x, mode="eager")
        assert decoded.min() >= -1.0 - 2.0 ** (bits - 24) * 2 and decoded.max() <= 0.0


@pytest.mark.parametrize("bits", ALL_BITS)
def test_code_times_step_is_exact(bits):
    payload = encode(Linear(bits=bits), oracle.distributions(5000)["gaussian"], mode="eager")
    steps = payload.scales.numpy().astype(np.float64)
    codes = np.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1))
    products = steps[:, None] * codes
    np.testing.assert_array_equal(products.astype(np.float32).astype(np.float64), products)


def test_small_vectors_do_not_pay_for_a_bucket():
    assert Linear(bits=4).wire_bytes(1) == 32 * 4 // 8 + 4
    assert Linear(bits=4).wire_bytes(513) == 2 * (512 * 4 // 8 + 4)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"bits": 1}, "`bits` must be 2 to 8 or 16. Received: bits=1"),
        ({"bits": 9}, "Received: bits=9"),
        ({"bits": True}, "Received: bits=True"),
        ({"bits": 5.5}, "Received: bits=5.5"),
        ({"bits": 4.0}, "Received: bits=4.0"),
        ({"bucket": 0}, "`bucket` must be a positive multiple of 32 up to 16777216, such as 512. Received: bucket=0"),
        ({"bucket": -32}, "Received: bucket=-32"),
        ({"bucket": 100}, "Received: bucket=100"),
        ({"rounding": "up"}, "`rounding` must be one of nearest, stochastic. Received: rounding=up"),
    ],
)
def test_refuses(parameters, message):
    with pytest.raises(UsageError, match=message):
        Linear(**parameters)


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Linear().bits = 8


# Levels of the 2-norm, against numpy with the same uniform numbers.


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("name", ["gaussian", "student_t3", "zeros_90"])
def test_norm_levels_equal_the_oracle(bits, name):
    x = oracle.distributions(N)[name]  # the contract's length: compiled once for both
    u = hash_random.uniform(tf.range(N), tf.constant(SEED)).numpy().astype(np.float64)
    expected, margins = oracle.qsgd(x, u, bits, 512)
    # The norm of 512 float32 squares, and its rounding to 25 - bits bits, may differ in the last place.
    clear = margins > 2.0 ** (bits - 21)
    assert clear.mean() > 0.9
    np.testing.assert_allclose(round_trip(QSGD(bits), x)[clear], expected[clear], rtol=2.0 ** (bits - 23))


def test_norm_levels_are_unbiased():
    """Mean of 4,000 decodes; a code deviates by at most half a step rms, so 5 sigma is 2.5 step / sqrt(4000)."""
    x = np.tile(oracle.distributions(32)["gaussian"], 4000)
    compressor = QSGD(bits=4, bucket=32)
    step = encode(compressor, x).scales.numpy().max()
    mean = round_trip(compressor, x).astype(np.float64).reshape(4000, 32).mean(axis=0)
    np.testing.assert_allclose(mean, x[:32], atol=2.5 * step / np.sqrt(4000))


@pytest.mark.parametrize("bits, d", [(4, 512), (4, 32), (6, 512), (8, 512)])
def test_norm_delta_is_the_smaller_of_two_bounds(bits, d):
    levels = 2 ** (bits - 1) - 1
    bound = min(d / (4 * levels**2), math.sqrt(d) / levels)
    assert QSGD(bits, d).delta(10**6) == pytest.approx(max(0.0, 1 - bound), abs=3e-5)


def test_four_bits_of_a_norm_prove_nothing_in_a_wide_bucket():
    assert QSGD(4, 512).delta(10**6) == 0.0
    assert QSGD(8, 512).delta(10**6) > 0.0


@pytest.mark.parametrize("scale", [1e-25, 1e-10, 1.0, 1e30, 3e38])
def test_row_norm(scale):
    x = (np.random.default_rng(0).uniform(-1, 1, (3, 64)) * scale).astype(np.float32)
    top = np.abs(x).max(axis=1).view(np.int32)
    with np.errstate(over="ignore"):
        expected = np.sqrt(np.sum(x.astype(np.float64) ** 2, axis=1)).astype(np.float32)
    # 16 float32 additions in two stages: 2^-20 of the sum.
    norms = tf.function(float_bits.row_norm, jit_compile=True, autograph=False)(x, top).numpy()
    np.testing.assert_allclose(norms, expected, rtol=1e-6)


def test_norm_spec_and_refusals():
    assert QSGD(8, 64).spec == "qsgd:bits=8,bucket=64"
    with pytest.raises(UsageError, match="`bits` must be 2 to 8 or 16. Received: bits=1"):
        QSGD(bits=1)
