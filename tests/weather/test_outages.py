"""Two workers in network namespaces: a short outage of a link is survived, a long one ends both in time."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from benchmarks import crew
from tests.distributed import cluster
from tests.weather.test_restarts import TRAIN

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and ip"),
]
SILENCE = 15
NOTICED_SECONDS = 60  # beyond the limit, on a loaded machine: each layer notices it, and a process ends


@pytest.fixture
def job(tmp_path):
    """(processes, their places, the number of lines in metrics.jsonl as a function) of a run that has taken steps."""
    with crew.places(2, "100mbit") as places:
        addresses = [place.addresses[0] for place in places]
        flags = [*TRAIN, f"--model_dir={tmp_path}/run", "--steps=1000000", f"--silence_timeout={SILENCE}"]
        processes, metrics = [], tmp_path / "run" / "metrics.jsonl"
        for index, place in enumerate(places):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = cluster.environment_of([0], 0) | {"TF_CONFIG": json.dumps(config)}
            with open(tmp_path / f"log_{index}", "w") as log:
                command = [*place.prefix, sys.executable, "-m", "trainers.train", *flags]
                processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
        lines = lambda: metrics.read_text().count("\n") if metrics.exists() else 0  # noqa: E731
        try:
            cluster.wait_for(lambda: lines() > 3, 180, "the first steps")
            yield processes, places, lines
        finally:
            for process in processes:
                process.kill()
                process.wait()


def set_link(place, state):
    subprocess.run(["ip", "-n", place.prefix[-1], "link", "set", place.interface, state], check=True)


@pytest.mark.parametrize("victim", [0, 1])
def test_an_outage_of_a_quarter_of_the_limit_is_survived(job, victim):
    processes, places, lines = job
    set_link(places[victim], "down")
    time.sleep(SILENCE / 4)
    set_link(places[victim], "up")
    before = lines()
    cluster.wait_for(lambda: lines() > before + 3, 60, "another step")
    assert [process.poll() for process in processes] == [None, None]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_link_that_is_cut_for_good_ends_both_in_time(job, victim):
    processes, places, _ = job
    set_link(places[victim], "down")
    start = time.monotonic()
    assert [process.wait(SILENCE + NOTICED_SECONDS) for process in processes] == [4, 4]
    assert time.monotonic() - start > SILENCE / 3
