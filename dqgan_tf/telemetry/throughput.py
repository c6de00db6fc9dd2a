"""Speed of a run: steps per second, time left, peak memory, and the link rate below which compression pays."""

import math
import resource
import sys
import time
from collections.abc import Callable


class Throughput:
    """Steps per second between two marks, and the time left.

    The first interval contains tracing and compilation. The estimate of the time left therefore uses the mean rate
    since the first mark, and the first interval only while there is no other.

    Args:
      step: steps already done (by a run that is resumed).
      clock: returns seconds, monotonic. Tests replace it.
    """

    def __init__(self, step: int = 0, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._start = self._last = (step, clock())
        self._marks = 0

    def mark(self, step: int) -> float:
        """Returns the steps per second since the previous mark, or 0 if no step or no time has passed."""
        previous, self._last = self._last, (step, self._clock())
        if self._marks == 1:
            self._start = previous
        self._marks += 1
        return _rate(previous, self._last)

    def remaining_seconds(self, total_steps: int) -> float:
        """Returns the seconds until `total_steps`: 0 when they are done, infinity while no rate is known."""
        left = max(0, total_steps - self._last[0])
        rate = _rate(self._start, self._last)
        if not left:
            return 0.0
        return left / rate if rate else math.inf


def _rate(start, end):
    steps, seconds = end[0] - start[0], end[1] - start[1]
    return steps / seconds if steps > 0 and seconds > 0 else 0.0


def format_duration(seconds: float) -> str:
    """Returns `42 s`, `3 min 05 s`, `2 h 07 min`, `4 d 03 h`, rounded down, or `unknown` if not finite."""
    if not math.isfinite(seconds):
        return "unknown"
    minutes, seconds_left = divmod(max(0, int(seconds)), 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days} d {hours_left:02d} h"
    if hours:
        return f"{hours} h {minutes_left:02d} min"
    return f"{minutes} min {seconds_left:02d} s" if minutes else f"{seconds_left} s"


def peak_memory_mib() -> float:
    """Returns the largest resident memory that this process ever had, in MiB (2^20 bytes), without its children."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # getrusage(2): bytes on macOS, KiB on Linux


def break_even_bandwidth(dense_bytes: float, wire_bytes: float, codec_seconds: float) -> float:
    """Returns the link rate, in bits per second, below which compression shortens a step.

    Without compression the exchange of one step takes `8 dense_bytes / B` seconds on a link of B bits per second. With
    compression it takes `codec_seconds + 8 wire_bytes / B`. The second is smaller exactly when

        B < 8 (dense_bytes - wire_bytes) / codec_seconds.

    The latency of a collective is the same on both sides and cancels. The formula takes the codec as not overlapped
    with anything else, so the true rate is at least this one.

    Args:
      dense_bytes: bytes that one worker sends per step without compression, over the whole collective. To compare with
        float16, pass half of the float32 bytes.
      wire_bytes: the same with compression.
      codec_seconds: seconds of encoding plus decoding per step.

    Returns:
      0 if compression saves no byte (it never pays), infinity if the codec takes no time.

    Raises:
      ValueError: an argument is negative or not a number.
    """
    arguments = {"dense_bytes": dense_bytes, "wire_bytes": wire_bytes, "codec_seconds": codec_seconds}
    for name, value in arguments.items():
        if not value >= 0:
            raise ValueError(f"`{name}` must not be negative. Received: {name}={value}")
    saved_bits = 8.0 * (dense_bytes - wire_bytes)
    if saved_bits <= 0:
        return 0.0
    return saved_bits / codec_seconds if codec_seconds else math.inf
