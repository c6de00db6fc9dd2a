"""System: what the user reads when something is not as it should be; the slow tests run the whole benchmark."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from dqgan_tf.benchmarking import command, timeline, variants
from tests.distributed import cluster


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("`rate` must be"), "ERROR: `rate` must be\n"),
        (PermissionError("needs root"), "ERROR: needs root\n"),
        (
            subprocess.CalledProcessError(2, ["tc", "-n", "x"], stderr="no\nqdisc\n"),
            "ERROR: tc -n x failed: no qdisc\n",
        ),
    ],
)
def test_an_error_is_one_line_and_code_2(error, line, capsys):
    with pytest.raises(SystemExit) as caught, command.errors_in_one_line():
        raise error
    assert caught.value.code == 2
    assert capsys.readouterr().err == line


def test_sigterm_unwinds_so_that_namespaces_and_workers_end():
    before, unwound = signal.getsignal(signal.SIGTERM), False
    with pytest.raises(SystemExit) as left, command.errors_in_one_line():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            unwound = True
    assert unwound and left.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_default_plan_is_all_variants_and_pytorch_where_it_is(monkeypatch):
    monkeypatch.setattr(command.torch_baselines, "available", lambda: ("torch_float32",))
    assert command.plan(None, 2, 3, "1gbit", whole_step=False).names == (*variants.DEFAULT, "torch_float32")
    assert command.plan(None, 2, 3, "1gbit", whole_step=True).names == variants.DEFAULT


def test_a_variant_given_twice_is_measured_once():
    assert command.plan(["sign", "float32", "sign"], 2, 3, "1gbit", whole_step=False).names == ("sign", "float32")


def test_a_rate_is_refused_before_workers_start():
    with pytest.raises(ValueError, match="like 1gbit"):
        command.plan(None, 2, 3, "1gb", whole_step=False)


def benchmark(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "trainers.benchmark", *arguments],
        cwd=cluster.ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_exchanges_are_measured_recorded_and_reported(tmp_path):
    runs = tmp_path / "runs.jsonl"
    names = ["float32", "sign:bucket=512", "linear:bits=8,bucket=512@two_step"]
    shown = benchmark("--values=100000", "--rounds=2", f"--output={runs}", *(f"--variant={name}" for name in names))
    entries = [json.loads(line) for line in runs.read_text().splitlines()]
    assert [entry["variant"] for entry in entries] == names
    assert all(f"| {name} |" in shown for name in names)
    for entry in entries:
        assert (entry["kind"], entry["rate"], entry["workers"], entry["rounds"]) == ("exchange", "loopback", 2, 2)
        assert 0 < entry["milliseconds_minimum"] <= entry["milliseconds_median"]
        # Headers, acknowledgements and the heartbeats of the cluster come on top of what is declared.
        assert entry["declared_bytes"] < entry["interface_bytes"] < entry["declared_bytes"] + 20_000
        assert "--values=100000" in entry["command"]
    assert entries[1]["topology"] == "all_gather" and entries[2]["topology"] == "two_step"
    phases = [f"{phase}_milliseconds_median" for phase in ("encode", "exchange", "decode")]
    assert 0 < sum(entries[1][phase] for phase in phases)
    assert not any(phase in entries[0] for phase in phases)
    assert benchmark(f"--report={runs}").count("| loopback |") == 3


@pytest.mark.slow
def test_whole_steps_are_measured(tmp_path):
    runs = tmp_path / "runs.jsonl"
    arguments = ("--whole_step", "--width=4", "--batch_size=2", "--rounds=1", "--variant=sign:bucket=512")
    shown = benchmark(*arguments, f"--output={runs}", f"--profile={tmp_path / 'profile'}")
    [profile] = (tmp_path / "profile").rglob("*.xplane.pb")  # of worker 0
    assert {"compiled by XLA", "PyFunc:PyFunc"} & {event.name for event in timeline.events(profile)}
    [entry] = [json.loads(line) for line in runs.read_text().splitlines()]
    assert (entry["kind"], entry["batch_size"], entry["variant"]) == ("whole_step", 2, "sign:bucket=512")
    assert 0 < entry["alone_milliseconds_median"]
    assert 0 < entry["compute_milliseconds_median"] < entry["milliseconds_median"]
    assert "ms / bound" in shown
