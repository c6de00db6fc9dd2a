"""A launcher as a process of its own, with workers of a few lines."""

import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = """
import pathlib, sys
from dqgan_tf.training.launcher import Launcher, LaunchConfig
code, workers, folder, restarts, evaluator = sys.argv[1:]
command = (sys.executable, "-c", code)
config = LaunchConfig(command, int(workers), pathlib.Path(folder), int(restarts), evaluator=evaluator == "True")
sys.exit(Launcher(config).run())
"""
# What a worker's line may use: its index and a way to be alive for a long time.
PREAMBLE = """
import json, os, pathlib, signal, sys, time
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"] if "TF_CONFIG" in os.environ else 0
def say(text): print(text, flush=True)
def alive(): say(f"alive {os.getpid()}"); time.sleep(120)
def append(text): print(text, file=open(%r, "a"))
"""
SOON = 30  # seconds; a failure is noticed in a twentieth of one, a worker that ignores SIGTERM is killed after five


class Started:
    """A launcher under way."""

    def __init__(self, folder, worker, workers, restarts, evaluator=False):
        self.folder = folder
        self.notes = folder / "notes"
        code = PREAMBLE % str(self.notes) + worker
        command = [
            sys.executable,
            "-c",
            PROGRAM,
            code,
            str(workers),
            str(folder / "logs"),
            str(restarts),
            str(evaluator),
        ]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def end(self):
        self.out, self.err = self.process.communicate(timeout=SOON)
        return self.process.returncode

    def log(self, index):
        path = self.folder / "logs" / f"worker_{index}.log"
        return path.read_text() if path.exists() else ""

    def pids(self, workers):
        """Process ids of the workers, once all have said that they are alive."""
        wait_until(lambda: all("alive" in self.log(index) for index in range(workers)))
        return [int(self.log(index).split("alive ")[-1].split()[0]) for index in range(workers)]


def wait_until(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def is_running(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def assert_none_running(pids):
    wait_until(lambda: not any(map(is_running, pids)))
