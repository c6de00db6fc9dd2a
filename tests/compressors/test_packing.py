"""Codes in words, by hand on tiny integers and as a bijection."""

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import packing


def pack(codes, bits):
    return packing.pack(tf.constant(codes, tf.int32), bits).numpy().view(np.uint32)


def test_four_bits_by_hand():
    # W = 32 * 4 / 32 = 4 words; word w holds the codes w, w + 4, ..., w + 28 from the lowest bits up.
    codes = np.arange(32)[None] % 16
    expected = [sum(int(codes[0, w + 4 * j]) << (4 * j) for j in range(8)) for w in range(4)]
    assert pack(codes, 4).tolist() == [expected]
    assert expected[0] == 0xC840C840


def test_one_bit_by_hand():
    codes = np.zeros((2, 64), np.int32)
    codes[0, [0, 2, 63]] = 1  # W = 2: code 0 -> word 0 bit 0, code 2 -> word 0 bit 1, code 63 -> word 1 bit 31
    assert pack(codes, 1).tolist() == [[0b11, 1 << 31], [0, 0]]


def test_three_bits_are_two_planes_by_hand():
    codes = np.full((1, 32), 0b110)
    assert pack(codes, 3).tolist() == [[0xAAAAAAAA, 0xAAAAAAAA, 0xFFFFFFFF]]


def test_planes_apart_are_those_of_the_words():
    codes = tf.constant(np.random.default_rng(0).integers(0, 128, (3, 96), dtype=np.int32))
    planes = packing.pack_planes(codes, 7)
    assert [plane.shape[1] for plane in planes] == [12, 6, 3]
    np.testing.assert_array_equal(tf.concat(planes, 1), packing.pack(codes, 7))
    np.testing.assert_array_equal(packing.unpack_planes(planes, 7), codes)


def test_sixteen_bits_by_hand():
    codes = np.zeros((1, 32), np.int32)
    codes[0, 0], codes[0, 16] = 0x1234, 0xFFFF
    assert pack(codes, 16)[0, 0] == 0xFFFF1234


@pytest.mark.parametrize(
    "bits, widths",
    [(1, (1,)), (2, (2,)), (3, (2, 1)), (4, (4,)), (5, (4, 1)), (6, (4, 2)), (7, (4, 2, 1)), (8, (8,)), (16, (16,))],
)
def test_planes(bits, widths):
    assert packing.planes(bits) == widths


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("bits", packing.SUPPORTED_BITS)
def test_unpack_inverts_pack(bits, jit):
    codes = np.random.default_rng(bits).integers(0, 2**bits, (3, 96), dtype=np.int32)
    codes[0], codes[1, ::2] = 2**bits - 1, 0
    words = tf.function(lambda c: packing.pack(c, bits), jit_compile=jit, autograph=False)(codes)
    assert words.shape == (3, 96 * bits // 32) and words.dtype == tf.int32
    unpacked = tf.function(lambda w: packing.unpack(w, bits), jit_compile=jit, autograph=False)(words)
    np.testing.assert_array_equal(unpacked, codes)


@pytest.mark.parametrize("bits", [0, 9, 15, 32])
def test_refuses(bits):
    with pytest.raises(ValueError, match=f"`bits` must be 1 to 8 or 16. Received: bits={bits}"):
        packing.planes(bits)
