"""The largest values against a full sort."""

import numpy as np
import pytest

from dqgan_tf.compressors import TopK
from tests.contracts.compressor_contract import encode, round_trip
from tests.oracles import compressors_numpy as oracle


@pytest.mark.parametrize("fraction, n, k", [(0.01, 1, 1), (0.01, 150, 2), (0.1, 1100, 110), (1.0, 33, 33)])
def test_equals_the_oracle(fraction, n, k):
    x = oracle.distributions(n)["student_t3"]
    assert TopK(fraction).k(n) == k
    np.testing.assert_array_equal(round_trip(TopK(fraction), x), oracle.topk(x, k))


def test_indices_are_distinct_even_among_equals():
    payload = encode(TopK(0.5), np.ones(100, np.float32))
    assert len(set(payload.indices.numpy().tolist())) == 50


def test_nan_and_inf_come_before_everything():
    x = np.linspace(1e30, 3e38, 1000, dtype=np.float32)
    x[[4, 500]] = np.nan, -np.inf
    values = encode(TopK(0.002), x).values.numpy()
    assert np.isnan(values).sum() == 1 and (values == -np.inf).sum() == 1


def test_delta_is_the_share_and_tight():
    x = np.ones(200, np.float32)
    assert TopK(0.1).delta(200) == pytest.approx(0.1, abs=2e-6)
    assert oracle.relative_error(x, round_trip(TopK(0.1), x)) == pytest.approx(0.9)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan"), True, "0.1"])
def test_refuses(fraction):
    with pytest.raises(ValueError, match=r"`fraction` must be in \(0, 1\]. Received: fraction="):
        TopK(fraction)
