"""Link rates as text and in bits per second."""

import math
import re

LOOPBACK = "loopback"
_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_PATTERN = re.compile(rf"(\d+(?:\.\d+)?)({'|'.join(_UNITS)})")


def bits_per_second(rate: str) -> float:
    """Returns the bits per second of a rate such as `100mbit`, as tc reads it; infinity for `loopback`.

    Raises:
      ValueError: the rate is not of that form, or zero.
    """
    if rate == LOOPBACK:
        return math.inf
    match = _PATTERN.fullmatch(rate)
    if not match or not float(match[1]):
        raise ValueError(f"`rate` must be a number and one of {', '.join(_UNITS)}, like 1gbit. Received: rate={rate!r}")
    return float(match[1]) * _UNITS[match[2]]


def wire_milliseconds(sent_bytes: int, rate: str) -> float:
    """Returns the milliseconds that the bytes alone take: 8000 bytes / rate; 0 on loopback."""
    return 8e3 * sent_bytes / bits_per_second(rate)
