"""By hand: recorded runs, and the tables and figures made from them."""

import json

import pytest

from dqgan_tf.benchmarking import report
from tests.benchmarking.test_table import EIGHT_BIT, FLOAT32

SOURCE = {"hardware": "2 cores of X", "commit": "abc", "command": "python -m trainers.benchmark --rate=1gbit"}


def recorded():
    """Two rates and loopback: 8 bits at a codec of 5.25 ms, fastest where the link is slow."""
    entries = []
    for rate, dense, compressed in (("1gbit", 40.0, 16.0), ("100mbit", 330.0, 90.0), ("loopback", 6.0, 9.0)):
        entries.append(FLOAT32 | SOURCE | {"rate": rate, "milliseconds_median": dense})
        spec = {"variant": "linear:bits=8,bucket=512", "rate": rate, "milliseconds_median": compressed}
        entries.append(EIGHT_BIT | SOURCE | spec)
    return entries


def test_the_last_of_equal_runs_counts_sorted_by_rate(tmp_path):
    path = tmp_path / "folder" / "runs.jsonl"
    report.append(path, recorded())
    again = recorded()[0] | {"milliseconds_median": 41.0}
    report.append(path, [again])
    entries = report.read(path)
    assert [(entry["rate"], entry["variant"][:6]) for entry in entries] == [
        (rate, variant) for rate in ("100mbit", "1gbit", "loopback") for variant in ("float3", "linear")
    ]
    assert entries[2]["milliseconds_median"] == 41.0


@pytest.mark.parametrize("line", ["{", "[]", json.dumps({"step": 1})])
def test_a_line_that_is_no_entry_is_named(tmp_path, line):
    path = tmp_path / "runs.jsonl"
    report.append(path, recorded())
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"Line 7 of .*runs.jsonl"):
        report.read(path)


def test_a_report_needs_an_exchange(tmp_path):
    with pytest.raises(ValueError, match="trainers.benchmark"):
        report.write([FLOAT32 | {"kind": "whole_step"}], tmp_path)


def test_tables_and_figures(tmp_path):
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed")
    text = report.write(recorded(), tmp_path / "one")
    assert (tmp_path / "one" / "tables.md").read_text() == text
    row = next(line for line in text.splitlines() if line.startswith("| linear:bits=8,bucket=512 | "))
    # 8 bit x 3,000,000 bytes saved over 5.25 ms of codec; faster at 1 Gbit/s, slower on loopback.
    assert row == "| linear:bits=8,bucket=512 | 4.57 Gbit/s | 1.00 Gbit/s |"
    assert "| linear:bits=8,bucket=512@two_step | 1.008 |" in text
    assert "2 cores of X; commit abc" in text and text.count(SOURCE["command"]) == 1
    report.write(recorded(), tmp_path / "two")
    for name in ("time_against_rate", "volume_against_workers"):
        for ending in ("svg", "png"):
            first, second = ((tmp_path / folder / f"{name}.{ending}").read_bytes() for folder in ("one", "two"))
            assert first == second
            assert len(first) > 10_000
    svg = (tmp_path / "one" / "time_against_rate.svg").read_text()
    assert svg.count("<path") > 20
