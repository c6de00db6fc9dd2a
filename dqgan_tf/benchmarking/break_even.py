"""The link rate below which a compressor beats a dense all-reduce: by its codec and bytes, and by measured totals."""

import math
from collections.abc import Mapping, Sequence

from dqgan_tf.benchmarking.rates import LOOPBACK, bits_per_second
from dqgan_tf.telemetry.throughput import break_even_bandwidth


def by_codec(dense: dict, entry: dict) -> float:
    """Returns the rate in bits per second: 8 (dense bytes - bytes) / (seconds of encode and decode); see
    `telemetry.throughput.break_even_bandwidth`.

    Args:
      dense: entry of the dense all-reduce.
      entry: of the compressor, measured anywhere: its codec does not depend on the link.
    """
    codec = 1e-3 * (entry["encode_milliseconds_median"] + entry["decode_milliseconds_median"])
    return break_even_bandwidth(dense["declared_bytes"], entry["declared_bytes"], codec)


def by_totals(dense: Mapping[str, float], totals: Mapping[str, float]) -> float:
    """Returns the highest rate in bits per second at which the measured totals cross.

    Between two rates the logarithm of the totals' ratio is taken as linear in the logarithm of the rate. Loopback is
    faster than every rate but has none: for a crossing before it the highest rate is returned, a lower bound.

    Args:
      dense: milliseconds by rate.
      totals: the same of the compressor.

    Returns:
      0 if the compressor is slower everywhere, infinity if it is faster everywhere.
    """
    common = sorted(set(dense) & set(totals), key=bits_per_second)
    wins = [totals[rate] < dense[rate] for rate in common]
    if not any(wins):
        return 0.0
    if wins[-1]:
        return math.inf
    last = max(index for index, won in enumerate(wins) if won)
    below, above = common[last], common[last + 1]
    if above == LOOPBACK:
        return bits_per_second(below)
    gains = [math.log(dense[rate] / totals[rate]) for rate in (below, above)]
    share = gains[0] / (gains[0] - gains[1])
    low, high = (math.log(bits_per_second(rate)) for rate in (below, above))
    return math.exp(low + share * (high - low))


def in_words(rate: float) -> str:
    """Returns `no link`, `every link`, or the rate in Gbit/s."""
    if rate in (0.0, math.inf):
        return "every link" if rate else "no link"
    return f"{1e-9 * rate:.2f} Gbit/s"


def median_by_rate(entries: Sequence[dict], variant: str) -> dict[str, float]:
    """Returns the median milliseconds of one variant by rate."""
    return {entry["rate"]: entry["milliseconds_median"] for entry in entries if entry["variant"] == variant}
