"""Below which link rate compression wins."""

import math


def break_even_bandwidth(dense_bytes: float, wire_bytes: float, codec_seconds: float) -> float:
    """Link rate in bits per second below which compression shortens a step.

    Uncompressed, a step's exchange takes `8 dense_bytes / B` seconds on a link of B bits per second; compressed, it
    takes `codec_seconds + 8 wire_bytes / B`. The second is smaller exactly when

        B < 8 (dense_bytes - wire_bytes) / codec_seconds.

    The latency of a collective is the same on both sides and drops out; encode and decode are taken as not overlapped
    with anything, so the true rate is at least this one.

    Args:
      dense_bytes: bytes one worker sends a step without compression, over the whole collective. The honest comparison
        is with float16 too: give half of the float32 bytes.
      wire_bytes: the same with compression.
      codec_seconds: seconds of encode plus decode a step.

    Returns:
      0 when compression saves no byte (it never wins), infinity when the codec costs nothing.

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
