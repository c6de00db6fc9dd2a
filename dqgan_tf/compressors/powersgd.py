"""PowerSGD: the matrices of a model as products of two thin ones, and everything else exactly."""

import dataclasses
import math
from typing import ClassVar

from dqgan_tf.compressors.base import ROUNDING_SLACK
from dqgan_tf.compressors.compression import Compression
from dqgan_tf.compressors.powersgd_plan import PowerSGDPlan

_COLUMNS_MAX = 1024
"""The side of a wide layer: with more columns every matrix would be sent as it is, without a word."""


@dataclasses.dataclass(frozen=True)
class PowerSGD(Compression):
    """Spec `powersgd:rank=2,explore=1`. Two exact all-reduces of thin matrices; see `PowerSGDPlan` for the steps.

    Vogels et al. 2019, arXiv 1905.13727, with warm start, plus `explore` random directions a matrix and step. Every
    worker sends its matrices' products with the mean's leading directions alone, so what one worker has outside of them
    never passes and the published algorithm (`explore=0`) proves no contraction for that worker: delta = 0. A random
    direction, the same on all workers, passes 1 / (rows - rank) of whatever is left in expectation, because it is
    independent of it, so for each worker's own matrices, rows the shorter side,

        E ||decode - x||^2 <= (1 - delta) ||x||^2,     delta = min over matrices of explore / (rows - rank).

    No matrix of a vector of n values has more than sqrt(n) rows. On the wire it costs `explore` columns of one of the
    two products and no bytes of its own: it follows from the seed.

    Linear in each worker's matrices, but not a `Compressor`: what a worker sends second depends on the mean of what all
    sent first. All workers must compute the same bases, hence run the same program on the same kind of processor.
    """

    rank: int = 2
    explore: int = 1

    name: ClassVar[str] = "powersgd"

    def __post_init__(self):
        if type(self.rank) is not int or not 1 <= self.rank <= _COLUMNS_MAX:
            raise ValueError(f"`rank` must be an integer from 1 to {_COLUMNS_MAX}. Received: rank={self.rank}")
        if type(self.explore) is not int or not 0 <= self.explore <= _COLUMNS_MAX:
            raise ValueError(f"`explore` must be an integer from 0 to {_COLUMNS_MAX}. Received: explore={self.explore}")

    @property
    def unbiased(self) -> bool:
        return False

    def delta(self, n):
        return max(0.0, min(1.0, self.explore / math.isqrt(n)) - ROUNDING_SLACK)

    def contracting(self):
        return dataclasses.replace(self, explore=max(1, self.explore))

    def plan(self, shapes) -> PowerSGDPlan:
        """Returns how a flat vector that consists of tensors of these static shapes, in order, is sent."""
        return PowerSGDPlan(tuple(map(tuple, shapes)), self.rank, self.explore)
