"""The largest values against a full sort."""

import numpy as np
import pytest

from dqgan_tf import compressors
from dqgan_tf.compressors import TopK
from tests.contracts.compressor_contract import encode, round_trip
from tests.oracles import compressors_numpy as oracle


@pytest.mark.parametrize(
    "fraction, n, k",
    [
        (0.01, 150, 2),
        (0.1, 1100, 110),
        *[pytest.param(*p, marks=pytest.mark.slow) for p in [(0.01, 1, 1), (1.0, 33, 33)]],
    ],
)
def test_equals_the_oracle(fraction, n, k):
    x = oracle.distributions(n)["student_t3"]
    assert TopK(fraction).k(n) == k
    mode = "xla" if n == 1100 else "graph"  # the contract has short vectors in XLA
    np.testing.assert_array_equal(round_trip(TopK(fraction), x, mode=mode), oracle.topk(x, k))


def test_indices_are_distinct_even_among_equals():
    decoded = round_trip(TopK(0.5), np.ones(100, np.float32), mode="graph")
    np.testing.assert_array_equal(decoded, np.arange(100) < 50)


def test_nan_and_inf_come_before_everything():
    x = np.linspace(1e30, 3e38, 1000, dtype=np.float32)
    x[[4, 500]] = np.nan, -np.inf
    values = encode(TopK(0.002), x, mode="graph").values.numpy()
    assert np.isnan(values).sum() == 1 and (values == -np.inf).sum() == 1


def test_delta_is_the_share_and_tight():
    x = np.ones(200, np.float32)
    assert TopK(0.1).delta(200) == pytest.approx(0.1, abs=2e-6)
    assert oracle.relative_error(x, round_trip(TopK(0.1), x, mode="graph")) == pytest.approx(0.9)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan"), True, "0.1"])
def test_refuses(fraction):
    with pytest.raises(ValueError, match=r"`fraction` must be in \(0, 1\]. Received: fraction="):
        TopK(fraction)


@pytest.mark.parametrize(
    "values",
    ["linear:bits=8,bucket=512", *[pytest.param(p, marks=pytest.mark.slow) for p in ["sign:bucket=512", "bf16"]]],
)
def test_values_by_a_second_compressor(values):
    """What travels of the k values, in the order of their slots, is what the second compressor makes of them."""
    x = oracle.distributions(5000)["student_t3"]
    inner = compressors.get(values)
    exact, coded = (encode(compressor, x, mode="graph") for compressor in (TopK(0.1), TopK(0.1, inner)))
    np.testing.assert_array_equal(exact.indices, coded.indices)
    support = oracle.topk(x, 500) != 0
    decoded = round_trip(TopK(0.1, inner), x, mode="graph")
    assert not decoded[~support].any()
    np.testing.assert_array_equal(
        np.sort(decoded[support]), np.sort(round_trip(inner, exact.values.numpy(), mode="graph"))
    )


def test_delta_of_two_is_the_product():
    inner = compressors.get("linear:bits=4,bucket=512")
    assert TopK(0.1, inner).delta(10_000) == pytest.approx(0.1 * inner.delta(1000), abs=2e-6)


def test_bytes():
    """1 % of 6,342,272: an index takes 6 + 2.6 bits, an 8-bit value 1 byte and 4 bytes for every 512."""
    n, k = 6_342_272, 63_423
    indices = 4 * (6 * 1982 + -(-(k + 99_135) // 32))
    assert TopK().wire_bytes(n) == indices + 4 * k
    quantized = compressors.get("topk:fraction=0.01+linear:bits=8,bucket=512")
    assert quantized.wire_bytes(n) == indices + 124 * (512 + 4) < 140_000


def test_refuses_values_that_are_no_compressor():
    with pytest.raises(ValueError, match="`values` must be a compressor. Received: values='linear'"):
        TopK(0.1, "linear")
