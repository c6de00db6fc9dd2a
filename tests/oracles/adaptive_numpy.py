"""Nearest levels and the levels of least squared error, in numpy float64: by distances and by Lloyd's iterations."""

import numpy as np


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
