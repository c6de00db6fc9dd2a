"""Two workers in network namespaces: a short outage of a link is survived, a long one ends both in time.

    python -m tests.weather.test_outages SILENCE_TIMEOUT SECONDS VICTIM

runs one outage of the link of worker VICTIM and says what happened: the table of docs/operations.md. Needs root and ip.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

from benchmarks import crew
from tests.distributed import cluster
from tests.weather.test_restarts import TRAIN

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and ip"
)
pytestmark = [pytest.mark.slow, needs_namespaces]
SILENCE = 15
NOTICED_SECONDS = 10  # as docs/operations.md promises


class Job:
    """A run of two workers that has taken steps.

    Args:
      folder: for its files.
      places: of `crew.places`.
      silence_timeout: its flag, in seconds.
      steps: its flag.
      program: arguments of Python before the flags.
    """

    def __init__(self, folder, places, silence_timeout, steps, program):
        self._places, self._metrics = places, folder / "run" / "metrics.jsonl"
        flags = [*TRAIN, f"--model_dir={folder}/run", f"--steps={steps}", f"--silence_timeout={silence_timeout}"]
        addresses, self.processes = [place.addresses[0] for place in places], []
        for index, place in enumerate(places):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = cluster.environment_of([0], 0) | {"TF_CONFIG": json.dumps(config)}
            with open(folder / f"log_{index}", "w") as log:
                command = [*place.prefix, sys.executable, *program, *flags]
                self.processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))

    def lines(self):
        """The number of lines in metrics.jsonl."""
        return self._metrics.read_text().count("\n") if self._metrics.exists() else 0

    def codes(self):
        """The exit codes so far; None for a process that runs."""
        return [process.poll() for process in self.processes]

    def set_link(self, worker, state):
        """Sets the link of a worker `up` or `down`."""
        place = self._places[worker]
        subprocess.run(["ip", "-n", place.prefix[-1], "link", "set", place.interface, state], check=True)


@contextlib.contextmanager
def running(folder, silence_timeout, steps=1_000_000, program=("-m", "trainers.train")):
    """Yields a `Job`; kills it at the end."""
    with crew.places(2, "100mbit") as places:
        job = Job(folder, places, silence_timeout, steps, program)
        try:
            cluster.wait_for(lambda: job.lines() > 3, 180, "the first steps")
            yield job
        finally:
            for process in job.processes:
                process.kill()
                process.wait()


@pytest.mark.parametrize("victim", [0, 1])
def test_an_outage_of_a_quarter_of_the_limit_is_survived(tmp_path, victim):
    with running(tmp_path, SILENCE) as job:
        job.set_link(victim, "down")
        time.sleep(SILENCE / 4)
        job.set_link(victim, "up")
        before = job.lines()
        cluster.wait_for(lambda: job.lines() > before + 3, 60, "another step")
        assert job.codes() == [None, None]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_link_that_is_cut_for_good_ends_both_in_time(tmp_path, victim):
    with running(tmp_path, SILENCE) as job:
        job.set_link(victim, "down")
        start = time.monotonic()
        assert [process.wait(SILENCE + NOTICED_SECONDS) for process in job.processes] == [4, 4]
        assert time.monotonic() - start > SILENCE / 3


def main(silence_timeout, seconds, victim):
    with tempfile.TemporaryDirectory() as folder, running(pathlib.Path(folder), silence_timeout) as job:
        job.set_link(victim, "down")
        start = time.monotonic()
        while time.monotonic() - start < seconds and None in job.codes():
            time.sleep(0.1)
        job.set_link(victim, "up")
        back, before = time.monotonic(), job.lines()
        while None in job.codes() and job.lines() <= before + 3 and time.monotonic() - back < 10 * silence_timeout:
            time.sleep(0.1)
        what = f"silence_timeout {silence_timeout:g} s, link of worker {victim} cut for {seconds:g} s:"
        if job.codes() == [None, None]:
            went_on = job.lines() > before + 3
            print(what, f"went on {time.monotonic() - back:.0f} s after it was back" if went_on else "neither went on")
            return
        while None in job.codes() and time.monotonic() - start < 10 * silence_timeout:
            time.sleep(0.1)
        print(what, f"exit codes {job.codes()}, {time.monotonic() - start:.0f} s after the cut")
        for index in (0, 1):
            print(" ", (pathlib.Path(folder) / f"log_{index}").read_text().splitlines()[-1])


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
