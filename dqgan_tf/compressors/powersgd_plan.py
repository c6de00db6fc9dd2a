"""Which tensors of a flat vector PowerSGD sends as matrices, and the three steps between its two all-reduces."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from dqgan_tf.compressors import low_rank
from dqgan_tf.compressors.base import ROUNDING_SLACK

_START_SEED = 1905_13727


@dataclasses.dataclass(frozen=True)
class _Matrix:
    """A tensor as [rows, cols], rows <= cols: all axes but the last against the last, transposed where that is longer.

    tensor: its index among the shapes.
    """

    tensor: int
    rows: int
    cols: int
    transposed: bool


@dataclasses.dataclass(frozen=True)
class PowerSGDPlan:
    """How one flat float32 [n] vector x^m of each worker m becomes the mean of low-rank approximations.

    With state the queries Q, equal on all workers, and seed int32 [2], equal on all workers and new at each step:

        t^m      = plan.tensors(x^m)                        apart, so that every product reads its matrix in place
        first^m  = plan.project(t^m, state)                 P^m = M^m Q, then what is sent exactly
        first    = mean over workers of first^m             all-reduce
        bases    = plan.bases(first, seed)                  B = orthonormalise([P, random columns])
        second^m = plan.coefficients(t^m, bases)            C^m = (M^m)^T B
        second   = mean over workers of second^m            all-reduce
        q        = plan.decode(first, bases, second)        the result's tensors, with the same bits everywhere
        e^m      = t^m - plan.decode(first^m, bases, second^m)          error feedback
        state    = plan.next_state(second)                  warm start of the next step

    `q` is the mean of the workers' decodes. If any worker's x is not finite, `first` or `second` is not, on all
    workers: they keep state and residuals. All functions are pure and may be jit-compiled.

    A tensor is worth it if rank rows + (rank + explore) cols < rows cols; the others are sent exactly.

    Attributes:
      shapes: of the tensors whose concatenation is the vector.
      rank: columns of Q.
      explore: random columns of B.
    """

    shapes: tuple[tuple[int, ...], ...]
    rank: int
    explore: int

    @functools.cached_property
    def matrices(self) -> tuple[_Matrix, ...]:
        """The tensors sent as matrices, in order."""
        views = [self._view(index) for index, shape in enumerate(self.shapes) if len(shape) > 1]
        return tuple(v for v in views if self.rank * v.rows + self.basis_columns * v.cols < v.rows * v.cols)

    @property
    def basis_columns(self) -> int:
        """Columns of a basis."""
        return self.rank + self.explore

    @property
    def first_size(self) -> int:
        """Values of the first all-reduce."""
        exact = sum(self._sizes) - sum(view.rows * view.cols for view in self.matrices)
        return exact + sum(self.rank * view.rows for view in self.matrices)

    @property
    def second_size(self) -> int:
        """Values of the second all-reduce."""
        return sum(self.basis_columns * view.cols for view in self.matrices)

    @property
    def wire_bytes(self) -> int:
        """Bytes of both vectors that a worker gives to be averaged."""
        return 4 * (self.first_size + self.second_size)

    @property
    def delta(self) -> float:
        """The proven lower bound for vectors of these shapes, in expectation over the seed; see `PowerSGD`."""
        shares = [self.explore / (view.rows - self.rank) for view in self.matrices]
        return max(0.0, min(shares, default=1.0) - ROUNDING_SLACK)

    def initial_state(self) -> np.ndarray:
        """Returns float32 [s]: queries drawn from a normal distribution, the same at every call."""
        size = sum(self.rank * view.cols for view in self.matrices)
        return np.random.default_rng(_START_SEED).standard_normal(size, np.float32)

    def tensors(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """Returns the float32 [size] tensors whose concatenation is the float32 [n] vector."""
        return tf.split(vector, self._sizes)

    def project(self, tensors: Sequence[tf.Tensor], state: tf.Tensor) -> tf.Tensor:
        """Returns float32 [first_size]: M Q of every matrix, then the values sent exactly."""
        queries = _split(state, [(view.cols, self.rank) for view in self.matrices])
        products = [_product(tensors[view.tensor], view, q) for view, q in zip(self.matrices, queries, strict=True)]
        return _flatten([*products, *(tensors[index] for index in self._exact_indices)])

    def bases(self, first: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Returns the float32 [rows, rank + explore] basis of every matrix, orthonormal.

        Args:
          first: the mean of `project`.
          seed: int32 [2], the same on all workers, another at each step.
        """
        if not self.matrices:
            return []
        rows, top = [view.rows for view in self.matrices], max(view.rows for view in self.matrices)
        draws = low_rank.gaussian(len(rows) * top, self.basis_columns + self.explore, seed)
        draws = tf.reshape(draws, [len(rows), top, -1])
        draws = tf.where(tf.range(top)[:, None] < np.array(rows)[:, None, None], draws, 0.0)
        given = tf.stack([tf.pad(p, [[0, top - p.shape[0]], [0, 0]]) for p in self._split_first(first)[0]])
        explored, spare = draws[:, :, : self.explore], draws[:, :, self.explore :]
        bases = low_rank.orthonormalise(tf.concat([given, explored], 2), spare)
        return [basis[:count] for basis, count in zip(tf.unstack(bases), rows, strict=True)]

    def coefficients(self, tensors: Sequence[tf.Tensor], bases: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns float32 [second_size]: M^T B of every matrix."""
        views = zip(self.matrices, bases, strict=True)
        return _flatten([_product(tensors[view.tensor], view, basis, adjoint=True) for view, basis in views])

    def decode(self, first: tf.Tensor, bases: Sequence[tf.Tensor], second: tf.Tensor) -> list[tf.Tensor]:
        """Returns the tensors, B C^T and the exact values: of one worker's first and second, or of their means."""
        parts = dict(zip(self._exact_indices, self._split_first(first)[1], strict=True))
        for view, basis, part in zip(self.matrices, bases, self._split_second(second), strict=True):
            left, right = (part, basis) if view.transposed else (basis, part)
            parts[view.tensor] = tf.reshape(low_rank.outer(left, right), [-1])
        return [parts[index] for index in range(len(self.shapes))]

    def next_state(self, second: tf.Tensor) -> tf.Tensor:
        """Returns float32 [s]: of each matrix's mean C the `rank` columns of largest norm, as unit vectors."""
        return _flatten([low_rank.leading(part, self.rank) for part in self._split_second(second)])

    def _view(self, index):
        shape = self.shapes[index]
        tall, wide = math.prod(shape[:-1]), shape[-1]
        return _Matrix(index, min(tall, wide), max(tall, wide), transposed=tall > wide)

    @property
    def _exact_indices(self):
        matrices = {view.tensor for view in self.matrices}
        return [index for index in range(len(self.shapes)) if index not in matrices]

    @property
    def _sizes(self):
        return [math.prod(shape) for shape in self.shapes]

    def _split_first(self, first):
        """Returns ([rows, rank] of every matrix, [size] of every exact tensor)."""
        exact = [(self._sizes[index],) for index in self._exact_indices]
        products = sum(self.rank * view.rows for view in self.matrices)
        rows = [view.rows for view in self.matrices]
        return _split_products(first[:products], self.matrices, self.rank, rows), _split(first[products:], exact)

    def _split_second(self, second):
        cols = [view.cols for view in self.matrices]
        return _split_products(second, self.matrices, self.basis_columns, cols, adjoint=True)


def _product(tensor, view, columns, adjoint=False):
    """Returns M columns, or M^T columns, of the matrix M in a flat tensor; see `_split_products`.

    The transpose, columns^T M, where the tensor's last axis is not the one that is summed: the product is three times
    slower otherwise, even if its result alone is transposed, because XLA then transposes the tensor.
    """
    stored = tf.reshape(tensor, [view.cols, view.rows] if view.transposed else [view.rows, view.cols])
    if view.transposed != adjoint:
        return tf.matmul(columns, stored, transpose_a=True)
    return tf.matmul(stored, columns)


def _split_products(vector, views, columns, rows, adjoint=False):
    """Returns [rows, columns] of every product of `_product` in a vector of them."""
    turned = [view.transposed != adjoint for view in views]
    shapes = [(columns, count) if turn else (count, columns) for turn, count in zip(turned, rows, strict=True)]
    parts = _split(vector, shapes)
    return [tf.transpose(part) if turn else part for turn, part in zip(turned, parts, strict=True)]


def _split(vector, shapes):
    if not shapes:
        return []
    return [tf.reshape(p, s) for p, s in zip(tf.split(vector, [math.prod(s) for s in shapes]), shapes, strict=True)]


def _flatten(tensors):
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0) if tensors else tf.zeros([0])
