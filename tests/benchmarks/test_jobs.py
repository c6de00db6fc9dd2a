"""Whole jobs in two checkouts: a launcher of ten lines stands for both. Medians and words of the table by hand."""

import argparse
import json
import pathlib
import sys

import pytest

from benchmarks import jobs
from dqgan_tf.errors import UsageError
from dqgan_tf.telemetry import json_lines

# Says where it runs and what it got; its summary has the first argument's length as a figure.
LAUNCHER = """
import json, pathlib, sys, time

folder = pathlib.Path([a for a in sys.argv if a.startswith("--model_dir=")][0].partition("=")[2])
assert "--num_workers=2" in sys.argv and "--compressor=fails" not in sys.argv, "it fails on purpose"
print("preparation, no step", flush=True)
time.sleep(0.3)
print("step 50/50", flush=True)
time.sleep(0.3)
(folder / "summary.json").write_text(
    json.dumps({"peak_memory_mib": 7.5, "weights_sha256": "PLACE", "steps": 50, "arguments": sys.argv})
)
"""


@pytest.fixture
def trees(tmp_path):
    folders = []
    for place in ("old", "new"):
        folder = tmp_path / place
        (folder / "trainers").mkdir(parents=True)
        (folder / "dqgan_tf").mkdir()
        (folder / "trainers" / "launch.py").write_text(LAUNCHER.replace("PLACE", place))
        folders.append(folder)
    return folders


def test_a_job_is_timed_to_its_first_step(trees):
    found = jobs.run_job({"flagfile": "x.flags"}, trees[0])
    assert found["peak_memory_mib"] == 7.5 and found["weights_sha256"] == "old" and found["steps"] == 50
    whole = jobs.run_job({"flagfile": "x.flags"}, trees[1])
    assert whole["weights_sha256"] == "new"
    assert 0.3 < found["start_seconds"] and found["processor_seconds"] > 0


def test_a_job_that_fails_shows_what_it_printed(trees):
    with pytest.raises(RuntimeError, match="ended with code 1(.|\n)*it fails on purpose"):
        jobs.run_job({"compressor": "fails"}, trees[0])


def test_checkouts_take_turns():
    order = list(jobs.plan(2, ["old", "new"], with_images=False))
    start = [entry for entry in order if entry[0] == "start/default job"]
    assert start == [(start[0][0], *pair) for pair in ((0, "old"), (0, "new"), (1, "new"), (1, "old"))]
    assert not [name for name, *_ in order if "DCGAN" in name]
    assert [entry[2] for entry in order if entry[0] == "weights/sign, two_step"] == ["old", "new"]
    assert {name for name, *_ in jobs.plan(1, ["old"], with_images=True)} == set(jobs.JOBS)


def test_a_table_has_medians_and_says_whether_weights_are_equal():
    def entry(job, commit, seconds, digest):
        figures = {"start_seconds": seconds, "processor_seconds": 2 * seconds, "peak_memory_mib": 8.0}
        return {"job": job, "commit": commit, "weights_sha256": digest * 64, "steps": 1000} | figures

    rows = [entry("start/a", commit, seconds, "0") for commit in ("c1", "c2") for seconds in (3.0, 1.0, 2.0)]
    rows += [entry("weights/b", "c1", 1.0, "1"), entry("weights/b", "c2", 1.0, "1")]
    rows += [entry("weights/c", "c1", 1.0, "1"), entry("weights/c", "c2", 1.0, "2")]
    lines = jobs.tables(rows).splitlines()
    assert lines[0].startswith("Medians of 3 runs")
    assert "| a | start_seconds | 2.0 (1.0 to 3.0) | 2.0 (1.0 to 3.0) |" in lines
    assert "| a | processor_seconds | 4.0 (2.0 to 6.0) | 4.0 (2.0 to 6.0) |" in lines
    assert f"| b | 1,000 | {'1' * 12} | {'1' * 12} | equal |" in lines
    assert f"| c | 1,000 | {'1' * 12} | {'2' * 12} | different |" in lines


def test_recorded_jobs_are_not_run_again(trees, tmp_path, monkeypatch, capsys):
    """The second call finds all rows of the first, and runs nothing."""
    monkeypatch.setattr(jobs, "ROOT", trees[1])
    monkeypatch.setattr(jobs, "git", lambda tree, *_: argparse.Namespace(stdout=pathlib.Path(tree).name))
    monkeypatch.setattr(jobs, "provenance", lambda *_, tree, **__: {"commit": tree.name})
    monkeypatch.setattr(jobs, "JOBS", {"weights/a": {"flagfile": "ring"}, "start/b": {"flagfile": "ring"}})
    output = tmp_path / "jobs.jsonl"
    arguments = ["--against", str(trees[0]), "--rounds", "1", "--output", str(output)]
    jobs.main(jobs.make_parser().parse_args(arguments))
    assert [(row["job"], row["commit"]) for row in json_lines.read(output)] == [
        ("weights/a", "old"),
        ("weights/a", "new"),
        ("start/b", "old"),
        ("start/b", "new"),
    ]
    before = output.read_text()
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    jobs.main(jobs.make_parser().parse_args(arguments))
    assert output.read_text() == before
    assert "| a | 50 | old | new | different |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--output", "x"],
        ["--report", "/nonexistent/jobs.jsonl"],
        ["--report", "x", "--output", "y"],
    ],
)
def test_refuses(arguments):
    with pytest.raises(UsageError, match="such as"):
        jobs.main(jobs.make_parser().parse_args(arguments))


def test_no_round_is_refused(capsys):
    with pytest.raises(SystemExit):
        jobs.make_parser().parse_args(["--rounds", "0"])
    assert "--rounds: must be a whole number of at least 1, such as 20. Received: 0" in capsys.readouterr().err


def test_the_recorded_jobs_end_with_equal_weights():
    rows = json_lines.read(pathlib.Path(jobs.__file__).parent.parent / "results/house/jobs.jsonl")
    digests = {name: {row["weights_sha256"] for row in rows if row["job"] == name} for name in jobs.JOBS}
    assert {name: len(found) for name, found in digests.items()} == dict.fromkeys(jobs.JOBS, 1)
    assert len({json.dumps(sorted(found)) for found in digests.values()}) == len(jobs.JOBS)
