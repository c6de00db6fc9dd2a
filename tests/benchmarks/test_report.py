"""By hand: what the tables say of made-up rows, rates of break-even, recorded files, and a profile as a table."""

import json
import math
import sys

import pytest

from benchmarks import report
from dqgan_tf.errors import UsageError
from dqgan_tf.private_tensorflow import XSpace
from tests.distributed import cluster

FLOAT32 = {
    "step": 20,
    "kind": "exchange",
    "rate": "1gbit",
    "workers": 2,
    "threads": 1,
    "tree": "",
    "values": 1_000_000,
    "variant": "float32",
    "milliseconds_median": 40.0,
    "milliseconds_minimum": 36.0,
    "declared_bytes": 4_000_000,
    "interface_bytes": 4_040_000,
}
PHASES = {"encode_milliseconds_median": 2.0, "exchange_milliseconds_median": 11.0, "decode_milliseconds_median": 3.25}
EIGHT_BIT = FLOAT32 | PHASES
EIGHT_BIT |= {"variant": "linear", "milliseconds_median": 16.0, "milliseconds_minimum": 15.0}
EIGHT_BIT |= {"declared_bytes": 1_000_000, "interface_bytes": 1_010_000}


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_an_exchange():
    header, _, dense, compressed = rows(report.table([FLOAT32, EIGHT_BIT]))
    # 4 MB at 1 Gbit/s are 32 ms, 1 MB are 8 ms.
    assert dict(zip(header, dense, strict=True)) == {
        "link": "1gbit",
        "workers": "2",
        "threads": "1",
        "variant": "float32",
        "ms, median / min": "40.0 / 36.0",
        "encode": "",
        "exchange": "",
        "decode": "",
        "MB sent, declared / measured": "4.000 / 4.040",
        "wire": "32.0",
        "ms / wire": "1.25",
        "float32 takes": "1.00x",
        "float16 takes": "",
    }
    expected = [
        "1gbit",
        "2",
        "1",
        "linear",
        "16.0 / 15.0",
        "2.0",
        "11.0",
        "3.2",
        "1.000 / 1.010",
        "8.0",
        "2.00",
        "2.50x",
        "",
    ]
    assert compressed == expected


def test_only_entries_of_the_same_link_workers_and_size_are_held_against_each_other():
    for change in ({"rate": "100mbit"}, {"workers": 4}, {"threads": 2}, {"values": 10}, {"tree": "HEAD~1"}):
        _, _, _, compressed = rows(report.table([FLOAT32 | change, EIGHT_BIT]))
        assert compressed[-2] == ""


def test_loopback_has_no_wire_time():
    _, _, row = rows(report.table([FLOAT32 | {"rate": "loopback"}]))
    assert row[9:11] == ["", ""]


def test_a_whole_step_is_held_against_the_larger_of_compute_and_wire():
    step = EIGHT_BIT | {"kind": "whole_step", "batch_size": 8, "compute_milliseconds_median": 4.0}
    _, _, wire_bound, compute_bound = rows(
        report.table([step | {"alone_milliseconds_median": 5.0}, step | {"alone_milliseconds_median": 12.8}])
    )
    assert wire_bound[5:9] == ["4.0", "2.0", "11.0", "3.2"]
    assert wire_bound[-3:] == ["5.0", "8.0", "2.00"]
    assert compute_bound[-3:] == ["12.8", "8.0", "1.25"]


def test_each_kind_has_its_table():
    step = EIGHT_BIT | {"kind": "whole_step", "batch_size": 8, "alone_milliseconds_median": 5.0}
    first, second = report.table([step, FLOAT32]).split("\n\n")
    assert "float32 takes" in first and "alone" in second


def test_ratios_are_medians_and_quartiles():
    step = EIGHT_BIT | {"kind": "whole_step", "plain_milliseconds_median": 15.2, "plain_ratio": [1.04, 1.051, 1.066]}
    header, _, row = rows(report.table([step | {"against_ratio": [0.9, 1.0, 1.2]}]))
    cells = dict(zip(header, row, strict=True))
    assert cells["plain"] == "15.2" and cells["ms / plain"] == "1.05 (1.04 to 1.07)"
    assert cells["ms / other checkout"] == "1.00 (0.90 to 1.20)"
    assert "alone" not in cells  # one worker


