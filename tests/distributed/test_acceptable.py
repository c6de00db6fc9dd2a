"""Oracle test: every compressor, composed ones too, lets a finite update pass and refuses one with NaN or infinity."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import compressors
from dqgan_tf.compressors.float_bits import are_bounded

SPECS = [
    "none",
    "fp16",
    "bf16",
    "linear:bits=4,bucket=32",
    "ternary:bucket=32",
    "sign:bucket=32",
    "natural",
    "topk:fraction=0.05",
    "topk:fraction=0.05+linear:bits=8,bucket=32",
    "topk:fraction=0.05+sign:bucket=32",
    "topk:fraction=0.05+bf16",
    "blocktopk:fraction=0.05+linear:bits=4,bucket=32",
    "randomk:fraction=0.05+linear:bits=4,bucket=32",
    "adaptive:bits=3,bucket=32",
]
N = 300


@functools.cache
def decider(spec):
    compressor = compressors.get(spec)
    return tf.function(lambda x, seed: are_bounded(compressor.scales(compressor.encode(x, seed), N)), autograph=False)


def is_acceptable(spec, vector):
    return bool(decider(spec)(tf.constant(vector), tf.constant([3, 5])))


@pytest.mark.parametrize("spec", SPECS)
def test_finite_updates_pass_and_others_do_not(spec):
    vector = np.random.RandomState(0).standard_normal(N).astype(np.float32)
    for scale in (1e-6, 1.0, 1e4):
        assert is_acceptable(spec, scale * vector), scale
    for position in (0, 131, N - 1):
        for value in (np.nan, np.inf, -np.inf):
            poisoned = vector.copy()
            poisoned[position] = value
            assert not is_acceptable(spec, poisoned), (position, value)
