"""Unsigned codes of 1 to 8 or 16 bits packed into int32 words, in planes.

A row of `bucket` codes of b bits, b a power of two, is W = bucket * b / 32 words. Word w holds the codes
w, w + W, w + 2 W, ... at the bits 0, b, 2 b, ...:

    word[w] = sum_j code[w + j W] * 2^(b j),    j = 0 .. 32/b - 1

so both directions work on contiguous slices, never on neighbours. Widths that are no power of two are several
planes, one after the other, widest first with the lowest bits: 3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, 7 = 4 + 2 + 1.
"""

from collections.abc import Sequence

import tensorflow as tf

LANE = 32
"""A row is a multiple of so many codes, so that codes of any width fill whole words."""

SUPPORTED_BITS = (1, 2, 3, 4, 5, 6, 7, 8, 16)


def planes(bits: int) -> tuple[int, ...]:
    """Returns the power-of-two widths whose sum is `bits`, widest first."""
    if bits not in SUPPORTED_BITS:
        raise ValueError(f"`bits` must be 1 to 8 or 16. Received: bits={bits}")
    return tuple(1 << k for k in reversed(range(5)) if bits >> k & 1)


def words_per_row(bits: int, bucket: int) -> int:
    """Returns bucket * bits / 32, the int32 words of one row."""
    return bucket * bits // 32


def pack(codes: tf.Tensor, bits: int) -> tf.Tensor:
    """Returns int32 [rows, bucket * bits / 32] words.

    Args:
      codes: int32 [rows, bucket] in [0, 2^bits), bucket a multiple of 32; higher bits are ignored.
      bits: 1 to 8 or 16.

    Raises:
      ValueError: another number of bits.
    """
    packed = pack_planes(codes, bits)
    return packed[0] if len(packed) == 1 else tf.concat(packed, axis=1)


def pack_planes(codes: tf.Tensor, bits: int) -> list[tf.Tensor]:
    """Returns the planes of `pack` apart: XLA's code for a loop over words of several planes is five times slower."""
    packed, low = [], 0
    for width in planes(bits):
        packed.append(_pack_plane(_shift_right(codes, low), width))
        low += width
    return packed


def unpack(words: tf.Tensor, bits: int) -> tf.Tensor:
    """Inverse of `pack`: returns int32 [rows, bucket] codes."""
    bucket = words.shape[1] * 32 // bits
    return unpack_planes(tf.split(words, [words_per_row(width, bucket) for width in planes(bits)], axis=1), bits)


def unpack_planes(packed: Sequence[tf.Tensor], bits: int) -> tf.Tensor:
    """Inverse of `pack_planes`: returns int32 [rows, bucket] codes."""
    codes, low = 0, 0
    for words, width in zip(packed, planes(bits), strict=True):
        codes = tf.bitwise.bitwise_or(codes, tf.bitwise.left_shift(_unpack_plane(words, width), low))
        low += width
    return codes


def _pack_plane(codes, width):
    rows, bucket = codes.shape
    per_word = 32 // width
    columns = tf.reshape(codes, [rows, per_word, bucket // per_word])
    return tf.reduce_sum(tf.bitwise.left_shift(_mask(columns, width), _shifts(width)), axis=1)


def _unpack_plane(words, width):
    rows, count = words.shape
    columns = tf.bitwise.right_shift(words[:, None, :], _shifts(width))
    return tf.reshape(_mask(columns, width), [rows, count * 32 // width])


def _shifts(width):
    return tf.reshape(tf.range(0, 32, width, dtype=tf.int32), [1, 32 // width, 1])


def _mask(codes, width):
    return tf.bitwise.bitwise_and(codes, (1 << width) - 1)


def _shift_right(codes, count):
    return tf.bitwise.right_shift(codes, count) if count else codes