def test_the_codec_is_held_against_a_copy_and_the_fewest_threads():
    spent = {"encode_milliseconds_median": 10.0, "decode_milliseconds_median": 4.0}
    one = FLOAT32 | {"kind": "codec", "rate": "loopback", "workers": 1}
    entries = [one | {"variant": "copy", "milliseconds_median": 5.0}, one | {"variant": "sign"} | spent]
    entries += [entry | {"threads": 2} for entry in entries]
    entries[-1] |= {"encode_milliseconds_median": 5.5}
    header, _, *cells = rows(report.table(entries))
    copy, sign, _, sign_of_two = (dict(zip(header, row, strict=True)) for row in cells)
    assert (copy["encode"], copy["encode, of copy's speed"]) == ("", "")
    assert (sign["encode"], sign["encode, of copy's speed"], sign["decode, of copy's speed"]) == ("10.0", "50%", "125%")
    assert sign["encode, gain by threads"] == "" and sign_of_two["encode, gain by threads"] == "1.82x of 1"


def test_another_checkout_is_named():
    header, _, row = rows(report.table([FLOAT32 | {"tree": "HEAD~1"}]))
    assert dict(zip(header, row, strict=True))["variant"] == "float32 (HEAD~1)"


def test_break_even_by_codec():
    dense = {"declared_bytes": 1_000_000}
    entry = {"declared_bytes": 125_000, "encode_milliseconds_median": 5.0, "decode_milliseconds_median": 2.0}
    # 8 bit x 875,000 bytes saved over 7 ms: 1e9 bit/s.
    assert report.break_even_by_codec(dense, entry) == pytest.approx(1e9)


def test_totals_cross_between_two_rates():
    # ln(dense / compressed) is ln 2 at 100 Mbit/s and -ln 2 at 10 Gbit/s: zero half-way in the logarithm, at 1 Gbit/s.
    dense = {"100mbit": 200.0, "10gbit": 10.0}
    totals = {"100mbit": 100.0, "10gbit": 20.0}
    assert report.break_even_by_totals(dense, totals) == pytest.approx(1e9)
    # With ln 8 against -ln 2 three quarters of the way are won: 10^(8 + 1.5).
    assert report.break_even_by_totals(dense | {"100mbit": 800.0}, totals) == pytest.approx(10**9.5)


def test_faster_or_slower_everywhere():
    fast, slow = {"1gbit": 1.0, "loopback": 1.0}, {"1gbit": 2.0, "loopback": 2.0}
    assert report.break_even_by_totals(slow, fast) == math.inf
    assert report.break_even_by_totals(fast, slow) == 0.0
    assert report.break_even_by_totals({}, fast) == 0.0


def test_a_crossing_before_loopback_is_reported_as_the_highest_rate():
    dense = {"1gbit": 2.0, "10gbit": 2.0, "loopback": 1.0}
    assert report.break_even_by_totals(dense, {"1gbit": 1.0, "10gbit": 1.0, "loopback": 2.0}) == 1e10


def test_only_rates_measured_for_both_count():
    dense = {"1gbit": 2.0, "10gbit": 1.0}
    assert report.break_even_by_totals(dense, {"1gbit": 1.0, "100mbit": 9.0}) == math.inf


def test_a_rate_in_words():
    assert [report.rate_in_words(rate) for rate in (0.0, math.inf, 2.346e9)] == ["no link", "every link", "2.35 Gbit/s"]


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


def test_another_checkout_counts_apart(tmp_path):
    report.append(tmp_path / "runs.jsonl", [FLOAT32, FLOAT32 | {"tree": "HEAD~1"}])
    assert [report.label(entry) for entry in report.read(tmp_path / "runs.jsonl")] == ["float32", "float32 (HEAD~1)"]


