"""Linear levels against the numpy oracle, the bound's worst case, and refusals."""

import dataclasses

import numpy as np
import pytest

from dqgan_tf import compressors
from dqgan_tf.compressors import Linear
from tests.contracts.compressor_contract import encode, round_trip
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
        ({"bucket": 0}, "`bucket` must be a positive multiple of 32 up to 16777216. Received: bucket=0"),
        ({"bucket": -32}, "Received: bucket=-32"),
        ({"bucket": 100}, "Received: bucket=100"),
        ({"rounding": "up"}, "`rounding` must be one of nearest, stochastic. Received: rounding=up"),
    ],
)
def test_refuses(parameters, message):
    with pytest.raises(ValueError, match=message):
        Linear(**parameters)


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Linear().bits = 8
