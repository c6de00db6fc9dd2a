"""Which steps need a trace of their own, and how many follow each other in one call."""

from collections.abc import Callable, Iterable
from typing import NamedTuple


class StepKind(NamedTuple):
    """What tells traces of the step apart.

    average: the direction averages its second moment over all replicas.
    exact: before compression starts.
    """

    average: bool
    exact: bool

    @property
    def alone(self) -> bool:
        """Whether such steps never share a call."""
        return self.average


def runs(step: int, num_steps: int, kind_at: Callable[[int], StepKind]) -> Iterable[tuple[int, StepKind]]:
    """Cuts the steps after `step` into runs (length, kind), of equal `kind_at(t)`; it calls for a trace of its own.

    Args:
      step: steps done before.
      num_steps: how many follow.
      kind_at: t -> kind; a run of a kind with `alone` is one step.
    """
    length, kind = 0, None
    for t in range(step + 1, step + num_steps + 1):
        now = kind_at(t)
        if length and (now != kind or now.alone):
            yield length, kind
            length = 0
        length, kind = length + 1, now
    if length:
        yield length, kind
