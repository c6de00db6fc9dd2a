"""Compressors: flat float32 vector <-> payload of 32-bit tensors. Pure functions of (vector, seed).

PowerSGD is beside them: a compression of matrices between two all-reduces.
"""

from dqgan_tf.compressors.adaptive import Adaptive
from dqgan_tf.compressors.base import Compressor
from dqgan_tf.compressors.blocktopk import BlockTopK
from dqgan_tf.compressors.casts import BFloat16, Float16
from dqgan_tf.compressors.compression import Compression
from dqgan_tf.compressors.identity import Identity
from dqgan_tf.compressors.linear import Linear
from dqgan_tf.compressors.natural import NUQSGD, Natural
from dqgan_tf.compressors.powersgd import PowerSGD
from dqgan_tf.compressors.qsgd import QSGD
from dqgan_tf.compressors.randomk import RandomK
from dqgan_tf.compressors.registry import available, get
from dqgan_tf.compressors.sign import Sign
from dqgan_tf.compressors.ternary import Ternary, TernGrad
from dqgan_tf.compressors.topk import TopK

__all__ = [
    "Adaptive",
    "BFloat16",
    "BlockTopK",
    "Compression",
    "Compressor",
    "Float16",
    "Identity",
    "Linear",
    "NUQSGD",
    "Natural",
    "PowerSGD",
    "QSGD",
    "RandomK",
    "Sign",
    "TernGrad",
    "Ternary",
    "TopK",
    "available",
    "get",
]
