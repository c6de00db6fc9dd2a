"""Payloads as flat words."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.compressors import wire


class Pair(NamedTuple):
    codes: tf.Tensor
    scales: tf.Tensor


SPEC = Pair(tf.TensorSpec([2, 2], tf.int32), tf.TensorSpec([3], tf.float32))


def test_order_and_bits_by_hand():
    nan = np.uint32(0x7FC12345).view(np.float32)
    payload = Pair(tf.constant([[1, -1], [0x7F800001, 4]]), tf.constant([1.0, -0.0, nan]))
    words = wire.to_wire(payload)
    assert words.dtype == tf.float32
    expected = [1, 0xFFFFFFFF, 0x7F800001, 4, 0x3F800000, 0x80000000, 0x7FC12345]
    assert words.numpy().view(np.uint32).tolist() == expected
    returned = wire.from_wire(words, SPEC)
    assert returned.codes.numpy().tolist() == [[1, -1], [0x7F800001, 4]]


def test_words_are_counted():
    assert wire.wire_words(SPEC) == 7


def test_refuses_another_size():
    with pytest.raises(ValueError, match=r"`words` must be float32 \[7\]. Received: shape=\(8,\)"):
        wire.from_wire(tf.zeros([8]), SPEC)
