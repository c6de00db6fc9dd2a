"""The codec's benchmark: what it times is the codec, and its table holds what was measured."""

import numpy as np
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.benchmarking import codec


def test_times_the_codec():
    compressor, n = compressors.get("linear:bits=8,bucket=64"), 200
    encode, decode = codec.codec(compressor, n)
    update = tf.linspace(-1.0, 1.0, n)
    encoded = encode(update, tf.zeros(n), tf.constant([0, 0]))
    np.testing.assert_array_equal(decode(encoded.payload, encoded.payload) + encoded.residual, update)


def test_measures_every_compressor():
    entries = codec.measure(["sign:bucket=64", "none"], 1000, 2)
    assert [entry["compressor"] for entry in entries] == ["sign:bucket=64", "none"]
    assert all(entry[f"{kind}_milliseconds"] > 0.0 for entry in entries for kind in ("encode", "decode", "copy"))
    assert {entry["values"] for entry in entries} == {1000}


def test_table():
    entry = {"compressor": "sign", "encode_milliseconds": 20.0, "decode_milliseconds": 4.0, "copy_milliseconds": 8.0}
    assert codec.table([entry]).splitlines()[-1] == "| sign | 20.0 | 40% | 4.0 | 200% |"
