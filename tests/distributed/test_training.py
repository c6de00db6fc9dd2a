"""System tests of the train binary with real processes: resume, failure, disagreement, another number of workers."""

import json
import re
import signal

import numpy as np
import pytest
import tensorflow as tf

from tests.distributed import cluster

TINY = [
    "-m",
    "trainers.train",
    "--dataset=gaussian_ring",
    "--network=mlp",
    "--width=16",
    "--batch_size=16",
    "--log_every=10",
    "--sample_every=0",
    "--weight_check_every=10",
    "--steps_per_call=5",
]


def command(model_dir, steps, *more):
    return [*TINY, f"--model_dir={model_dir}", f"--steps={steps}", *more]


def summary(model_dir):
    return json.loads((model_dir / "summary.json").read_text())


def checkpoint_tensors(model_dir, step, name):
    reader = tf.train.load_checkpoint(str(model_dir / "checkpoints" / f"step_{step:08d}" / name))
    return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map() if key != "origin"}


LEARNING = [
    "--compressor=adaptive:bits=3,bucket=32",
    "--compressor_rules=bias=none;discriminator/=powersgd:rank=1",
    "--topology=two_step",
    "--start_step=7",
]


@pytest.mark.slow  # signs, in both topologies: tests/weather/test_attacks.py
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    """Identity test: kill -9 of all workers in the middle loses nothing of the last checkpoint."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = ["--checkpoint_every=20", *LEARNING]
    killed = cluster.Cluster(command(broken, 120000, *more), tmp_path / "logs_killed")
    commit = broken / "checkpoints" / "step_00000040" / "COMMIT"
    cluster.wait_for(commit.exists, what="the second checkpoint")
    killed.kill()
    killed.wait()
    last = max(int(path.parent.name[5:]) for path in (broken / "checkpoints").glob("*/COMMIT"))
    end = last + 40
    resumed = cluster.run(command(broken, end, *more), tmp_path / "logs_resumed")
    assert f"Resuming from step {last} of {end}" in resumed.output(0)
    cluster.run(command(whole, end, *more), tmp_path / "logs_whole")

    assert summary(broken)["weights_sha256"] == summary(whole)["weights_sha256"]
    for name in ("replicated", "worker_0", "worker_1"):
        first, second = (checkpoint_tensors(folder, end, name) for folder in (whole, broken))
        assert first.keys() == second.keys()
        for key in first:
            np.testing.assert_array_equal(first[key], second[key], err_msg=key)

    logged = [json.loads(line)["step"] for line in (broken / "metrics.jsonl").read_text().splitlines()]
    training = [step for step in logged if step % 10 == 0]
    assert sorted(set(training)) == list(range(10, end + 1, 10))


@pytest.mark.slow
def test_evaluations_inside_a_run_change_no_weight(tmp_path):
    """Of two workers, the second waits while the first evaluates."""
    plain, evaluated = tmp_path / "plain", tmp_path / "evaluated"
    cluster.run(command(plain, 20), tmp_path / "logs_plain")
    cluster.run(command(evaluated, 20, "--eval_every=7", "--eval_samples=500"), tmp_path / "logs_evaluated")
    assert summary(plain)["weights_sha256"] == summary(evaluated)["weights_sha256"]
    lines = [json.loads(line) for line in (evaluated / "metrics.jsonl").read_text().splitlines()]
    figures = [line for line in lines if "modes_found" in line]
    assert [line["step"] for line in figures] == [7, 14, 20]
    assert {(line["num_fake"], line["generator"]) for line in figures} == {(500, "averaged")}


@pytest.mark.slow
def test_flushed_residuals_are_in_the_last_checkpoint(tmp_path):
    """Of two workers: the weights lose mean(e) of the same run without the flag, and the averaged generator moves."""
    kept, flushed, more = tmp_path / "kept", tmp_path / "flushed", ["--compressor=sign:bucket=32", "--local_steps=5"]
    cluster.run(command(kept, 20, *more), tmp_path / "logs_kept")
    cluster.run(command(flushed, 20, *more, "--flush_residuals"), tmp_path / "logs_flushed")
    before, after = (checkpoint_tensors(folder, 20, "replicated") for folder in (kept, flushed))
    residuals = [checkpoint_tensors(kept, 20, f"worker_{i}") for i in range(2)]
    largest = 0.0
    for name in [key for key in before if key.startswith(("generator/", "discriminator/"))]:
        mean = (residuals[0][f"residual/{name}/0"] + residuals[1][f"residual/{name}/1"]) / 2
        np.testing.assert_allclose(after[name], before[name] - mean, atol=1e-6, err_msg=name)
        largest = max(largest, np.abs(mean).max())
    assert largest > 1e-3
    averages = [key for key in before if key.startswith("ema/")]
    assert averages and all(np.any(after[key] != before[key]) for key in averages)
    for i in range(2):
        tensors = checkpoint_tensors(flushed, 20, f"worker_{i}")
        assert not any(np.any(value) for key, value in tensors.items() if key.startswith("residual/"))


@pytest.mark.slow
def test_resume_with_fewer_workers_conserves_what_the_residuals_owe(tmp_path):
    """The virtual iterate w - mean(e) continues where it was when two workers become one."""
    model_dir = tmp_path / "run"
    more = ["--checkpoint_every=20", "--compressor=sign:bucket=32"]
    cluster.run(command(model_dir, 20, *more), tmp_path / "logs_two")
    two = [checkpoint_tensors(model_dir, 20, f"worker_{i}") for i in range(2)]
    one = cluster.run(command(model_dir, 21, "--checkpoint_every=1", *more[1:]), tmp_path / "logs_one", num_workers=1)
    assert "changed from 2 to 1" in one.output(0)
    again = cluster.run(command(model_dir, 21, *more[1:]), tmp_path / "logs_again", num_workers=1)
    assert "Nothing to do" in again.output(0)
    after = checkpoint_tensors(model_dir, 21, "worker_0")
    # One step of one worker: e_1 + decode(c_1) = eta u_1 + e_0, so e_0 = e_1 + (w_0 - w_1) - eta u_1.
    before_w, after_w = (checkpoint_tensors(model_dir, step, "replicated") for step in (20, 21))
    for player in ("generator", "discriminator"):
        names = sorted(key for key in before_w if key.startswith(f"{player}/"))
        largest = 0.0
        for name in names:
            moved, update = before_w[name] - after_w[name], 1e-3 * after[f"previous_direction/{name}/0"]
            started = after[f"residual/{name}/0"] + moved - update
            expected = (two[0][f"residual/{name}/0"] + two[1][f"residual/{name}/1"]) / 2
            largest = max(largest, np.abs(expected).max())
            # Tolerance: three float32 roundings of weights of magnitude about 1.
            np.testing.assert_allclose(started, expected, atol=1e-6)
        assert largest > 1e-4  # the residuals are not trivially zero


def test_workers_with_different_flags_all_refuse_and_name_the_flag(tmp_path):
    extra = [["--learning_rate_g=0.001"], ["--learning_rate_g=0.002"]]
    both = cluster.Cluster(command(tmp_path / "run", 20), tmp_path / "logs", extra=extra)
    codes = both.wait()
    assert codes == [2, 2], both.output()
    for index in range(2):
        assert "--learning_rate_g is 0.001 on worker 0 and 0.002 on worker 1" in both.output(index)
        assert "Traceback" not in both.output(index)


@pytest.mark.slow  # test_worker_errors.py has a worker that ends, transport/test_connection.py one that is killed
def test_a_killed_peer_ends_the_others_with_one_line(tmp_path):
    both = cluster.Cluster(command(tmp_path / "run", 10**6, "--checkpoint_every=1000000"), tmp_path / "logs")
    metrics = tmp_path / "run" / "metrics.jsonl"
    cluster.wait_for(lambda: metrics.exists() and metrics.stat().st_size, what="the first figures")
    both.kill(1)
    assert both.wait(timeout=60) == [4, -signal.SIGKILL], both.output()
    assert "lost another worker" in both.output(0)
    # A socket tells of it or, where the workers agree on something at that moment, the coordination service.
    assert re.search(r"lost another worker \(.*(worker 1 is gone|task:1 heartbeat timeout)", both.output(0))
    assert "Traceback" not in both.output(0)


@pytest.mark.slow
def test_sigterm_on_one_worker_saves_and_stops_both(tmp_path):
    model_dir = tmp_path / "run"
    both = cluster.Cluster(command(model_dir, 10**6), tmp_path / "logs")
    cluster.wait_for(lambda: "step 20/" in both.output(0), what="step 20")
    both.kill(1, signal.SIGTERM)
    assert both.wait(timeout=60) == [128 + signal.SIGTERM] * 2, both.output()
    assert len(list((model_dir / "checkpoints").glob("*/COMMIT"))) == 1


@pytest.mark.slow
def test_a_frozen_peer_ends_the_others(tmp_path):
    both = cluster.Cluster(
        command(tmp_path / "run", 10**6, "--checkpoint_every=20", "--silence_timeout=5"), tmp_path / "logs"
    )
    commit = tmp_path / "run" / "checkpoints" / "step_00000020" / "COMMIT"
    cluster.wait_for(commit.exists, what="the first checkpoint")
    both.kill(1, signal.SIGSTOP)
    try:
        assert both.processes[0].wait(90) == 4, both.output()
    finally:
        both.kill()
    assert "lost another worker" in both.output(0)


@pytest.mark.slow
def test_a_conditional_run_and_a_warm_start_from_it(tmp_path):
    """The second run begins with the averaged generator of the first; other networks are refused in one line."""
    labels = ["--conditional", "--dataset=gaussian_ring", "--sample_every=10"]
    first, second = tmp_path / "first", tmp_path / "second"
    cluster.run(command(first, 20, *labels), tmp_path / "logs_first")
    names = {path.name for path in (first / "samples").iterdir()}
    assert {"real_00000000.png", "raw_00000000.png", "ema_00000010.png"} <= names
    warm = [*labels, f"--warm_start={first}", "--learning_rate_g=1e-6", "--learning_rate_d=1e-6"]
    cluster.run(command(second, 10, *warm), tmp_path / "logs_second")
    averages = [checkpoint_tensors(folder, step, "replicated") for folder, step in ((first, 20), (second, 10))]
    assert averages[1]["step"] == 10
    names = [name for name in averages[0] if name.startswith("ema/")]
    assert names
    for name in names:
        # d = 0.999 from the first step: 1 % of the way to the weights, which hardly move
        expected = averages[0][name] + (1 - 0.999**10) * (averages[0][name.removeprefix("ema/")] - averages[0][name])
        np.testing.assert_allclose(averages[1][name], expected, atol=1e-4)
    other = cluster.Cluster(command(tmp_path / "other", 10, f"--warm_start={first}"), tmp_path / "logs_other")
    assert other.wait() == [2, 2]
    assert f"ERROR: {first / 'checkpoints' / 'step_00000020'} does not fit: " in other.output(0)
