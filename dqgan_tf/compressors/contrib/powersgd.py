"""PowerSGD: matrices are sent as products of two thin matrices, all other values exactly.

One step of subspace iteration approximates worker m's matrix M^m [rows, cols], with queries Q [cols, rank] and random
columns G [rows, explore]:

    P^m = M^m Q;   B = orthonormalise([mean P, G]);   C^m = (M^m)^T B;   decode^m = B (C^m)^T,  their mean B (mean C)^T
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from dqgan_tf.compressors import hash_random
from dqgan_tf.compressors.base import ROUNDING_SLACK, Compression
from dqgan_tf.errors import UsageError
from dqgan_tf.lazy_tensorflow import tf

_COLUMNS_MAX = 1024
"""Width of a wide layer. With more columns every matrix would be sent exactly, and the user would not notice."""
_START_SEED = 1905_13727


@dataclasses.dataclass(frozen=True)
class PowerSGD(Compression):
    """Matrices of low rank, with a warm start.

    Spec `powersgd:rank=2,explore=1`. Two exact all-reduces of thin matrices; `PowerSGDPlan` has the steps. Vogels et
    al. 2019, arXiv:1905.13727, with `explore` random directions more for each matrix and step.

    A worker's matrix is projected on the leading directions of the mean. In the published algorithm (`explore=0`) the
    component orthogonal to them is never sent, so nothing is proven: delta = 0. A random direction, the same on all
    workers and independent of the matrix, sends 1 / (rows - rank) of that component in expectation. With rows the
    shorter side of a matrix,

        E ||decode - x||^2 <= (1 - delta) ||x||^2,     delta = min over matrices of explore / (rows - rank).

    No matrix of a vector of n values has more than sqrt(n) rows. The random directions are computed from the seed: they
    add `explore` columns to the second product and none to the first.

    Linear in each worker's matrices, but not a `Compressor`: the second product needs the mean of the first. All
    workers must compute the same bases, so they run the same program on the same kind of processor.
    """

    rank: int = 2
    explore: int = 1

    name: ClassVar[str] = "powersgd"
    use: ClassVar[str] = "wide layers; two all-reduces; no bound with `explore=0`"

    def __post_init__(self):
        if type(self.rank) is not int or not 1 <= self.rank <= _COLUMNS_MAX:
            raise UsageError(f"`rank` must be an integer from 1 to {_COLUMNS_MAX}. Received: rank={self.rank}")
        if type(self.explore) is not int or not 0 <= self.explore <= _COLUMNS_MAX:
            raise UsageError(f"`explore` must be an integer from 0 to {_COLUMNS_MAX}. Received: explore={self.explore}")

    def delta(self, n):
        return max(0.0, min(1.0, self.explore / math.isqrt(n)) - ROUNDING_SLACK)

    def contractive_variant(self):
        return dataclasses.replace(self, explore=max(1, self.explore))

    def plan(self, shapes) -> PowerSGDPlan:
        """Returns how to send a flat vector that consists of tensors of these static shapes, in order."""
        return PowerSGDPlan(tuple(map(tuple, shapes)), self.rank, self.explore)


class _Matrix(NamedTuple):
    """A tensor as [rows, cols], rows <= cols: all axes but the last against the last, transposed if that is longer.

    tensor: its index among the shapes.
    """

    tensor: int
    rows: int
    cols: int
    transposed: bool


@dataclasses.dataclass(frozen=True)
class PowerSGDPlan:
    """Computes the mean of low-rank approximations of the flat float32 [n] vectors x^m of workers m.

    The state are the queries Q. Q and the seed, int32 [2], are equal on all workers; the seed is new in each step.

        t^m      = plan.tensors(x^m)                        separate, so that every product reads its matrix in place
        first^m  = plan.project(t^m, state)                 P^m = M^m Q, then the values sent exactly
        first    = mean over workers of first^m             all-reduce
        bases    = plan.bases(first, seed)                  B = orthonormalise([P, random columns])
        second^m = plan.coefficients(t^m, bases)            C^m = (M^m)^T B
        second   = mean over workers of second^m            all-reduce
        q        = plan.decode(first, bases, second)        the same bits on all workers
        e^m      = t^m - plan.decode(first^m, bases, second^m)          error feedback
        state    = plan.next_state(second)                  warm start of the next step

    `q` is the mean of what the workers' matrices decode to. If x of any worker is not finite, `first` or `second` is
    not finite on all workers, and all keep state and residuals. All functions are pure and may be jit-compiled.

    A tensor is sent as a matrix if rank rows + (rank + explore) cols < rows cols, else exactly.

    Attributes:
      shapes: shapes of the tensors whose concatenation is the vector.
      rank: number of columns of Q.
      explore: number of random columns of B.
    """

    shapes: tuple[tuple[int, ...], ...]
    rank: int
    explore: int

    @functools.cached_property
    def matrices(self) -> tuple[_Matrix, ...]:
        """The tensors sent as matrices, in order."""
        matrices = []
        for index, shape in enumerate(self.shapes):
            tall, wide = math.prod(shape[:-1]), math.prod(shape[-1:])
            matrix = _Matrix(index, min(tall, wide), max(tall, wide), transposed=tall > wide)
            values_saved = matrix.rows * matrix.cols - self.rank * matrix.rows - self.basis_columns * matrix.cols
            if len(shape) > 1 and values_saved > 0:
                matrices.append(matrix)
        return tuple(matrices)

    @property
    def basis_columns(self) -> int:
        """Columns of a basis."""
        return self.rank + self.explore

    @property
    def first_size(self) -> int:
        """Values of the first all-reduce."""
        exact = sum(self._sizes) - sum(matrix.rows * matrix.cols for matrix in self.matrices)
        return exact + sum(self.rank * matrix.rows for matrix in self.matrices)

    @property
    def second_size(self) -> int:
        """Values of the second all-reduce."""
        return sum(self.basis_columns * matrix.cols for matrix in self.matrices)

    @property
    def wire_bytes(self) -> int:
        """Bytes of a worker's vectors in both all-reduces."""
        return 4 * (self.first_size + self.second_size)

    @property
    def delta(self) -> float:
        """The proven lower bound for vectors of these shapes, in expectation over the seed; see `PowerSGD`."""
        shares = [self.explore / (matrix.rows - self.rank) for matrix in self.matrices]
        return max(0.0, min(shares, default=1.0) - ROUNDING_SLACK)

    def initial_state(self) -> np.ndarray:
        """Returns float32 [s], queries from a normal distribution: the same at every call."""
        size = sum(self.rank * matrix.cols for matrix in self.matrices)
        return np.random.default_rng(_START_SEED).standard_normal(size, np.float32)

    def tensors(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """Returns the float32 [size] tensors whose concatenation is the float32 [n] vector."""
        return tf.split(vector, self._sizes)

    def project(self, tensors: Sequence[tf.Tensor], state: tf.Tensor) -> tf.Tensor:
        """Returns float32 [first_size]: M Q of every matrix, then the values sent exactly."""
        queries = _split(state, [(matrix.cols, self.rank) for matrix in self.matrices])
        products = [_product(tensors[m.tensor], m, query) for m, query in zip(self.matrices, queries, strict=True)]
        return _flatten([*products, *(tensors[index] for index in self._exact_indices)])

    def bases(self, first: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Returns the float32 [rows, rank + explore] basis of every matrix, orthonormal.

        Args:
          first: the mean of `project`.
          seed: int32 [2], the same on all workers, another in each step.
        """
        if not self.matrices:
            return []
        # All matrices are padded to the rows of the largest, so that one loop orthonormalises all of them.
        rows = [matrix.rows for matrix in self.matrices]
        tallest = max(rows)
        draws = gaussian(len(rows) * tallest, self.basis_columns + self.explore, seed)
        draws = tf.reshape(draws, [len(rows), tallest, -1])
        draws = tf.where(tf.range(tallest)[:, None] < np.array(rows)[:, None, None], draws, 0.0)
        products = tf.stack([tf.pad(p, [[0, tallest - p.shape[0]], [0, 0]]) for p in self._split_first(first)[0]])
        random_columns, spare = draws[:, :, : self.explore], draws[:, :, self.explore :]
        bases = orthonormalise(tf.concat([products, random_columns], 2), spare)
        return [basis[:count] for basis, count in zip(tf.unstack(bases), rows, strict=True)]

    def coefficients(self, tensors: Sequence[tf.Tensor], bases: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns float32 [second_size]: M^T B of every matrix."""
        pairs = zip(self.matrices, bases, strict=True)
        return _flatten([_product(tensors[m.tensor], m, basis, adjoint=True) for m, basis in pairs])

    def decode(self, first: tf.Tensor, bases: Sequence[tf.Tensor], second: tf.Tensor) -> list[tf.Tensor]:
        """Returns the tensors, B C^T and the exact values: of one worker's first and second, or of their means."""
        parts = dict(zip(self._exact_indices, self._split_first(first)[1], strict=True))
        for matrix, basis, part in zip(self.matrices, bases, self._split_second(second), strict=True):
            left, right = (part, basis) if matrix.transposed else (basis, part)
            parts[matrix.tensor] = tf.reshape(outer(left, right), [-1])
        return [parts[index] for index in range(len(self.shapes))]

    def next_state(self, second: tf.Tensor) -> tf.Tensor:
        """Returns float32 [s]: of each matrix's mean C the `rank` columns of largest norm, as unit vectors."""
        return _flatten([leading(part, self.rank) for part in self._split_second(second)])

    @property
    def _exact_indices(self):
        matrices = {matrix.tensor for matrix in self.matrices}
        return [index for index in range(len(self.shapes)) if index not in matrices]

    @property
    def _sizes(self):
        return [math.prod(shape) for shape in self.shapes]

    def _split_first(self, first):
        """Returns ([rows, rank] of every matrix, [size] of every exact tensor)."""
        exact = [(self._sizes[index],) for index in self._exact_indices]
        products = sum(self.rank * matrix.rows for matrix in self.matrices)
        rows = [matrix.rows for matrix in self.matrices]
        return _split_products(first[:products], self.matrices, self.rank, rows), _split(first[products:], exact)

    def _split_second(self, second):
        cols = [matrix.cols for matrix in self.matrices]
        return _split_products(second, self.matrices, self.basis_columns, cols, adjoint=True)


def _product(tensor, matrix, columns, adjoint=False):
    """Returns M columns, or M^T columns, of the matrix M in a flat tensor; see `_split_products`.

    If the sum is not over the last axis of the tensor, the result is the transpose, columns^T M. The usual order is
    then three times slower, because XLA transposes the tensor.
    """
    stored = tf.reshape(tensor, [matrix.cols, matrix.rows] if matrix.transposed else [matrix.rows, matrix.cols])
    if matrix.transposed != adjoint:
        return tf.matmul(columns, stored, transpose_a=True)
    return tf.matmul(stored, columns)


def _split_products(vector, matrices, columns, rows, adjoint=False):
    """Returns [rows, columns] of every product of `_product` in a vector of them."""
    turned = [matrix.transposed != adjoint for matrix in matrices]
    shapes = [(columns, count) if turn else (count, columns) for turn, count in zip(turned, rows, strict=True)]
    parts = _split(vector, shapes)
    return [tf.transpose(part) if turn else part for turn, part in zip(turned, parts, strict=True)]


def _split(vector, shapes):
    if not shapes:
        return []
    return [tf.reshape(p, s) for p, s in zip(tf.split(vector, [math.prod(s) for s in shapes]), shapes, strict=True)]


def _flatten(tensors):
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0) if tensors else tf.zeros([0])


# Linear algebra of thin matrices.

_INDEPENDENT = 1e-4
"""If the component of a unit column orthogonal to the columns before it is smaller, it is rounding noise."""
_FEW_COLUMNS = 16
"""Up to this many columns, a product is a sum of outer products; more columns would take long to compile."""


def orthonormalise(columns: tf.Tensor, spare: tf.Tensor) -> tf.Tensor:
    """Returns float32 [matrices, rows, k], orthonormal columns that span the given ones, by Gram-Schmidt from the left.

    A column that is zero or linearly dependent on those before it is replaced by its spare. Every column is
    orthogonalised three times: two times are needed for orthogonality to rounding, and a spare misses the first. NaN or
    inf in a column makes it and all columns after it NaN. A single loop runs over the columns of all matrices: XLA
    needed half a minute to compile an unrolled loop for a DCGAN.

    Args:
      columns: float32 [matrices, rows, k]; a matrix of fewer rows, at least k, has zeros below.
      spare: of the same shape, with the same zeros, linearly independent of each other and of `columns`: random.
    """
    count = columns.shape[2]
    columns, spare = unit(columns), unit(spare)

    def norm(column):
        return tf.sqrt(tf.reduce_sum(tf.square(column), axis=1, keepdims=True))

    def without_basis(column, basis):
        parts = tf.reduce_sum(basis * column, axis=2, keepdims=True)
        return column - tf.reduce_sum(parts * basis, axis=0)

    def body(index, basis):
        column = without_basis(columns[:, :, index], basis)
        length = norm(column)
        column = tf.where(length < _INDEPENDENT, spare[:, :, index], column / length)
        for _ in range(2):
            column = without_basis(column, basis)
            column /= norm(column)
        return index + 1, tf.where(tf.range(count)[:, None, None] == index, column, basis)

    start = tf.zeros([count, *columns.shape[:2]])  # [k, matrices, rows]: columns that are still zero remove nothing
    _, basis = tf.while_loop(lambda index, _: index < count, body, (0, start), maximum_iterations=count)
    return tf.transpose(basis, [1, 2, 0])


def outer(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Returns float32 [m, n] left right^T of float32 [m, k] and [n, k].

    With few columns it is a sum of outer products, which XLA fuses into the loop that reads it. A matrix product would
    be a loop of its own, on a CPU three times slower than writing its result.
    """
    if left.shape[1] > _FEW_COLUMNS:
        return tf.matmul(left, right, transpose_b=True)
    terms = zip(tf.unstack(left, axis=1), tf.unstack(right, axis=1), strict=True)
    return functools.reduce(operator.add, [column[:, None] * row for column, row in terms])


def unit(columns: tf.Tensor) -> tf.Tensor:
    """Returns every column of float32 [..., rows, k] divided by its 2-norm; zeros if it is zero, NaN if not finite."""
    top = tf.reduce_max(tf.abs(columns), axis=-2, keepdims=True)
    scaled = columns / tf.where(top == 0.0, 1.0, top)  # so that no square overflows
    norm = tf.sqrt(tf.reduce_sum(tf.square(scaled), axis=-2, keepdims=True))
    return scaled / tf.where(norm == 0.0, 1.0, norm)


def leading(columns: tf.Tensor, rank: int) -> tf.Tensor:
    """Returns float32 [rows, rank], the columns of largest norm, largest first, each a unit vector or zero.

    With C = M^T B, the squared norm of a column of C is the squared norm of the component of M along that column of B.
    """
    top = tf.reduce_max(tf.abs(columns))
    scaled = columns / tf.where(top == 0.0, 1.0, top)
    order = tf.math.top_k(tf.reduce_sum(tf.square(scaled), axis=0), rank).indices
    return unit(tf.gather(columns, order, axis=1))


def gaussian(rows: int, columns: int, seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 [rows, columns] of independent standard normal numbers, a pure function of int32 [2] seed.

    Box and Muller 1958: sqrt(-2 ln(1 - u)) cos(2 pi v), of `hash_random`'s numbers.
    """
    draws = hash_random.uniform(tf.range(2 * rows * columns), seed)
    u, v = tf.unstack(tf.reshape(draws, [2, rows, columns]))
    return tf.sqrt(-2.0 * tf.math.log(1.0 - u)) * tf.cos(2.0 * math.pi * v)
