"""Payloads as flat words."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.compressors import base
from tests.contracts.compressor_contract import bits, encode


class Pair(NamedTuple):
    codes: tf.Tensor
    scales: tf.Tensor


SPEC = Pair(tf.TensorSpec([2, 2], tf.int32), tf.TensorSpec([3], tf.float32))


def test_order_and_bits_by_hand():
    nan = np.uint32(0x7FC12345).view(np.float32)
    payload = Pair(tf.constant([[1, -1], [0x7F800001, 4]]), tf.constant([1.0, -0.0, nan]))
    words = base.to_wire(payload)
    assert words.dtype == tf.float32
    expected = [1, 0xFFFFFFFF, 0x7F800001, 4, 0x3F800000, 0x80000000, 0x7FC12345]
    assert words.numpy().view(np.uint32).tolist() == expected
    returned = base.from_wire(words, SPEC)
    assert returned.codes.numpy().tolist() == [[1, -1], [0x7F800001, 4]]


def test_words_are_counted():
    assert base.wire_words(SPEC) == 7


def test_refuses_another_size():
    with pytest.raises(ValueError, match=r"`words` must be float32 \[7\]. Received: shape=\(8,\)"):
        base.from_wire(tf.zeros([8]), SPEC)


# The mean of payloads is the mean of their decodes, bit for bit.


N = 3100
DENSE = ["linear:bits=3,bucket=64", "sign:bucket=64", "ternary:bucket=64", "natural:bits=8,bucket=64", "bf16"]
SPARSE = ["topk:fraction=0.2", "topk:fraction=0.2+linear:bits=8,bucket=64", "randomk:fraction=0.3"]
SPARSE += ["blocktopk:fraction=0.1,block=64+sign:bucket=32"]


def payloads(compressor, workers, n=N):
    rng = np.random.default_rng(workers)
    vectors = [rng.standard_normal(n).astype(np.float32) * 10.0**m for m in range(workers)]
    return [encode(compressor, x, seed=(m, 9), mode="eager") for m, x in enumerate(vectors)]


def mean(compressor, parts, n=N):
    function = tf.function(lambda *p: compressor.mean_of_payloads(p, n), jit_compile=True, autograph=False)
    return function(*parts).numpy()


def dense_mean(compressor, parts, n=N):
    """numpy float32: 0 + decode_0 + decode_1 + ..., then times 1 / M."""
    total = np.zeros(n, np.float32)
    for part in parts:
        total += compressor.decode(part, n).numpy()
    return total * np.float32(1.0 / len(parts))


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("spec", DENSE)
def test_dense(spec, workers):
    """Decodes of quantizers hold no -0 beside sign and natural, whose sums of zeros none of these seeds has."""
    compressor = compressors.get(spec)
    parts = payloads(compressor, workers)
    np.testing.assert_array_equal(bits(mean(compressor, parts) + 0.0), bits(dense_mean(compressor, parts) + 0.0))


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("spec", SPARSE)
def test_sparse(spec, workers):
    compressor = compressors.get(spec)
    parts = payloads(compressor, workers)
    result = mean(compressor, parts)
    assert np.count_nonzero(result) < N
    np.testing.assert_array_equal(bits(result), bits(dense_mean(compressor, parts)))


def test_the_order_given_is_the_order_of_addition():
    """1e8 + 1 - 1e8 in float32 is 0, 1e8 - 1e8 + 1 is 1: exact values of an identity."""
    compressor = compressors.get("none")
    big, unit = tf.constant([1e8]), tf.constant([1.0])
    for terms, total in (([big, unit, -big], 0.0), ([big, -big, unit], 1.0)):
        parts = [compressor.encode(term, None) for term in terms]
        assert mean(compressor, parts, 1).tolist() == [np.float32(total) * np.float32(1 / 3)]


@pytest.mark.parametrize("n", [1, 40, 64, 127, 128, 129])
def test_short_vectors(n):
    compressor = compressors.get("linear:bits=4,bucket=32")
    parts = payloads(compressor, 2, n)
    np.testing.assert_array_equal(mean(compressor, parts, n), dense_mean(compressor, parts, n))
