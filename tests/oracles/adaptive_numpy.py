"""Nearest levels by distances, best levels by Lloyd's iterations, levels of a histogram by companding; float64."""

import numpy as np

from tests.oracles.compressors_numpy import buckets, short_ceil


def shares(x, bucket=512):
    """|x| / max |x| of each bucket, float64 [n]; n a multiple of the bucket."""
    rows = np.abs(x.astype(np.float64)).reshape(-1, bucket)
    return (rows / rows.max(axis=1, keepdims=True)).ravel()


def nearest(x, levels, bucket=512):
    """Returns (x with |x| at the nearest of levels * max |x| of its bucket, distance to the nearest boundary)."""
    rows = x.astype(np.float64).reshape(-1, bucket)
    top = np.abs(rows).max(axis=1, keepdims=True)
    share = np.abs(rows) / top
    distances = np.abs(share[..., None] - np.asarray(levels, np.float64))
    decoded = np.copysign(np.asarray(levels, np.float64)[np.argmin(distances, axis=-1)] * top, rows)
    best, second = np.sort(distances, axis=-1)[..., :2].transpose(2, 0, 1)
    return decoded.ravel(), (second - best).ravel()


def lloyd_max(y, count, iterations=1000):
    """Levels 0 = l_0 < ... < l_(count-1) = 1 that minimise the squared distance of y to the nearest, from uniform."""
    y = np.sort(y)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    levels = np.linspace(0.0, 1.0, count)
    for _ in range(iterations):
        cuts = np.searchsorted(y, (levels[1:] + levels[:-1]) / 2)
        sizes = np.maximum(np.diff(cuts), 1)
        levels[1:-1] = np.where(np.diff(cuts) > 0, np.diff(sums[cuts]) / sizes, levels[1:-1])
    return levels


def nearest_short(x, levels, bucket):
    """As `nearest` for any length, with scales of 16 significant bits, rounded up. Returns (decoded, margins)."""
    levels, decoded, margins = np.asarray(levels, np.float64), [], [np.inf]
    for piece in buckets(x.astype(np.float64), bucket):
        scale = short_ceil(float(np.abs(piece).max()), 16)
        distances = np.abs(np.abs(piece)[:, None] - levels * scale)
        decoded.append(np.copysign(levels[np.argmin(distances, axis=1)] * scale, piece))
        best, second = np.sort(distances, axis=1)[:, :2].T
        margins += list((second - best) / scale) if scale else []
    return np.concatenate(decoded), margins


def bin_edges():
    """0, and eight equal bins in each of the octaves from 2^-8 to 1; all below the second edge are one bin."""
    octaves = [2.0**-8 * 2.0**k * (1 + np.arange(8) / 8) for k in range(8)]
    return np.concatenate([[0.0], np.concatenate(octaves)[1:], [1.0]])


def histogram(x, bucket):
    """Returns (how many |x| / max |x| of their bucket lie in each bin, without 0 and 1; distance to an edge)."""
    parts = [np.abs(piece.astype(np.float64)) for piece in buckets(x, bucket)]
    y = np.concatenate([piece / piece.max() for piece in parts if piece.any()] or [np.zeros(0)])
    y = y[(y > 0) & (y < 1)]
    edges = bin_edges()
    margin = np.abs(y[:, None] / edges[1:] - 1.0).min(initial=np.inf)
    return np.histogram(y, edges)[0].astype(np.float64), margin


def companded(counts, count):
    """Levels of density f^(1/3), of 8 significant bits. Returns (levels, distance from another rounding)."""
    edges = bin_edges()
    widths = np.diff(edges)
    mass = np.concatenate([[0.0], np.cumsum(np.cbrt(counts / widths) * widths)])
    between = np.interp(np.arange(1, count - 1) / (count - 1) * mass[-1], mass, edges)
    mantissa, exponent = np.frexp(between)
    scaled = np.ldexp(mantissa, 8)
    levels = np.ldexp(np.rint(scaled), exponent - 8)
    return np.concatenate([[0.0], levels, [1.0]]), np.abs(scaled - np.floor(scaled) - 0.5).min()
