"""Mixtures of Gaussians in the plane: x = m_k + s n, with k uniform over the modes and n standard normal.

| name | modes | s | high-quality radius | source |
|---|---|---|---|---|
| `gaussian_ring` | 8 on a circle, radius 2 | .02 | .25 | Metz et al. 2017, arXiv:1611.02163 |
| `gaussian_grid` | 25 on {-4, -2, 0, 2, 4}^2 | .05 | .15 = 3 s | Srivastava et al. 2017, arXiv:1705.07761 |

The high-quality radius of the ring is a sixth of the distance between neighbours. It is wider than the 3 s = .06 of the
literature, so that it also distinguishes short runs, whose samples have a larger spread.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from dqgan_tf.data.spec import DataSpec

_STREAM = 0x706F696E  # "poin": a separate key, so that no other use of (seed, step, replica) draws the same numbers
_PARTS = 1 << 20  # u of `by_class` is a whole number of parts: a floating m + u could round up to m + 1
_ANGLES = 2 * math.pi * np.arange(8) / 8
_RING = (2.0 * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)).astype(np.float32)
_TICKS = np.arange(-4, 5, 2, dtype=np.float32)
_GRID = np.stack(np.meshgrid(_TICKS, _TICKS, indexing="ij"), axis=-1).reshape(-1, 2)

MIXTURES: dict[str, dict[str, Any]] = {
    "gaussian_ring": {"modes": _RING, "standard_deviation": 0.02, "high_quality_radius": 0.25},
    "gaussian_grid": {"modes": _GRID, "standard_deviation": 0.05, "high_quality_radius": 0.15},
}


def describe(name: str) -> DataSpec:
    """Returns the description of a mixture. `name` is a key of `MIXTURES`."""
    return DataSpec(kind="points", shape=(2,), num_examples=None, name=name, **MIXTURES[name])


def batches(
    name: str, batch_size: int, num_replicas: int, seed: int, shards: str = "iid", *, with_labels: bool = False
) -> Callable[[tf.Tensor, tf.Tensor], Any]:
    """Returns a function (step i64 [], replica id i64 []) -> points f32 [batch_size, 2].

    With labels, it returns (points, modes i32 [batch_size]).

    Shards `iid`: every replica draws k uniformly over all K modes. Shards `by_class`: replica m of M draws
    k = floor((m + u) K / M), u uniform in [0, 1). The modes lie in their order on the line [0, K), and each replica has
    one M-th of it; a mode that a cut divides belongs to two replicas. So the mean over the replicas of their
    distributions is the whole mixture, for any M.
    """
    spec = describe(name)
    modes = tf.constant(spec.modes)
    count = modes.shape[0]

    def mode_of(key, replica):
        if shards == "iid":
            return tf.random.stateless_uniform([batch_size], key, maxval=count, dtype=tf.int32)
        u = tf.random.stateless_uniform([batch_size], key, maxval=_PARTS, dtype=tf.int64)
        return (tf.cast(replica, tf.int64) * _PARTS + u) * count // (num_replicas * _PARTS)

    def batch_at(step, replica):
        key = draw_seed(seed, step, replica)
        noise = tf.random.stateless_normal([batch_size, 2], key[1])
        mode = mode_of(key[0], replica)
        points = tf.gather(modes, mode) + spec.standard_deviation * noise
        return (points, tf.cast(mode, tf.int32)) if with_labels else points

    return batch_at


def draw_seed(seed: int, step: tf.Tensor, replica: tf.Tensor) -> tf.Tensor:
    """Returns two independent seeds, i64 [2, 2], as a function of (seed, step, replica)."""
    key = tf.stack([tf.constant(seed, tf.int64), tf.constant(_STREAM, tf.int64)])
    for part in (step, replica):
        key = tf.random.experimental.stateless_fold_in(key, part)
    return tf.random.split(key, 2)
