"""System: the whole step of a Keras classifier in two processes, measured, recorded and reported."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import keras_step, provenance, run
from dqgan_tf.errors import UsageError

ENTRY = {
    "task": "cifar10",
    "optimizer": "sgd",
    "values": 1000,
    "workers": 2,
    "batch_size": 4,
    "steps_per_call": 5,
    "step": 9,
    "command": "python -m x",
    "commit": "abc",
    "hardware": "2 cores of X",
    "threads": 1,
    "rate": "1gbit",
    "milliseconds_minimum": 11.0,
    "interface_bytes": 1_010_000,
    "alone_milliseconds_median": 4.0,
}


def test_a_variant_is_a_compression_and_a_place():
    assert keras_step.settings("float16") == {"name": "float16"}
    assert keras_step.settings("none") == {"name": "none", "compression": "none", "where": "gradient"}
    sign = keras_step.settings("sign:bucket=512@update")
    assert (sign["compression"], sign["where"]) == ("sign:bucket=512", "update")


@pytest.mark.parametrize("name", ["sign:bucket=512@two_step", "torch_float32", "sign@update@update"])
def test_an_unknown_variant_is_refused(name):
    with pytest.raises(UsageError, match="A variant is|The compressor must be"):
        keras_step.settings(name)


def test_the_table_holds_a_step_against_its_bound_and_float32():
    # 1 MB takes 8 ms at 1 Gbit/s, longer than the 4 ms of the computation; 250 kB take 2 ms, shorter.
    dense = ENTRY | {"variant": "float32", "declared_bytes": 10**6, "milliseconds_median": 12.0}
    sign = ENTRY | {"variant": "sign", "declared_bytes": 250_000, "milliseconds_median": 6.0}
    sign |= {"float32_ratio": [0.4, 0.5, 0.75], "encode_milliseconds_median": 1.5, "milliseconds_minimum": 5.0}
    text, _, header, _, first, second = keras_step.table([dense, sign]).splitlines()
    assert text.startswith(
        "cifar10, sgd, 1,000 weights, 2 workers x 4 samples, 5 steps a call, 9 rounds; `python -m x`"
    )
    assert [cell.strip() for cell in header.split("|")[-5:-1]] == ["alone", "wire", "ms / bound", "ms / float32"]
    assert first.endswith("| 1.000 / 1.010 | 4.0 | 8.0 | 1.50 |  |")
    assert "| 6.0 / 5.0 | 1.5 |" in second and second.endswith("| 4.0 | 2.0 | 1.50 | 0.50 (0.40 to 0.75) |")


@pytest.mark.slow
def test_steps_are_measured_recorded_and_reported(tmp_path):
    names = ["float32", "float16", "none", "sign:bucket=512@update"]
    arguments = ["--batch_size=2", "--rounds=2", "--steps_per_call=2", "--task=fashion_mnist"]
    arguments += [f"--variant={name}" for name in names] + [f"--output={tmp_path / 'steps.jsonl'}"]
    command = [sys.executable, "-m", "benchmarks.keras_step", *arguments]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, cwd=provenance.ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    by_name = {entry["variant"]: entry for entry in entries}
    assert list(by_name) == names
    values = by_name["none"]["values"]
    assert values == 535_818
    # Two workers: the ring sends M - 1 = 1 times the bytes, and an all-gather one packet.
    declared = [entry["declared_bytes"] for entry in entries]
    assert declared == [4 * values, 2 * values, 4 * values, 68 * -(-values // 512)]
    for entry in entries:
        assert entry["milliseconds_median"] > 0 and entry["alone_milliseconds_median"] > 0
        assert 0.9 * entry["declared_bytes"] < entry["interface_bytes"] < 1.2 * entry["declared_bytes"] + 20_000
    assert all(sum(by_name[name][f"{phase}_milliseconds_median"] for phase in run.PHASES) > 0 for name in names[2:])
    assert all(f"| {name} |" in done.stdout for name in names)
