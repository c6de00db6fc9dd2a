"""Description of a data set, and the error for data sets that cannot be used."""

import dataclasses
import json

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
    name: value of `DataConfig.dataset`.
    modes: float32 [num_modes, 2], the means of a mixture. None for images.
    standard_deviation: standard deviation of each mode along each axis. None for images.
    high_quality_radius: a sample within this distance of a mode counts as high quality. None for images.
    num_classes: number of classes of a conditional run, else None.
    dealing: version of the rule by which `--shards=dirichlet:ALPHA` deals images; 1 wrote no version.
    """

    kind: str
    shape: tuple[int, ...]
    num_examples: int | None
    name: str
    modes: np.ndarray | None = None
    standard_deviation: float | None = None
    high_quality_radius: float | None = None
    num_classes: int | None = None
    dealing: int = 2

    def to_json(self) -> str:
        """Returns the description as JSON; a run saves it as data.json, so that drawing samples needs no data."""
        values = dataclasses.asdict(self)
        return json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "DataSpec":
        """Inverse of `to_json`.

        Raises:
          ValueError, TypeError, KeyError: the text is another one.
        """
        values = {"dealing": 1} | json.loads(text)
        modes = values.get("modes")
        values["modes"] = None if modes is None else np.asarray(modes, np.float32)
        return cls(**values | {"shape": tuple(values["shape"])})
