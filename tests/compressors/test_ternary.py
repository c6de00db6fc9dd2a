"""Three levels: nearest against numpy, stochastic against its moments."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import Ternary, TernGrad, ternary
from dqgan_tf.errors import UsageError
from tests.contracts.compressor_contract import encode, round_trip
from tests.oracles import compressors_numpy as oracle


@pytest.mark.parametrize("n", [1, 33, 1100, 2560, 2561])
@pytest.mark.parametrize("name", ["gaussian", "student_t3", "zeros_90"])
def test_equals_the_oracle(n, name):
    x = oracle.distributions(n)[name]
    np.testing.assert_array_equal(round_trip(Ternary(), x), oracle.ternary(x, 512))


def test_by_hand():
    x = np.array([-4, 2, 2.001, -2, -2.001, 0, 1, 3], np.float32)  # s = 4, and a tie at s / 2 is 0
    np.testing.assert_array_equal(round_trip(Ternary(), x), [-4, 0, 4, 0, -4, 0, 0, 4])


@pytest.mark.parametrize("n, size", [(2560, 512 + 20), (6_342_272, 2478 * (512 + 20)), (33, 4 * 4 + 4)])
def test_bytes(n, size):
    """A fifth of a byte a value and 4 bytes a bucket; 6,342,272 values are 2,478 groups of five buckets."""
    assert Ternary().wire_bytes(n) == TernGrad().wire_bytes(n) == size


def test_several_buckets_share_words_in_order():
    x = np.concatenate([np.full(512, k + 1, np.float32) for k in range(7)])
    payload = encode(Ternary(), x)
    assert payload.scales.numpy().tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    np.testing.assert_array_equal(round_trip(Ternary(), x), x)


@pytest.mark.parametrize("d", [2, 100, 512])
def test_bound_is_tight(d):
    """All others just below half the maximum: within 1 % of 1 - delta."""
    x = np.full(d, 0.4995, np.float32)
    x[0] = 1.0
    lost, bound = oracle.relative_error(x, round_trip(Ternary(), x)), 1.0 - Ternary().delta(d)
    assert 0.99 * bound - 2e-6 <= lost <= bound


@pytest.mark.parametrize("d", [1, 2, 5, 8])
def test_stochastic_delta_is_the_worst_fraction(d):
    f = np.linspace(0, 1, 1_000_001)
    worst = np.max((d - 1) * f * (1 - f) / (1 + (d - 1) * f**2))
    assert TernGrad().delta(d) == pytest.approx(1 - worst, abs=2e-6)


def test_stochastic_proves_nothing_from_nine_values_on():
    assert TernGrad().delta(8) > 0.0 and TernGrad().delta(9) == 0.0


def test_stochastic_is_unbiased():
    """Mean of 4,000 decodes; a value deviates by at most s / 2 rms, so 5 sigma is 2.5 s / sqrt(4000)."""
    x = np.tile(oracle.distributions(32)["gaussian"], 4000)
    decoded = round_trip(TernGrad(bucket=32), x).astype(np.float64)
    scale = np.abs(x).max()
    assert set(np.unique(decoded)) == {-scale, 0.0, scale}
    np.testing.assert_allclose(decoded.reshape(4000, 32).mean(axis=0), x[:32], atol=2.5 * scale / np.sqrt(4000))


@pytest.mark.parametrize("cls", [Ternary, TernGrad])
@pytest.mark.parametrize("bucket", [0, -32, 33, 2.0])
def test_refuses(cls, bucket):
    with pytest.raises(UsageError, match=f"Received: bucket={bucket}"):
        cls(bucket=bucket)


# Base-three words, against long division and as a bijection at their ends.


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("width", [1, 20, 32, 96, 2560])
def test_unpack_digits_inverts_pack_digits(width, jit):
    digits = np.random.default_rng(width).integers(0, 3, (40, width), dtype=np.int32)
    digits[0], digits[1], digits[2, ::2] = 0, 2, 2
    words = tf.function(ternary.pack_digits, jit_compile=jit, autograph=False)(digits)
    assert words.shape == (40, -(-width // 20)) and words.dtype == tf.int32
    unpacked = tf.function(lambda w: ternary.unpack_digits(w, width), jit_compile=jit, autograph=False)(words)
    np.testing.assert_array_equal(unpacked, digits)


def test_digits_are_those_of_the_fraction():
    digits = np.random.default_rng(0).integers(0, 3, (3, 40), dtype=np.int32)
    words = ternary.pack_digits(digits).numpy().view(np.uint32)
    for row in range(3):
        for w in range(2):  # word w holds the digits w, w + 2, ..., w + 38
            assert oracle.base_three_digits(int(words[row, w])) == digits[row, w::2].tolist()


def test_words_by_hand():
    """Zeros are V = 0, word 1; a 1 in front is V = 3^19, floor(2^32 / 3) + 1, and the slack of .2 may add one."""
    first = np.zeros((2, 20), np.int32)
    first[1, 0] = 1
    words = ternary.pack_digits(first).numpy()[:, 0]
    assert words[0] == 1 and words[1] - (2**32 // 3 + 1) in (0, 1)


def test_every_word_lies_in_its_interval():
    """V 2^32 <= 3^20 word < (V + 1) 2^32, exactly, at the largest V and at 2,000 drawn ones."""
    digits = np.random.default_rng(1).integers(0, 3, (2000, 20), dtype=np.int32)
    digits[0] = 2
    for row, word in zip(
        digits.tolist(), ternary.pack_digits(digits).numpy().view(np.uint32)[:, 0].tolist(), strict=True
    ):
        value = sum(digit * 3 ** (19 - i) for i, digit in enumerate(row))
        assert value * 2**32 <= 3**20 * word < (value + 1) * 2**32
