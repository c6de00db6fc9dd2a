"""By hand: the link rate at which compression and its absence take equally long."""

import math

import pytest

from dqgan_tf.telemetry.break_even import break_even_bandwidth


def test_break_even_by_hand():
    # 8 bit x (1,000,000 - 125,000) bytes saved over 7 ms of codec: 7e6 bit / 7e-3 s = 1e9 bit/s.
    assert break_even_bandwidth(1_000_000, 125_000, 0.007) == pytest.approx(1e9)


@pytest.mark.parametrize(("factor", "faster"), [(0.99, True), (1.01, False)])
def test_compression_wins_below_that_rate_only(factor, faster):
    rate = factor * break_even_bandwidth(4096, 512, 0.001)
    assert (0.001 + 8 * 512 / rate < 8 * 4096 / rate) == faster


def test_the_ends():
    assert break_even_bandwidth(100, 100, 0.1) == 0
    assert break_even_bandwidth(100, 200, 0.0) == 0
    assert break_even_bandwidth(100, 10, 0.0) == math.inf


@pytest.mark.parametrize("arguments", [(-1, 1, 1), (1, -1, 1), (1, 1, -1), (math.nan, 1, 1)])
def test_a_negative_quantity_is_refused(arguments):
    with pytest.raises(ValueError, match="must not be negative"):
        break_even_bandwidth(*arguments)
