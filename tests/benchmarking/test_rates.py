"""By hand: rates as tc writes them."""

import math

import pytest

from dqgan_tf.benchmarking import rates


@pytest.mark.parametrize(("text", "expected"), [("1gbit", 1e9), ("100mbit", 1e8), ("2.5gbit", 2.5e9), ("64kbit", 64e3)])
def test_a_rate_in_bits_per_second(text, expected):
    assert rates.bits_per_second(text) == expected


def test_loopback_has_no_limit():
    assert rates.bits_per_second("loopback") == math.inf
    assert rates.wire_milliseconds(10**9, "loopback") == 0.0


@pytest.mark.parametrize("text", ["1", "gbit", "1 gbit", "1Gbit", "1gbps", "-1gbit", "0mbit", "1gbit;", ""])
def test_another_text_is_refused_with_one_that_works(text):
    with pytest.raises(ValueError, match="like 1gbit") as caught:
        rates.bits_per_second(text)
    assert repr(text) in str(caught.value)


def test_wire_milliseconds():
    # 6.4 MB are 51.2 Mbit: 51.2 ms at 1 Gbit/s, ten times as long at 100 Mbit/s.
    assert rates.wire_milliseconds(6_400_000, "1gbit") == pytest.approx(51.2)
    assert rates.wire_milliseconds(6_400_000, "100mbit") == pytest.approx(512)
