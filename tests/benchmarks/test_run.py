"""System: what is measured by default, what is refused and how; the slow tests run the whole benchmark."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import report, run, variants
from dqgan_tf.errors import UsageError
from tests.distributed import cluster


def benchmark(*arguments, code=0):
    command = [sys.executable, "-m", "trainers.benchmark", *arguments]
    done = subprocess.run(command, cwd=cluster.ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == code, done.stderr[-4000:]
    return done.stderr if code else done.stdout


def test_the_default_variants(monkeypatch):
    monkeypatch.setattr(run.torch_baselines, "available", lambda: ("torch_float32",))
    assert run.make_plan(run.EXCHANGE, None, num_workers=2).names == (*variants.EXCHANGE, "torch_float32")
    assert run.make_plan(run.WHOLE_STEP, None, num_workers=2).names == ("float32", *variants.WHOLE_STEP)
    assert run.make_plan(run.WHOLE_STEP, None, num_workers=1).names == variants.WHOLE_STEP
    assert run.make_plan(run.CODEC, None, num_workers=1).names == ("copy", *variants.CODEC)


def test_a_variant_given_twice_is_measured_once():
    assert run.make_plan(run.EXCHANGE, ["sign", "float32", "sign"], num_workers=2).names == ("sign", "float32")


def test_an_exchange_needs_two_workers():
    with pytest.raises(UsageError, match="--num_workers=2"):
        run.make_plan(run.EXCHANGE, None, num_workers=1)


@pytest.mark.parametrize("measure", [run.whole_step, run.codec])
def test_pytorch_takes_part_in_exchanges_only(measure):
    plan = run.Plan(("torch_float32",), "")
    with pytest.raises(UsageError, match="in exchanges only. Received: 'torch_float32'"):
        measure(plan, run.Step() if measure is run.whole_step else 1000)


def test_an_unknown_checkout_is_refused_before_workers_start(monkeypatch):
    monkeypatch.setattr(run, "Crew", lambda *_, **__: pytest.fail("a worker was started"))
    with pytest.raises(UsageError, match="Received: 'no-such-revision'"):
        run.exchange(run.Plan(("float32",), "", against="no-such-revision"), 1000)


def test_sigterm_unwinds_so_that_namespaces_worktrees_and_workers_end():
    before, unwound = signal.getsignal(signal.SIGTERM), False
    with pytest.raises(KeyboardInterrupt) as interrupt, run.checkouts(None):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            unwound = True
    assert unwound and interrupt.value.args == (signal.SIGTERM,)  # how a binary ends by a signal: 128 + 15
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threads=1,x"], "such as 1,2,4"),
        (["--whole_step", "--codec"], "At most one of (whole_step, codec)"),
        (["--image=30x30x1"], "28x28x1"),
        (["--num_workers=0"], "num_workers"),
        (["sign"], "Unexpected argument 'sign'"),
        (["--batch_size=4"], "--batch_size has no meaning for an exchange"),
        (["--codec", "--rate=1gbit"], "--rate has no meaning for --codec"),
        (["--report=x", "--rounds=3"], "--rounds has no meaning for --report"),
    ],
)
def test_a_bad_flag_is_refused_in_one_line(arguments, words):
    line = benchmark(*arguments, code=2)
    assert line.startswith("ERROR: ") and line.count("\n") == 1 and words in line


@pytest.mark.parametrize("binary", ["trainers.benchmark", "trainers.compare", "benchmarks.structure"])
def test_help_imports_no_tensorflow(binary):
    code = (
        f"import runpy, sys; sys.argv = [{binary!r}, '--help']\n"
        f"try: runpy.run_module({binary!r}, run_name='__main__')\n"
        "except SystemExit: print({'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=cluster.ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--report=nothing.jsonl"], "--report must name a file"),
        (["--variant=linear:bits=99"], "A variant is"),
        (["--rate=1gb"], "like 1gbit"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(arguments, words):
    last = benchmark(*arguments, code=2).splitlines()[-1]  # TensorFlow's notices stand before it
    assert last.startswith("ERROR: ") and words in last


@pytest.mark.slow
def test_exchanges_are_measured_recorded_and_reported(tmp_path):
    runs = tmp_path / "runs.jsonl"
    names = ["float32", "sign:bucket=512", "linear:bits=8,bucket=512@two_step@0.1"]
    shown = benchmark(
        "--values=100000", "--rounds=2", "--threads=1,2", f"--output={runs}", *(f"--variant={name}" for name in names)
    )
    entries = report.read(runs)
    assert [(entry["variant"], entry["threads"]) for entry in entries] == [
        (n, count) for count in (1, 2) for n in names
    ]
    assert all(f"| {name} |" in shown for name in names)
    for entry in entries:
        assert (entry["kind"], entry["rate"], entry["workers"], entry["step"]) == ("exchange", "loopback", 2, 2)
        assert 0 < entry["milliseconds_minimum"] <= entry["milliseconds_median"]
        # Headers, acknowledgements and the heartbeats of the cluster come on top of what is declared.
        assert entry["declared_bytes"] < entry["interface_bytes"] < entry["declared_bytes"] + 20_000
        assert "--values=100000" in entry["command"] and entry["seeds"] == [0, 1]
        assert {"hardware", "processor", "commit", "versions"} <= entry.keys()
    assert entries[1]["topology"] == "all_gather" and entries[2]["topology"] == "two_step"
    phases = [f"{phase}_milliseconds_median" for phase in ("encode", "exchange", "decode")]
    assert 0 < sum(entries[1][phase] for phase in phases)
    assert not any(phase in entries[0] for phase in phases)
    assert benchmark(f"--report={runs}").count("| loopback |") == 6


@pytest.mark.slow
def test_whole_steps_are_measured_against_a_plain_step_and_another_checkout(tmp_path):
    runs, profile = tmp_path / "runs.jsonl", tmp_path / "profile"
    arguments = ("--whole_step", "--width=4", "--batch_size=2", "--rounds=1", "--variant=sign:bucket=512")
    shown = benchmark(*arguments, f"--against={cluster.ROOT}", f"--output={runs}", f"--profile={profile}")
    [ours, other] = [json.loads(line) for line in runs.read_text().splitlines()]
    for entry in (ours, other):
        assert (entry["kind"], entry["batch_size"], entry["variant"]) == ("whole_step", 2, "sign:bucket=512")
        assert 0 < entry["alone_milliseconds_median"] and 0 < entry["plain_milliseconds_median"]
        assert entry["plain_ratio"][1] == pytest.approx(
            entry["milliseconds_median"] / entry["plain_milliseconds_median"], rel=1e-3
        )
        assert 0 < entry["compute_milliseconds_median"] < entry["milliseconds_median"]
    assert (ours["tree"], other["tree"]) == ("", str(cluster.ROOT)) and "against_ratio" not in other
    assert (
        ours["against_ratio"]
        == [pytest.approx(ours["milliseconds_median"] / other["milliseconds_median"], rel=1e-3)] * 3
    )
    assert "ms / bound" in shown and "ms / plain" in shown and "ms / other checkout" in shown
    profiles = sorted(profile.rglob("*.xplane.pb"))  # worker 0 of both checkouts
    assert len(profiles) == 2
    assert {"compiled by XLA", "PyFunc:PyFunc"} & {event.name for event in report.events(profiles[0])}
    assert benchmark(f"--timeline={profile}").count("## sign:bucket=512_threads1") == 2


@pytest.mark.slow
def test_the_codec_is_measured_with_one_and_two_threads_in_one_run(tmp_path):
    names = ["--variant=copy", "--variant=linear:bits=4,bucket=512"]
    shown = benchmark(
        "--codec", "--values=100000", "--rounds=2", "--threads=1,2", *names, f"--output={tmp_path / 'runs'}"
    )
    entries = report.read(tmp_path / "runs")
    assert [(entry["variant"][:4], entry["threads"]) for entry in entries] == [
        ("copy", 1),
        ("line", 1),
        ("copy", 2),
        ("line", 2),
    ]
    assert all(entry["encode_milliseconds_median"] > 0 for entry in entries if entry["variant"] != "copy")
    assert "x of 1 |" in shown
