"""The largest of every block against a full sort of it."""

import numpy as np
import pytest

from dqgan_tf.compressors import BlockTopK
from dqgan_tf.errors import UsageError
from tests.contracts.compressor_contract import encode, round_trip
from tests.oracles import compressors_numpy as oracle


@pytest.mark.parametrize("fraction, block, m", [(0.01, 256, 3), (0.1, 64, 7), (1.0, 32, 32)])
@pytest.mark.parametrize("n", [1, 33, 256, 1100])
def test_equals_the_oracle(n, fraction, block, m):
    x = oracle.distributions(n)["student_t3"]
    assert BlockTopK(fraction, block).values_per_block == m
    mode = "xla" if n == 1100 else "eager"  # the contract has short vectors in XLA
    np.testing.assert_array_equal(round_trip(BlockTopK(fraction, block), x, mode=mode), oracle.block_topk(x, block, m))


def test_indices_by_hand():
    """Largest first, a byte each: lane 5, then 255, then the first of the rest."""
    x = np.ones(256, np.float32)
    x[5], x[255] = -3.0, 2.0
    payload = encode(BlockTopK(0.01, 256), x)
    assert payload.indices.numpy().tolist() == [[5 | 255 << 8]] and payload.values.numpy().tolist() == [-3.0, 2.0, 1.0]


def test_nearly_equal_values_lose_no_more_than_the_bound():
    """All within 2^-15 of each other: any choice is right, and the energy left out is what delta allows."""
    x = (1 + np.arange(256)[::-1] * 2.0**-23).astype(np.float32)
    lost = oracle.relative_error(x, round_trip(BlockTopK(0.01, 256), x))
    assert lost <= 1 - BlockTopK(0.01, 256).delta(256)


def test_nan_and_inf_come_first():
    x = np.linspace(1e30, 3e38, 256, dtype=np.float32)
    x[[4, 100]] = np.nan, -np.inf
    values = encode(BlockTopK(0.01, 256), x).values.numpy()
    assert np.isnan(values[0]) and values[1] == -np.inf


def test_delta_and_bytes():
    assert BlockTopK(0.01, 256).delta(10**6) == pytest.approx(3 / 256 * (1 - 2**-14), abs=2e-6)
    assert BlockTopK(0.01, 256).delta(3) == pytest.approx(1.0, abs=2e-6)
    assert BlockTopK(0.01, 256).wire_bytes(6_342_272) == 24_775 * (4 + 12)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"block": 512}, "`block` must be a multiple of 32 up to 256. Received: block=512"),
        ({"block": 100}, "Received: block=100"),
        ({"fraction": 0.5}, "`fraction` times `block` must be at most 32, .* Received: fraction=0.5, block=256"),
        ({"fraction": 0}, "`fraction` must be in"),
    ],
)
def test_refuses(parameters, message):
    with pytest.raises(UsageError, match=message):
        BlockTopK(**parameters)
