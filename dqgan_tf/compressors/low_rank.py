"""Low-rank approximation of one matrix by one step of subspace iteration, seen by many workers.

With worker m's matrix M^m [rows, cols], queries Q [cols, rank] and random columns G [rows, explore]:

    P^m = M^m Q;   B = orthonormalise([mean P, G]);   C^m = (M^m)^T B;   decode^m = B (C^m)^T,  whose mean is B (mean C)^T

Vogels et al. 2019, arXiv 1905.13727, algorithm 1, whose B has no random columns.
"""

import math

import tensorflow as tf

from dqgan_tf.compressors import hash_random

_INDEPENDENT = 1e-4
"""A unit column with less than this outside the span of the columns before it is rounding noise there."""


def orthonormalise(columns: tf.Tensor, spare: tf.Tensor) -> tf.Tensor:
    """Returns float32 [rows, k] with orthonormal columns that span those of `columns`, by Gram-Schmidt, left to right.

    A column that depends on those before it, or is zero, is replaced by its spare. Every column is orthogonalised three
    times: the first removes what is large, the second makes it orthogonal to rounding, and a spare starts one later.
    NaN or inf in a column makes it and all after it NaN.

    Args:
      columns: float32 [rows, k], k <= rows.
      spare: float32 [rows, k], linearly independent of each other and of `columns`: random.
    """
    basis = tf.zeros([0, columns.shape[0]])
    for column, other in zip(tf.unstack(columns, axis=1), tf.unstack(spare, axis=1), strict=True):
        column = _remove(unit(column), basis)
        norm = _norm(column)
        column = tf.where(norm < _INDEPENDENT, other / _norm(other), column / norm)
        for _ in range(2):
            column = _remove(column, basis)
            column /= _norm(column)
        basis = tf.concat([basis, column[None, :]], 0)
    return tf.transpose(basis)


def unit(column: tf.Tensor) -> tf.Tensor:
    """Returns column / ||column||, float32 [rows]; zeros where it is zero, NaN where it is not finite."""
    top = tf.reduce_max(tf.abs(column))
    scaled = column / tf.where(top == 0.0, 1.0, top)
    norm = _norm(scaled)
    return scaled / tf.where(norm == 0.0, 1.0, norm)


def leading(columns: tf.Tensor, rank: int) -> tf.Tensor:
    """Returns float32 [rows, rank], the columns of largest norm, largest first, each a unit vector or zero.

    With C = M^T B the squared norm of a column is the energy of M along that column of B.
    """
    top = tf.reduce_max(tf.abs(columns))
    scaled = columns / tf.where(top == 0.0, 1.0, top)
    order = tf.math.top_k(tf.reduce_sum(tf.square(scaled), axis=0), rank).indices
    chosen = tf.unstack(tf.gather(columns, order, axis=1), axis=1)
    return tf.stack([unit(column) for column in chosen], axis=1)


def gaussian(rows: int, columns: int, seed: tf.Tensor, first: int = 0) -> tf.Tensor:
    """Returns float32 [rows, columns] of independent standard normal numbers, hence columns of uniform direction.

    Box and Muller 1958: sqrt(-2 ln(1 - u)) cos(2 pi v), of `hash_random`'s numbers at 2 rows columns positions from
    `first` on. A pure function of int32 [2] seed.
    """
    draws = hash_random.uniform(tf.range(first, first + 2 * rows * columns), seed)
    u, v = tf.unstack(tf.reshape(draws, [2, rows, columns]))
    return tf.sqrt(-2.0 * tf.math.log(1.0 - u)) * tf.cos(2.0 * math.pi * v)


def _remove(column, basis):
    """Returns float32 [rows] `column` less its part in the span of the orthonormal rows of `basis`."""
    if not basis.shape[0]:
        return column
    return column - tf.reduce_sum(tf.reduce_sum(basis * column, axis=1)[:, None] * basis, axis=0)


def _norm(column):
    return tf.sqrt(tf.reduce_sum(tf.square(column)))
