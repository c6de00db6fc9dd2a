"""One player's tensors as one flat vector and back."""

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class FlatLayout:
    """Order and shapes of the tensors that make a flat vector.

    shapes: static shapes, in the tensors' own order.
    order: which tensor stands first in the vector, second, ...; empty for their own order.
    """

    shapes: tuple[tuple[int, ...], ...]
    order: tuple[int, ...] = ()

    @classmethod
    def of(cls, variables: Sequence, order: Sequence[int] = ()) -> "FlatLayout":
        """Returns the layout of `variables` in `order`."""
        return cls(tuple(tuple(variable.shape) for variable in variables), tuple(order))

    @property
    def size(self) -> int:
        """Length n of the flat vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    def flatten(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the concatenation of `tensors`, [n]."""
        return tf.concat([tf.reshape(tensors[index], [-1]) for index in self._places()], 0)

    def unflatten(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """Returns the tensors whose concatenation is `vector`."""
        places = self._places()
        parts = tf.split(vector, [math.prod(self.shapes[index]) for index in places])
        tensors = {index: tf.reshape(part, self.shapes[index]) for index, part in zip(places, parts, strict=True)}
        return [tensors[index] for index in range(len(self.shapes))]

    def _places(self):
        return self.order or range(len(self.shapes))
