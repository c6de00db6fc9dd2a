"""Base-three words by hand, against long division, and as a bijection at its ends."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import base_three
from tests.oracles import compressors_numpy as oracle


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("width", [1, 20, 32, 96, 2560])
def test_unpack_inverts_pack(width, jit):
    digits = np.random.default_rng(width).integers(0, 3, (40, width), dtype=np.int32)
    digits[0], digits[1], digits[2, ::2] = 0, 2, 2
    words = tf.function(base_three.pack, jit_compile=jit)(digits)
    assert words.shape == (40, -(-width // 20)) and words.dtype == tf.int32
    unpacked = tf.function(lambda w: base_three.unpack(w, width), jit_compile=jit)(words)
    np.testing.assert_array_equal(unpacked, digits)


def test_digits_are_those_of_the_fraction():
    digits = np.random.default_rng(0).integers(0, 3, (3, 40), dtype=np.int32)
    words = base_three.pack(digits).numpy().view(np.uint32)
    for row in range(3):
        for w in range(2):  # word w holds the digits w, w + 2, ..., w + 38
            assert oracle.base_three_digits(int(words[row, w])) == digits[row, w::2].tolist()


def test_by_hand():
    """Zeros are V = 0, word 1; a 1 in front is V = 3^19, floor(2^32 / 3) + 1, and the slack of .2 may add one."""
    first = np.zeros((2, 20), np.int32)
    first[1, 0] = 1
    words = base_three.pack(first).numpy()[:, 0]
    assert words[0] == 1 and words[1] - (2**32 // 3 + 1) in (0, 1)


def test_every_word_lies_in_its_interval():
    """V 2^32 <= 3^20 word < (V + 1) 2^32, exactly, at the largest V and at 2,000 drawn ones."""
    digits = np.random.default_rng(1).integers(0, 3, (2000, 20), dtype=np.int32)
    digits[0] = 2
    for row, word in zip(digits.tolist(), base_three.pack(digits).numpy().view(np.uint32)[:, 0].tolist(), strict=True):
        value = sum(digit * 3 ** (19 - i) for i, digit in enumerate(row))
        assert value * 2**32 <= 3**20 * word < (value + 1) * 2**32
