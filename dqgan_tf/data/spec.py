"""Description of a data set, and the error for data sets that cannot be used."""

import dataclasses

import numpy as np

from dqgan_tf.errors import UsageError


class DatasetError(UsageError):
    """A data set is unknown, not prepared, damaged, unsuitable or too large."""


@dataclasses.dataclass(frozen=True, eq=False)
class DataSpec:
    """Shape and size of a data set.

    kind: `points` or `images`.
    shape: shape of one sample: (2,) for points, (height, width, channels) for images.
    num_examples: number of samples in the split, or None if samples are drawn anew.
    name: as in `DataConfig.dataset`.
    modes: float32 [num_modes, 2], the means of a mixture. None for images.
    standard_deviation: standard deviation of each mode along each axis. None for images.
    high_quality_radius: a sample within this distance of a mode counts as high quality. None for images.
    """

    kind: str
    shape: tuple[int, ...]
    num_examples: int | None
    name: str
    modes: np.ndarray | None = None
    standard_deviation: float | None = None
    high_quality_radius: float | None = None
