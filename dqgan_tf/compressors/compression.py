"""What every spec stands for: parameters with a canonical text, and a bound on what is lost."""

import abc
import dataclasses
from typing import ClassVar


class Compression(abc.ABC):
    """A frozen dataclass of its parameters: equal by value, hashable.

    `Compressor` maps one vector to a payload; `PowerSGD` needs the workers' means half way and is no `Compressor`.

    A compression is delta-approximate, 0 < delta <= 1, when for every x (in expectation when it is random)

        || decode(encode(x)) - x ||^2 <= (1 - delta) ||x||^2        Karimireddy et al. 2019, arXiv 1901.09847.
    """

    name: ClassVar[str]

    @property
    def spec(self) -> str:
        """Canonical text: `get(compression.spec) == compression`."""
        parameters = [f"{field.name}={getattr(self, field.name)}" for field in self.parameters()]
        return ":".join([self.name, ",".join(parameters)]) if parameters else self.name

    @classmethod
    def parameters(cls) -> list[dataclasses.Field]:
        """Returns the fields that a spec may set: numbers and words that are given at construction."""
        return [field for field in dataclasses.fields(cls) if field.init and field.type in (int, float, str)]

    @property
    @abc.abstractmethod
    def unbiased(self) -> bool:
        """Whether E[decode(encode(x))] = x."""

    @abc.abstractmethod
    def delta(self, n: int) -> float:
        """Returns a proven lower bound of delta for vectors of n values; 0.0 when none is proven."""

    def contracting(self) -> "Compression":
        """Returns the nearest relative that proves a contraction where this one may not; itself if it knows none."""
        return self
