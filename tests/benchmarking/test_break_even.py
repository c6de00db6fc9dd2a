"""By hand: rates at which two ways of exchanging take equally long."""

import math

import pytest

from dqgan_tf.benchmarking import break_even


def test_by_codec():
    dense = {"declared_bytes": 1_000_000}
    entry = {"declared_bytes": 125_000, "encode_milliseconds_median": 5.0, "decode_milliseconds_median": 2.0}
    # 8 bit x 875,000 bytes saved over 7 ms: 1e9 bit/s.
    assert break_even.by_codec(dense, entry) == pytest.approx(1e9)


def test_totals_cross_between_two_rates():
    # ln(dense / compressed) is ln 2 at 100 Mbit/s and -ln 2 at 10 Gbit/s: zero half-way in the logarithm, at 1 Gbit/s.
    dense = {"100mbit": 200.0, "10gbit": 10.0}
    totals = {"100mbit": 100.0, "10gbit": 20.0}
    assert break_even.by_totals(dense, totals) == pytest.approx(1e9)
    # With ln 8 against -ln 2 three quarters of the way are won: 10^(8 + 1.5).
    assert break_even.by_totals(dense | {"100mbit": 800.0}, totals) == pytest.approx(10**9.5)


def test_faster_or_slower_everywhere():
    fast, slow = {"1gbit": 1.0, "loopback": 1.0}, {"1gbit": 2.0, "loopback": 2.0}
    assert break_even.by_totals(slow, fast) == math.inf
    assert break_even.by_totals(fast, slow) == 0.0
    assert break_even.by_totals({}, fast) == 0.0


def test_a_crossing_before_loopback_is_told_as_the_highest_rate():
    dense = {"1gbit": 2.0, "10gbit": 2.0, "loopback": 1.0}
    assert break_even.by_totals(dense, {"1gbit": 1.0, "10gbit": 1.0, "loopback": 2.0}) == 1e10


def test_only_rates_measured_for_both_count():
    dense = {"1gbit": 2.0, "10gbit": 1.0}
    assert break_even.by_totals(dense, {"1gbit": 1.0, "100mbit": 9.0}) == math.inf


def test_in_words():
    assert [break_even.in_words(rate) for rate in (0.0, math.inf, 2.346e9)] == ["no link", "every link", "2.35 Gbit/s"]
