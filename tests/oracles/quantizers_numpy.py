"""Compressors as maps x -> decode(encode(x)), float32 arithmetic, float64 in and out; for the simulator only."""

import numpy as np


def identity(x):
    """Q(x) = x, nothing lost."""
    return np.array(x, np.float64)


def linear(bits, bucket=512):
    """Nearest of 2L+1 levels in [-max|x|, max|x|] of a bucket, L = 2^(bits-1) - 1; bits=2 is ternary."""
    levels = np.float32(2 ** (bits - 1) - 1)

    def quantize(values):
        step = np.max(np.abs(values)) / levels
        return np.rint(values / step) * step if step > 0 else np.zeros_like(values)

    return lambda x: _per_bucket(quantize, x, bucket)


def sign(bucket=512):
    """sign(x) * mean|x| of a bucket, sign(0) = +1."""

    def quantize(values):
        return np.where(values < 0, np.float32(-1), np.float32(1)) * np.mean(np.abs(values), dtype=np.float32)

    return lambda x: _per_bucket(quantize, x, bucket)


def top_k(k):
    """The k entries of largest magnitude, the first of equals; the rest 0."""

    def quantize(x):
        kept = np.argsort(-np.abs(x), kind="stable")[:k]
        out = np.zeros_like(x, dtype=np.float64)
        out[kept] = np.asarray(x, np.float32)[kept]
        return out

    return quantize


def for_all_players(quantize):
    """Q(x, player) that treats every player alike."""
    return lambda x, player: quantize(x)


def _per_bucket(quantize, x, bucket):
    values = np.asarray(x, np.float32)
    parts = [quantize(values[start : start + bucket]) for start in range(0, len(values), bucket)]
    return np.concatenate(parts).astype(np.float64)
