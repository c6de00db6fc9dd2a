"""Twenty digits 0, 1, 2 to a word: 1.6 bits a digit, where the entropy of uniform digits is 1.585.

A row of digits is 20 planes of W words' width; word w holds the digits w, w + W, ..., w + 19 W as a fraction of 2^32:

    V = sum_i digit[w + i W] 3^(19 - i) < 3^20,      V s <= word < (V + 1) s,    s = 2^32 / 3^20 = 1.2318,

so that digit i is floor(3 frac(3^i word / 2^32)): one wrapping product and two comparisons, no division and no carry
from one digit to the next.
"""

import numpy as np
import tensorflow as tf

DIGITS = 20
_POWERS = np.array([3**i for i in range(DIGITS)], np.uint32)
_THIRDS = (-(-(2**32) // 3), -(-(2**33) // 3))
_SHIFT = 34
_SCALE = -(-(2**32 - 3**DIGITS) * 2**_SHIFT // 3**DIGITS)
"""ceil((s - 1) 2^34): V + floor(V SCALE / 2^34) + 1 is in (V s, V s + 1 + 3^20 / 2^34] and 1.203 < s."""


def words_per_row(width: int) -> int:
    """Returns the words of one row of `width` digits: ceil(width / 20)."""
    return -(-width // DIGITS)


def pack(digits: tf.Tensor) -> tf.Tensor:
    """Returns int32 [rows, ceil(width / 20)] words of int32 [rows, width] digits in {0, 1, 2}."""
    rows, width = digits.shape
    count = words_per_row(width)
    if count * DIGITS > width:
        digits = tf.pad(digits, [[0, 0], [0, count * DIGITS - width]])
    planes = tf.bitcast(tf.reshape(digits, [rows, DIGITS, count]), tf.uint32)
    values = tf.cast(tf.reduce_sum(planes * _weights(_POWERS[::-1]), axis=1), tf.uint64)
    scale, shift, one = (tf.constant(value, tf.uint64) for value in (_SCALE, _SHIFT, 1))
    scaled = values + tf.bitwise.right_shift(values * scale, shift) + one
    return tf.bitcast(tf.cast(scaled, tf.uint32), tf.int32)


def unpack(words: tf.Tensor, width: int) -> tf.Tensor:
    """Inverse of `pack`: returns int32 [rows, width] digits."""
    rows, count = words.shape
    fractions = tf.bitcast(words, tf.uint32)[:, None, :] * _weights(_POWERS)
    digits = sum(tf.cast(fractions >= tf.constant(third, tf.uint32), tf.int32) for third in _THIRDS)
    return tf.reshape(digits, [rows, DIGITS * count])[:, :width]


def _weights(powers):
    return tf.constant(powers.reshape(1, DIGITS, 1), tf.uint32)