@pytest.mark.parametrize("line", ["{", "[]", json.dumps({"step": 1})])
def test_a_line_that_is_no_entry_is_named(tmp_path, line):
    path = tmp_path / "runs.jsonl"
    path.write_text(line + "\n")
    report.append(path, recorded())
    with pytest.raises(ValueError, match=r"Line 1 of .*runs.jsonl"):
        report.read(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="--report must name a file .* Received: .*nothing.jsonl"):
        report.read(tmp_path / "nothing.jsonl")


def test_a_report_needs_an_exchange(tmp_path):
    with pytest.raises(UsageError, match="trainers.benchmark"):
        report.write([FLOAT32 | {"kind": "whole_step"}], tmp_path)


def test_the_summary_holds_break_even_volume_and_sources():
    text = report.summary(recorded())
    row = next(line for line in text.splitlines() if line.startswith("| linear:bits=8,bucket=512 | "))
    # 8 bit x 3,000,000 bytes saved over 5.25 ms of codec; faster at 1 Gbit/s, slower on loopback.
    assert row == "| linear:bits=8,bucket=512 | 4.57 Gbit/s | 1.00 Gbit/s |"
    assert "| linear:bits=8,bucket=512@two_step | 1.008 |" in text
    assert "2 cores of X; commit abc" in text and text.count(SOURCE["command"]) == 1


def test_tables_md_holds_what_is_recorded():
    results = cluster.ROOT / "results" / "exchange"
    assert report.summary(report.read(results / "runs.jsonl")) == (results / "tables.md").read_text()


def test_figures_have_equal_bytes_for_equal_runs(tmp_path):
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed")
    text = report.write(recorded(), tmp_path / "one")
    assert (tmp_path / "one" / "tables.md").read_text() == text == report.summary(recorded())
    report.write(recorded(), tmp_path / "two")
    for name in ("time_against_rate", "volume_against_workers"):
        for ending in ("svg", "png"):
            first, second = ((tmp_path / folder / f"{name}.{ending}").read_bytes() for folder in ("one", "two"))
            assert first == second
            assert len(first) > 10_000
    svg = (tmp_path / "one" / "time_against_rate.svg").read_text()
    assert svg.count("<path") > 20


def test_figures_say_that_they_need_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="benchmark"):
        report.write(recorded(), tmp_path)


MS = 10**9  # picoseconds


@pytest.fixture
def profiles(tmp_path):
    """Two threads; the second one's clock begins 2 ms later."""
    space = XSpace()
    plane = space.planes.add(name="/host:CPU")
    names = [
        "run_steps",
        "CpuExecutable::ExecuteAsyncOnStream",
        "PyFunc_1:PyFunc",
        "Mul:Mul",
        "ExecutorState::Process",
        "EagerLocalExecute: f",
    ]
    for number, name in enumerate(names, 1):
        plane.event_metadata[number].id, plane.event_metadata[number].name = number, name
    first = plane.lines.add(timestamp_ns=5 * 10**6)
    second = plane.lines.add(timestamp_ns=7 * 10**6)
    for line, number, start, lasted in [
        (first, 1, 0, 20),
        (first, 5, 1, 9),
        (first, 6, 1, 9),
        (second, 3, 4, 6),
        (second, 4, 1, 0.2),
        (first, 2, 1.5, 2),
    ]:
        line.events.add(metadata_id=number, offset_ps=int(start * MS), duration_ps=int(lasted * MS))
    path = tmp_path / "sign" / "plugins" / "vm.xplane.pb"
    path.parent.mkdir(parents=True)
    path.write_bytes(space.SerializeToString())
    return tmp_path


def test_operations_in_order_since_the_beginning(profiles):
    (path,) = profiles.rglob("*.xplane.pb")
    assert report.events(path) == [(1.5, 3.5, "compiled by XLA"), (6.0, 12.0, "PyFunc_1:PyFunc")]


def test_a_table_for_every_profile(profiles):
    text = report.timeline(profiles)
    assert "## sign\n" in text and "| 6.0 | 12.0 | 6.0 | PyFunc_1:PyFunc |" in text


def test_no_profile_is_an_error_that_says_how_to_make_one(tmp_path):
    with pytest.raises(UsageError, match="trainers.benchmark --profile"):
        report.timeline(tmp_path)
