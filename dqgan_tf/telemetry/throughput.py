"""Steps per second, time left, peak memory."""

import math
import resource
import sys
import time
from collections.abc import Callable


class Throughput:
    """Steps per second between two marks, and the time left.

    The first interval holds tracing and compilation: the time left is taken from the mean rate since the first mark,
    and from the first interval only while there is no other.

    Args:
      step: steps already done (of a resumed run).
      clock: seconds, monotonic; replaced in tests.
    """

    def __init__(self, step: int = 0, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._start = self._last = (step, clock())
        self._marks = 0

    def mark(self, step: int) -> float:
        """Returns the steps per second since the previous mark, 0 when no step or no time has passed."""
        previous, self._last = self._last, (step, self._clock())
        if self._marks == 1:
            self._start = previous
        self._marks += 1
        return _rate(previous, self._last)

    def remaining_seconds(self, total_steps: int) -> float:
        """Returns the seconds until `total_steps`; 0 when they are done, infinite when no rate is known yet."""
        left = max(0, total_steps - self._last[0])
        rate = _rate(self._start, self._last)
        if not left:
            return 0.0
        return left / rate if rate else math.inf


def format_duration(seconds: float) -> str:
    """Returns `42 s`, `3 min 05 s`, `2 h 07 min`, `4 d 03 h`, or `unknown` when not finite; rounded down."""
    if not math.isfinite(seconds):
        return "unknown"
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days} d {hours_left:02d} h"
    if hours:
        return f"{hours} h {minutes_left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def peak_memory_mib() -> float:
    """Returns the largest resident memory that this process ever had, in MiB (2**20 bytes), without its children."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # getrusage(2): kilobytes on Linux, bytes on macOS.
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _rate(start, end):
    steps, seconds = end[0] - start[0], end[1] - start[1]
    return steps / seconds if steps > 0 and seconds > 0 else 0.0
