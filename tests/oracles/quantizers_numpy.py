"""The compressors of `compressors_numpy` as maps x -> decode(encode(x)) for the simulator; float64 in and out."""

import numpy as np

from tests.oracles import compressors_numpy


def identity(x):
    """Q(x) = x, nothing lost."""
    return np.array(x, np.float64)


def linear(bits, bucket=512):
    """Nearest of 2L+1 levels between -max|x| and max|x| of a bucket, L = 2^(bits-1) - 1; bits=2 is ternary."""
    return _on_float32(lambda x: compressors_numpy.linear_nearest(x, bits, bucket)[0])


def sign(bucket=512):
    """sign(x) mean|x| of a bucket, sign(0) = +1."""
    return _on_float32(lambda x: compressors_numpy.sign(x, bucket))


def top_k(k):
    """The k entries of largest magnitude, the first of equals; the rest 0."""
    return _on_float32(lambda x: compressors_numpy.topk(x, k))


def for_all_players(quantize):
    """Q(x, player) that treats every player alike."""
    return lambda x, player: quantize(x)


def _on_float32(quantize):
    # What travels was rounded to float32 before; the rounding stays in the residual, so nothing is lost.
    return lambda x: np.asarray(quantize(np.asarray(x, np.float32)), np.float64)
