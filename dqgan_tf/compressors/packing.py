"""Unsigned codes of 1 to 8 or 16 bits packed into int32 words, in planes.

A row of `width` codes of b bits, b a power of two, is W = width b / 32 words. Word w holds the codes
w, w + W, w + 2 W, ... at the bits 0, b, 2 b, ...:

    word[w] = sum_j code[w + j W] 2^(b j),    j = 0 .. 32/b - 1

So packing and unpacking read and write contiguous slices, which compilers vectorise. If the number of bits is not a
power of two, there are several planes; the widest is first and has the lowest bits: 3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2,
7 = 4 + 2 + 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from dqgan_tf.lazy_tensorflow import tf

LANE = 32
"""The width of a row is a multiple of this: codes of any number of bits then fill whole words."""

SUPPORTED_BITS = (1, 2, 3, 4, 5, 6, 7, 8, 16)


def planes(bits: int) -> tuple[int, ...]:
    """Returns the powers of two whose sum is `bits`, 1 to 8 or 16, the largest first."""
    if bits not in SUPPORTED_BITS:
        raise ValueError(f"`bits` must be 1 to 8 or 16. Received: bits={bits}")
    return tuple(1 << k for k in reversed(range(5)) if bits >> k & 1)


def words_per_row(bits: int, width: int) -> int:
    """Returns the int32 words of one row of `width` codes."""
    return width * bits // 32


def pack(codes: tf.Tensor, bits: int) -> tf.Tensor:
    """Returns int32 [rows, width * bits / 32] words, plane after plane; arguments as of `pack_planes`."""
    packed = pack_planes(codes, bits)
    return packed[0] if len(packed) == 1 else tf.concat(packed, axis=1)


def pack_planes(codes: tf.Tensor, bits: int) -> list[tf.Tensor]:
    """Returns the planes, one int32 tensor each. XLA would write them into one tensor five times slower.

    Args:
      codes: int32 [rows, width], width a multiple of 32; only the lowest `bits` bits are used.
      bits: 1 to 8 or 16.
    """
    rows, width = codes.shape
    packed, low = [], 0
    for b in planes(bits):
        per_word = 32 // b
        shifted = tf.bitwise.right_shift(codes, low) if low else codes
        columns = tf.reshape(shifted, [rows, per_word, width // per_word])
        packed.append(tf.reduce_sum(tf.bitwise.left_shift(_lowest_bits(columns, b), _shifts(b)), axis=1))
        low += b
    return packed


def unpack(words: tf.Tensor, bits: int) -> tf.Tensor:
    """Returns int32 [rows, width] codes: undoes `pack`."""
    width = words.shape[1] * 32 // bits
    return unpack_planes(tf.split(words, [words_per_row(b, width) for b in planes(bits)], axis=1), bits)


def unpack_planes(packed: Sequence[tf.Tensor], bits: int) -> tf.Tensor:
    """Returns int32 [rows, width] codes: undoes `pack_planes`."""
    codes, low = 0, 0
    for words, b in zip(packed, planes(bits), strict=True):
        rows, count = words.shape
        columns = _lowest_bits(tf.bitwise.right_shift(words[:, None, :], _shifts(b)), b)
        plane = tf.reshape(columns, [rows, count * 32 // b])
        codes = tf.bitwise.bitwise_or(codes, tf.bitwise.left_shift(plane, low))
        low += b
    return codes


def _shifts(b):
    """Returns int32 [1, 32 / b, 1]: 0, b, 2 b, ..."""
    return tf.reshape(tf.range(0, 32, b, dtype=tf.int32), [1, 32 // b, 1])


def _lowest_bits(codes, b):
    return tf.bitwise.bitwise_and(codes, (1 << b) - 1)
