"""By hand, with a clock that the test sets: rates, time left, memory, and the link rate at which both ways tie."""

import math
import resource
import sys

import pytest

from dqgan_tf.telemetry.throughput import Throughput, break_even_bandwidth, format_duration, peak_memory_mib


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_rate_between_marks(clock):
    throughput = Throughput(clock=clock)
    clock.now += 10
    assert throughput.mark(50) == 5.0
    clock.now += 4
    assert throughput.mark(90) == 10.0


def test_the_first_interval_counts_only_while_there_is_no_other(clock):
    throughput = Throughput(clock=clock)
    assert throughput.remaining_seconds(100) == math.inf
    clock.now += 40  # compilation
    throughput.mark(10)
    assert throughput.remaining_seconds(100) == 90 / (10 / 40)
    clock.now += 5
    throughput.mark(20)
    assert throughput.remaining_seconds(100) == 80 / (10 / 5)
    clock.now += 15
    throughput.mark(50)  # 40 steps in 20 s since the first mark
    assert throughput.remaining_seconds(100) == 50 / (40 / 20)


def test_a_resumed_run_counts_its_own_steps(clock):
    throughput = Throughput(step=1000, clock=clock)
    clock.now += 2
    assert throughput.mark(1010) == 5.0


def test_no_step_or_no_time_is_no_rate(clock):
    throughput = Throughput(clock=clock)
    assert throughput.mark(5) == 0.0
    clock.now += 1
    assert throughput.mark(5) == 0.0


def test_nothing_is_left_at_the_end(clock):
    throughput = Throughput(clock=clock)
    clock.now += 1
    throughput.mark(100)
    assert throughput.remaining_seconds(100) == 0.0
    assert throughput.remaining_seconds(90) == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9, "0 s"),
        (42, "42 s"),
        (59.99, "59 s"),
        (60, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3600, "1 h 00 min"),
        (2 * 3600 + 7 * 60 + 59, "2 h 07 min"),
        (4 * 86400 + 3 * 3600, "4 d 03 h"),
        (-5, "0 s"),
        (math.inf, "unknown"),
        (math.nan, "unknown"),
    ],
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("platform", "raw"), [("linux", 512 * 2**10), ("darwin", 512 * 2**20)])
def test_peak_memory_is_in_mib_whatever_the_system_counts_in(monkeypatch, platform, raw):
    """getrusage(2): kilobytes on Linux, bytes on macOS."""
    usage = resource.struct_rusage([0.0, 0.0, raw] + [0] * 13)
    monkeypatch.setattr(resource, "getrusage", lambda who: usage)
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_memory_mib() == 512


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
