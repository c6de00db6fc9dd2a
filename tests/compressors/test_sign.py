"""One bit a value against the numpy oracle."""

import numpy as np
import pytest

from dqgan_tf.compressors import Sign
from dqgan_tf.errors import UsageError
from tests.contracts.compressor_contract import encode, round_trip
from tests.oracles import compressors_numpy as oracle


@pytest.mark.parametrize("n", [1, 33, 512, 1100])
@pytest.mark.parametrize("name", ["gaussian", "laplace", "student_t3", "zeros_90"])
def test_equals_the_oracle(n, name):
    x = oracle.distributions(n)[name]
    # 512 float32 additions in two stages of at most 16: relative error below 32 * 2^-24 = 2e-6.
    np.testing.assert_allclose(round_trip(Sign(), x), oracle.sign(x, 512), rtol=2e-6)


def test_partial_bucket_divides_by_its_real_count():
    x = np.full(512 + 3, 2.0, np.float32)
    np.testing.assert_array_equal(encode(Sign(), x).scales, [2.0, 2.0])


def test_bit_order_by_hand():
    x = np.ones(32, np.float32)
    x[[0, 5, 31]] = -1.0
    assert encode(Sign(), x).words1.numpy().view(np.uint32).tolist() == [[(1 << 0) | (1 << 5) | (1 << 31)]]


def test_delta_is_one_over_d_and_tight():
    """All but one value zero: ||x||_1^2 / d = ||x||^2 / d exactly."""
    x = np.zeros(512, np.float32)
    x[7] = -3.0
    assert Sign().delta(512) == pytest.approx(1 / 512, abs=2e-6)
    assert oracle.relative_error(x, round_trip(Sign(), x)) == pytest.approx(1 - 1 / 512, rel=1e-6)


@pytest.mark.parametrize("bucket", [0, -512, 33, 2.0, True])
def test_refuses(bucket):
    with pytest.raises(UsageError, match=f"Received: bucket={bucket}"):
        Sign(bucket=bucket)
