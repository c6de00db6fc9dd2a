"""Compressors in numpy, from their equations: no bucketing, packing or bit pattern is shared with the library."""

import math

import numpy as np


def buckets(x, bucket):
    """Yields the consecutive pieces of at most `bucket` values."""
    for start in range(0, len(x), bucket):
        yield x[start : start + bucket]


def short_ceil(value, significand_bits):
    """The smallest number >= value with that many significand bits."""
    if value == 0.0:
        return 0.0
    mantissa, exponent = math.frexp(value)
    return math.ldexp(math.ceil(math.ldexp(mantissa, significand_bits)), exponent - significand_bits)


def linear_step(x, bits):
    """max |x| (1/L) in float32, rounded up to 25 - bits significand bits, so that code * step is exact."""
    inverse = np.float32(1.0 / (2 ** (bits - 1) - 1))
    return short_ceil(float(np.max(np.abs(x)) * inverse), 25 - bits)


def linear_nearest(x, bits, bucket):
    """Returns (decoded, distance of each x / step from the nearest rounding boundary), both float64."""
    decoded, margins = [], []
    for piece in buckets(x, bucket):
        step = linear_step(piece, bits)
        ratio = piece.astype(np.float64) / step if step else np.zeros(len(piece))
        decoded.append(np.rint(ratio) * step)
        margins.append(np.abs(ratio - np.floor(ratio) - 0.5))
    return np.concatenate(decoded), np.concatenate(margins)


def linear_stochastic(x, u, bits, bucket):
    """floor(x / step + u) step, the step as in `linear_step`; also the distance to a jump. Both float64."""
    decoded, margins = [], []
    for piece, draws in zip(buckets(x, bucket), buckets(u, bucket), strict=True):
        step = linear_step(piece, bits)
        shifted = piece.astype(np.float64) / step + draws
        decoded.append(np.floor(shifted) * step)
        margins.append(np.abs(shifted - np.rint(shifted)))
    return np.concatenate(decoded), np.concatenate(margins)


def ternary(x, bucket):
    """The nearest of -s, 0, s to each x, s = max |x| of its bucket; 0 at ties."""
    decoded = []
    for piece in buckets(x, bucket):
        scale = np.abs(piece).max()
        levels = np.array([0.0, -scale, scale], np.float32)
        distances = np.abs(piece.astype(np.float64)[:, None] - levels.astype(np.float64))
        decoded.append(levels[np.argmin(distances, axis=1)])
    return np.concatenate(decoded)


def base_three_digits(word):
    """The 20 leading digits in base 3 of word / 2^32, in Python integers."""
    digits = []
    for _ in range(20):
        digit, word = divmod(3 * word, 2**32)
        digits.append(digit)
    return digits


def sign(x, bucket):
    """sign(x) * mean |x| per bucket, float64; the sign of zero is its sign bit."""
    pieces = [piece.astype(np.float64) for piece in buckets(x, bucket)]
    return np.concatenate([np.copysign(1.0, piece) * np.abs(piece).mean() for piece in pieces])


def float16(x):
    """numpy's own binary16, finite values clipped to +-65504."""
    clipped = np.where(np.isfinite(x), np.clip(x, -65504, 65504), x)
    return clipped.astype(np.float16).astype(np.float32)


def bfloat16(x):
    """Eight significand bits, ties to even, float64: by `frexp` and `rint`, at most (2 - 2^-7) 2^127."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    rounded = np.ldexp(np.rint(np.ldexp(mantissa, 8)), exponent - 8)
    largest = (2 - 2.0**-7) * 2.0**127
    return np.where(np.isfinite(x), np.clip(rounded, -largest, largest), x)


def topk(x, k):
    """The k largest |x| in place, zero elsewhere; the first of equal ones."""
    sparse = np.zeros_like(x)
    largest = np.argsort(-np.abs(x), kind="stable")[:k]
    sparse[largest] = x[largest]
    return sparse


def block_topk(x, block, m):
    """`topk` of m values in every block."""
    return np.concatenate([topk(piece, min(m, len(piece))) for piece in buckets(x, block)])


def norm(x):
    """The 2-norm in float64, at most the largest float32."""
    return min(np.sqrt(np.sum(x.astype(np.float64) ** 2)), float(np.finfo(np.float32).max))


def qsgd(x, u, bits, bucket):
    """floor(x / step + u) step, step = ||x|| / L with 25 - bits significand bits; also the distance to a jump."""
    decoded, margins = [], []
    for piece, draws in zip(buckets(x, bucket), buckets(u, bucket), strict=True):
        step = short_ceil(norm(piece) / (2 ** (bits - 1) - 1), 25 - bits)
        shifted = piece.astype(np.float64) / step + draws
        decoded.append(np.floor(shifted) * step)
        margins.append(np.abs(shifted - np.rint(shifted)))
    return np.concatenate(decoded), np.concatenate(margins)


def exponential(x, u, bits, bucket, scale_of):
    """Each |x| to a neighbour among 0 and S 2^-i, i < K: the upper one when its share of the way exceeds 1 - u.

    Returns (decoded, distance of that share from 1 - u), both float64.
    """
    decoded, margins = [], []
    for piece, draws in zip(buckets(x, bucket), buckets(u, bucket), strict=True):
        levels = np.append(0.0, scale_of(piece) * 2.0 ** -np.arange(2 ** (bits - 1) - 1)[::-1])
        magnitude = np.abs(piece.astype(np.float64))
        above = np.clip(np.searchsorted(levels, magnitude, side="right"), 1, len(levels) - 1)
        share = (magnitude - levels[above - 1]) / (levels[above] - levels[above - 1])
        # Below the lowest level x is raised where x > u s: the same probability, the other end of u.
        raised = np.where(above == 1, share > draws, share + draws >= 1.0)
        margins.append(np.where(above == 1, np.abs(share - draws), np.abs(share + draws - 1.0)))
        decoded.append(np.copysign(levels[above - 1 + raised], piece))
    return np.concatenate(decoded), np.concatenate(margins)


def power_of_two_above(x):
    """The smallest power of two >= max |x|."""
    return 2.0 ** np.ceil(np.log2(np.abs(x).max().astype(np.float64)))


def relative_error(x, decoded):
    """||decoded - x||^2 / ||x||^2 in float64."""
    x = x.astype(np.float64)
    return float(np.sum((decoded - x) ** 2) / np.sum(x**2))


def distributions(n, seed=0):
    """Returns {name: float32 [n]} of the four distributions on which errors are tabulated."""
    rng = np.random.default_rng(seed)
    sparse = rng.standard_normal(n) * (rng.random(n) < 0.1)
    draws = {
        "gaussian": rng.standard_normal(n),
        "laplace": rng.laplace(size=n),
        "student_t3": rng.standard_t(3, size=n),
        "zeros_90": sparse,
    }
    return {name: values.astype(np.float32) for name, values in draws.items()}
