"""A job under TF_CONFIG that nobody supervises comes back by itself; two jobs do not share a folder."""

import json
import os
import signal
import time

import pytest

from tests.distributed import cluster

pytestmark = pytest.mark.slow

TRAIN = [
    "--dataset=gaussian_ring",
    "--network=mlp",
    "--width=16",
    "--batch_size=16",
    "--log_every=10",
    "--sample_every=0",
    "--steps_per_call=5",
    "--compressor=sign:bucket=32",
    "--checkpoint_every=20",
]
SECONDS = 180  # two starts, a lost peer (15 s) and some hundred steps on a loaded machine


def supervised(model_dir, steps):
    return ["-m", "trainers.launch", "--max_restarts=3", "--", *TRAIN, f"--model_dir={model_dir}", f"--steps={steps}"]


def commits(model_dir):
    return sorted(int(path.parent.name[5:]) for path in (model_dir / "checkpoints").glob("*/COMMIT"))


def summary(model_dir):
    return json.loads((model_dir / "summary.json").read_text())


def children(pid):
    """Processes that a process has started."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_comes_back_and_the_run_is_exact(tmp_path, victim):
    broken, whole, steps = tmp_path / "broken", tmp_path / "whole", 1000
    job = cluster.Cluster(supervised(broken, steps), tmp_path / "supervised")
    cluster.wait_for(lambda: commits(broken), what="the first checkpoint")
    (worker,) = children(job.processes[victim].pid)
    os.kill(worker, signal.SIGKILL)
    killed_at = commits(broken)[-1]
    assert killed_at < steps, "the run was over before it was killed"
    assert job.wait(SECONDS) == [0, 0], job.output()
    assert all("Restart 1 of 3." in log.read_text() for log in job.logs), job.output()
    cluster.run(["-m", "trainers.train", *TRAIN, f"--model_dir={whole}", f"--steps={steps}"], tmp_path / "logs")
    assert summary(broken)["weights_sha256"] == summary(whole)["weights_sha256"]


def test_a_second_job_on_the_same_folder_is_refused_and_the_first_goes_on(tmp_path):
    folder = tmp_path / "run"
    command = ["-m", "trainers.train", *TRAIN, f"--model_dir={folder}", "--steps=120000"]
    first = cluster.Cluster(command, tmp_path / "a")
    cluster.wait_for(lambda: commits(folder), what="the first checkpoint")
    second = cluster.Cluster(command, tmp_path / "b")
    assert second.wait(90) == [2, 2], second.output()
    for index in (0, 1):
        assert f"in use by process {first.processes[0].pid} on {os.uname().nodename}" in second.output(index)
    before, end = commits(folder)[-1], time.monotonic() + 60
    while commits(folder)[-1] == before:
        assert time.monotonic() < end, "the first job no longer writes checkpoints:\n" + first.output()
        time.sleep(0.2)
    first.kill()
    first.wait()
