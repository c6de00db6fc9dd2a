"""Compressors: flat float32 vector <-> payload of 32-bit tensors. Pure functions of (vector, seed)."""

from dqgan_tf.compressors.base import Compressor
from dqgan_tf.compressors.identity import Identity
from dqgan_tf.compressors.linear import Linear
from dqgan_tf.compressors.registry import available, get
from dqgan_tf.compressors.sign import Sign
from dqgan_tf.compressors.topk import TopK

__all__ = ["Compressor", "Identity", "Linear", "Sign", "TopK", "available", "get"]
