"""The random numbers of the stochastic compressors in numpy: "lowbias32" of a counter, keyed by a seed of two words."""

import numpy as np


def words(positions, seed):
    """uint64 [n] below 2^32: the hash of every position under the seed (a, b), both taken modulo 2^32."""
    a, b = (int(word) % 2**32 for word in seed)
    first = _mix(_mix((a + 0x9E3779B9) % 2**32, 0), b)
    second = _mix(a, first)
    return _mix(np.asarray(positions, np.uint64) ^ np.uint64(first), second)


def uniform(n, seed, bits=24):
    """float64 [n] in [0, 1): the leading bits of the hash of 0 .. n - 1."""
    return (words(np.arange(n), seed) >> np.uint64(32 - bits)) * 2.0**-bits


def gaussian(rows, columns, seed):
    """float64 [rows, columns] of normal numbers: sqrt(-2 ln(1 - u)) cos(2 pi v) of the first and the second half."""
    u, v = uniform(2 * rows * columns, seed).reshape(2, rows, columns)
    return np.sqrt(-2.0 * np.log(1.0 - u)) * np.cos(2.0 * np.pi * v)


def one_of_each_arc(n, k, seed):
    """k distinct indices below n: a circle of n places in k arcs, one place of each, turned by a random number."""
    hashed = [int(word) for word in words(np.arange(k + 1), seed)]
    turn = n * hashed[k] >> 32
    edges = [i * n // k for i in range(k + 1)]
    return np.array([(a + ((b - a) * h >> 32) + turn) % n for a, b, h in zip(edges, edges[1:], hashed, strict=False)])


def _mix(word, key):
    low = 2**32 - 1
    word = ((word ^ word >> _like(word, 16)) * _like(word, 0x7FEB352D)) & _like(word, low)
    word = (word + _like(word, key)) & _like(word, low)
    word = ((word ^ word >> _like(word, 15)) * _like(word, 0x846CA68B)) & _like(word, low)
    return word ^ word >> _like(word, 16)


def _like(word, value):
    return np.uint64(value) if isinstance(word, np.ndarray) else value
