"""System: what is measured over slow links, the table by hand, and the small form as a whole job (slow)."""

import os
import shutil
import subprocess
import sys

import pytest

from benchmarks import links
from dqgan_tf.config import CompressionConfig
from dqgan_tf.telemetry import json_lines
from tests.distributed import cluster


def links_program(*arguments):
    command = [sys.executable, "-m", "benchmarks.links", *arguments]
    return subprocess.run(command, cwd=cluster.ROOT, capture_output=True, text=True, timeout=800)


def test_every_variant_has_settings_that_the_library_takes():
    for name in (*links.VARIANTS, "alone", "alone/K=8", "alone/K=32"):
        settings = links.described(name)
        known = {key: settings[key] for key in ("error_feedback", "topology", "packet_mb", "transport", "local_steps")}
        CompressionConfig(compressor=settings["spec"], **known)
    assert links.references(links.VARIANTS) == ["alone", "alone/K=8", "alone/K=32", "plain"]
    steps = {name: links.described(name)["local_steps"] for name in links.VARIANTS}
    assert steps["sign:bucket=512@auto@4/K=8"] == 8 and steps["sign:bucket=512@auto@4"] == 1
    assert links.described("alone/K=8")["spec"] == "none" and links.described("plain") == {"name": "plain"}


def row(name, samples, alone, **fields):
    common = {"width": 4, "batch_size": 2, "rate": "20mbit", "repeat": 0, "workers": 2, "values": 1000, "step": 2}
    common |= {"hardware": "2 cores", "commit": "abc", "command": "python -m benchmarks.links --output=x"}
    common |= {"declared_bytes": 0, "interface_bytes": 0, "variant": name, "samples": samples, "alone_samples": alone}
    return common | fields


def test_the_table_by_hand():
    sign = "sign:bucket=512@auto@4/K=8"
    rows = [
        row("alone", [100.0, 200.0], [100.0, 200.0]),
        # Ratios 1.1, 1.2 and in the second repeat 1.3: median 1.2, quartiles 1.15 and 1.25; median time 130.
        row(sign, [110.0, 240.0], [100.0, 200.0], declared_bytes=5000.0, interface_bytes=5300),
        row(sign, [130.0], [100.0], declared_bytes=5000.0, interface_bytes=5500, repeat=1, command="links --repeats=2"),
    ]
    text = links.table(rows)
    lines = text[text.index("| link |") :].splitlines()
    assert lines[2] == "| 20mbit | alone | 6.67 | 150.0 / 100.0 | 1.00 (1.00 to 1.00) |  |  |  |"
    # Two workers in 1.2 of the time: 1.67 times the samples of one. 5000 bytes at 20 Mbit/s: 40,000 / 20e6 s = 2 ms.
    assert lines[3] == f"| 20mbit | {sign} | 7.69 | 130.0 / 110.0 | 1.20 (1.15 to 1.25) | 1.67 | 5.0 / 5.4 | 2.0 |"
    four = links.table([*rows, row(sign, [250.0], [100.0], workers=4, declared_bytes=5000.0)]).splitlines()
    assert "4 workers" in four[-1] and "| 2.50 (2.50 to 2.50) | 1.60 |" in four[-3]
    assert "width 4" in lines[-1] and "1,000 values" in lines[-1] and "repeats: 2, each of 2 rounds" in lines[-1]
    assert lines[-1].endswith("`links --repeats=2`"), "the run that the file lacked the second repeat for"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "such as --output=results/local/links.jsonl"),
        (["--report=nothing.jsonl"], "--report must name a file"),
        (["--output=x", "--rates=20mb"], "like 1gbit"),
        (["--output=x", "--rounds=0"], "of at least 1, such as 20. Received: 0"),
        (["--output=x", "--workers=1,2"], "from 2, such as 2,4. Received: 1,2"),
    ],
)
@pytest.mark.slow
def test_a_bad_flag_is_refused_in_one_line(arguments, words):
    done = links_program(*arguments)
    assert done.returncode == 2 and words in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("tc") is None, reason="a rate needs root and iproute2")
@pytest.mark.timeout(900)  # four processes of TensorFlow compile six models with a thread each
def test_the_small_form_measures_every_variant_once(tmp_path):
    path = tmp_path / "links.jsonl"
    done = links_program(f"--output={path}", "--small")
    assert done.returncode == 0, done.stderr[-4000:]
    rows = {entry["variant"]: entry for entry in json_lines.read(path)}
    assert set(rows) == {*links.SMALL.names, "alone", "alone/K=8", "plain"}
    for name, entry in rows.items():
        assert len(entry["samples"]) == len(entry["alone_samples"]) == 2 and min(entry["samples"]) > 0
        assert entry["rate"] == "100mbit" and {"commit", "hardware", "versions"} <= entry.keys()
        if name not in links.SMALL.names:
            assert entry["declared_bytes"] == entry["interface_bytes"] == 0
        else:  # once a call: headers, heartbeats of the cluster, and the metrics, whose spread samples the residuals
            above = entry["steps_per_call"] * (entry["interface_bytes"] - entry["declared_bytes"])
            assert 0 < above < 20_000 + 0.1 * entry["steps_per_call"] * entry["declared_bytes"]
    sign, rounds = rows["sign:bucket=512@auto@4"], rows["sign:bucket=512@auto@4/K=8"]
    assert rounds["declared_bytes"] == sign["declared_bytes"] / 8 and sign["declared_bytes"] < 1e4
    assert rounds["alone_samples"] == rows["alone/K=8"]["samples"] != rows["alone"]["samples"] == sign["alone_samples"]
    again = links_program(f"--output={path}", "--small")
    assert "in " in again.stderr and len(json_lines.read(path)) == len(rows)
    shown = links_program(f"--report={path}").stdout
    assert all(f"| {name} |" in shown for name in rows)
