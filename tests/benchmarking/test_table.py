"""By hand: what the tables say of made-up entries."""

from dqgan_tf.benchmarking.table import table

FLOAT32 = {
    "kind": "exchange",
    "rate": "1gbit",
    "workers": 2,
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
    header, _, dense, compressed = rows(table([FLOAT32, EIGHT_BIT]))
    # 4 MB at 1 Gbit/s are 32 ms, 1 MB are 8 ms.
    assert dict(zip(header, dense, strict=True)) == {
        "link": "1gbit",
        "workers": "2",
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
    for change in ({"rate": "100mbit"}, {"workers": 4}, {"values": 10}):
        _, _, _, compressed = rows(table([FLOAT32 | change, EIGHT_BIT]))
        assert compressed[-2] == ""


def test_loopback_has_no_wire_time():
    _, _, row = rows(table([FLOAT32 | {"rate": "loopback"}]))
    assert row[8:10] == ["", ""]


def test_a_whole_step_is_held_against_the_larger_of_compute_and_wire():
    step = EIGHT_BIT | {"kind": "whole_step", "batch_size": 8, "compute_milliseconds_median": 4.0}
    _, _, wire_bound, compute_bound = rows(
        table([step | {"alone_milliseconds_median": 5.0}, step | {"alone_milliseconds_median": 12.8}])
    )
    assert wire_bound[4:8] == ["4.0", "2.0", "11.0", "3.2"]
    assert wire_bound[-3:] == ["5.0", "8.0", "2.00"]
    assert compute_bound[-3:] == ["12.8", "8.0", "1.25"]


def test_each_kind_has_its_table():
    step = EIGHT_BIT | {"kind": "whole_step", "batch_size": 8, "alone_milliseconds_median": 5.0}
    first, second = table([step, FLOAT32]).split("\n\n")
    assert "float32 takes" in first and "alone" in second
