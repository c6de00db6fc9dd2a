"""Several tensors as one flat vector and back."""

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf


def flatten(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the concatenation of `tensors`, [n]."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)


@dataclasses.dataclass(frozen=True)
class FlatLayout:
    """Shapes of the tensors that make a flat vector, in order."""

    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, variables: Sequence) -> "FlatLayout":
        """Returns the layout of `variables`."""
        return cls(tuple(tuple(variable.shape) for variable in variables))

    @property
    def size(self) -> int:
        """Length n of the flat vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    def unflatten(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """Returns the tensors whose concatenation is `vector`."""
        parts = tf.split(vector, [math.prod(shape) for shape in self.shapes])
        return [tf.reshape(part, shape) for part, shape in zip(parts, self.shapes, strict=True)]
