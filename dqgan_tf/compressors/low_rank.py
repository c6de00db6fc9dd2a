"""Low-rank approximation of one matrix by one step of subspace iteration, seen by many workers.

With worker m's matrix M^m [rows, cols], queries Q [cols, rank] and random columns G [rows, explore]:

    P^m = M^m Q;   B = orthonormalise([mean P, G]);   C^m = (M^m)^T B;   decode^m = B (C^m)^T, in the mean B (mean C)^T

Vogels et al. 2019, arXiv 1905.13727, algorithm 1, whose B has no random columns.
"""

import functools
import math
import operator

import tensorflow as tf

from dqgan_tf.compressors import hash_random

_INDEPENDENT = 1e-4
"""A unit column with less than this outside the span of the columns before it is rounding noise there."""
_FEW = 16
"""Columns up to which a product is written as a sum of outer products; more would be long to compile."""


def orthonormalise(columns: tf.Tensor, spare: tf.Tensor) -> tf.Tensor:
    """Returns float32 [matrices, rows, k], orthonormal columns that span those given, by Gram-Schmidt from the left.

    A column that depends on those before it, or is zero, is replaced by its spare. Every column is orthogonalised three
    times: the first removes what is large, the second makes it orthogonal to rounding, and a spare starts one later.
    NaN or inf in a column makes it and all after it NaN. One loop over the columns of all matrices: unrolled, XLA took
    half a minute to compile a DCGAN.

    Args:
      columns: float32 [matrices, rows, k]; a matrix of fewer rows, at least k, has zeros below.
      spare: of the same shape, with the same zeros, linearly independent of each other and of `columns`: random.
    """
    count = columns.shape[2]
    given, other = unit(columns), unit(spare)

    def body(index, basis):
        column = _remove(given[:, :, index], basis)
        norm = _norm(column)
        column = tf.where(norm < _INDEPENDENT, other[:, :, index], column / norm)
        for _ in range(2):
            column = _remove(column, basis)
            column /= _norm(column)
        return index + 1, tf.where(tf.range(count)[:, None, None] == index, column, basis)

    start = tf.zeros([count, *columns.shape[:2]])
    _, basis = tf.while_loop(lambda index, _: index < count, body, (0, start), maximum_iterations=count)
    return tf.transpose(basis, [1, 2, 0])


def outer(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Returns float32 [m, n] left right^T of float32 [m, k] and [n, k].

    Few columns are a sum of outer products, which XLA fuses into whatever reads it; a matrix product for itself is
    three times slower on a CPU than writing its result.
    """
    if left.shape[1] > _FEW:
        return tf.matmul(left, right, transpose_b=True)
    terms = zip(tf.unstack(left, axis=1), tf.unstack(right, axis=1), strict=True)
    return functools.reduce(operator.add, [column[:, None] * row for column, row in terms])


def unit(columns: tf.Tensor) -> tf.Tensor:
    """Returns every column of float32 [..., rows, k] by its 2-norm: zeros where it is zero, NaN where not finite."""
    top = tf.reduce_max(tf.abs(columns), axis=-2, keepdims=True)
    scaled = columns / tf.where(top == 0.0, 1.0, top)
    norm = tf.sqrt(tf.reduce_sum(tf.square(scaled), axis=-2, keepdims=True))
    return scaled / tf.where(norm == 0.0, 1.0, norm)


def leading(columns: tf.Tensor, rank: int) -> tf.Tensor:
    """Returns float32 [rows, rank], the columns of largest norm, largest first, each a unit vector or zero.

    With C = M^T B the squared norm of a column is the energy of M along that column of B.
    """
    top = tf.reduce_max(tf.abs(columns))
    scaled = columns / tf.where(top == 0.0, 1.0, top)
    order = tf.math.top_k(tf.reduce_sum(tf.square(scaled), axis=0), rank).indices
    return unit(tf.gather(columns, order, axis=1))


def gaussian(rows: int, columns: int, seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 [rows, columns] of independent standard normal numbers, hence columns of uniform direction.

    Box and Muller 1958: sqrt(-2 ln(1 - u)) cos(2 pi v), of `hash_random`'s numbers. A pure function of int32 [2] seed.
    """
    draws = hash_random.uniform(tf.range(2 * rows * columns), seed)
    u, v = tf.unstack(tf.reshape(draws, [2, rows, columns]))
    return tf.sqrt(-2.0 * tf.math.log(1.0 - u)) * tf.cos(2.0 * math.pi * v)


def _remove(column, basis):
    """Returns float32 [matrices, rows] `column` less its part in the span of `basis` [k, matrices, rows]."""
    parts = tf.reduce_sum(basis * column, axis=2, keepdims=True)
    return column - tf.reduce_sum(parts * basis, axis=0)


def _norm(column):
    return tf.sqrt(tf.reduce_sum(tf.square(column), axis=1, keepdims=True))
