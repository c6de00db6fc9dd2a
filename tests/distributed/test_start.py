"""The start of a worker whose cluster does not come together, as its user sees it."""

import concurrent.futures
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time

import pytest

from dqgan_tf.distribute import rendezvous
from tests.distributed import cluster
from tests.distributed.cluster import ROOT, environment_of, free_ports
from tests.distributed.test_training import command
from tests.distributed.test_worker_errors import prepared

# A worker that is lost when all have met, before TensorFlow connects them, with short limits for the connection.
LOST_AFTER_THE_MEETING = """
import os, time
from dqgan_tf.distribute import rendezvous, strategy
strategy._CONNECT_SECONDS, strategy._END_SECONDS, meet = 3.0, 10.0, rendezvous.meet
def meet_and_go(place, seconds):
    meet(place, seconds)
    print("all have come", flush=True)
    place.worker_index == LOST and time.sleep(600)
rendezvous.meet = meet_and_go
"""


@contextlib.contextmanager
def worker(folder, ports, index, *flags):
    """A worker of `trainers.train`, and its output in folder/log."""
    arguments = ["-m", "trainers.train", f"--model_dir={folder}/run", "--steps=1", *flags]
    process = cluster.start(arguments, environment_of(ports, index), folder / "log")
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)


def test_sigterm_ends_a_worker_that_waits(tmp_path):
    with worker(tmp_path, free_ports(2), 1) as process:
        log = tmp_path / "log"
        waits = lambda: log.exists() and "waiting for the others" in log.read_text()  # noqa: E731
        cluster.wait_for(waits, 60, "the message of a worker that waits")
        time.sleep(0.5)
        assert not process.has_ended()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM


def test_a_missing_worker_is_named_and_waiting_ends(tmp_path):
    ports = free_ports(2)
    with worker(tmp_path, ports, 0, "--start_timeout=1") as process:
        assert process.wait(60) == 4
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith(f"ERROR: Worker 0 has waited 1 s for worker 1 at 127.0.0.1:{ports[1]}. --start_timeout")


@pytest.mark.slow
def test_a_port_in_use_is_an_error_of_the_user(tmp_path):
    ports = free_ports(2)
    with socket.create_server(("", ports[1])), worker(tmp_path, ports, 1) as process:
        assert process.wait(60) == 2
    assert f"Port {ports[1]}, the port of worker 1 in TF_CONFIG, is in use" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_user_script_reads_tf_config_through_the_same_checks(tmp_path):
    config = json.dumps({"task": {"type": "worker", "index": 0}})
    code = "import dqgan_tf; dqgan_tf.CompressedStrategy()"
    environment = environment_of(free_ports(1), 0) | {"TF_CONFIG": config}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "it names a task and no cluster, so every worker would train alone" in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "seconds", "code", "line"),
    [
        (0, None, 4, "All workers had come, and TensorFlow could not connect them (DeadlineExceededError"),
        (1, None, 4, "All workers had come, and TensorFlow could not connect worker 0 with them in"),
        (1, 0.5, 143, "Worker 0 was stopped by SIGTERM while TensorFlow connected the workers"),
    ],
)
def test_a_worker_that_is_lost_after_the_meeting(tmp_path, lost, seconds, code, line):
    """seconds: after which the other one receives SIGTERM."""
    arguments = prepared(*command(tmp_path / "run", 20)[2:], LOST_AFTER_THE_MEETING.replace("LOST", str(lost)))
    both = cluster.Cluster(arguments, tmp_path / "logs")
    other = 1 - lost
    try:
        log = both.logs[other]
        cluster.wait_for(lambda: log.exists() and "all have come" in log.read_text(), 60, "the meeting")
        if seconds:
            time.sleep(seconds)
            both.kill(other, signal.SIGTERM)
        assert both.processes[other].wait(40) == code, both.output()
    finally:
        both.kill()
    errors = [text for text in both.output(other).splitlines() if text.startswith("ERROR: ")]
    assert len(errors) == 1 and errors[0].startswith(f"ERROR: {line}") and "Traceback" not in both.output(other)


class TestLimit:
    """Of a body that holds back SIGTERM, as TensorFlow's start does, in a process of its own."""

    BODY = """
import ctypes, os, signal, sys, time
from dqgan_tf.distribute import rendezvous
rendezvous._LOOK_SECONDS = 0.01
if sys.argv[2] == "handler":
    signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
with rendezvous.limit(3, float(sys.argv[1])):
    ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(1))  # ignored, as by TensorFlow's notifier
    print("begun", flush=True)
    time.sleep(float(sys.argv[3]))
print("ended", flush=True)
"""

    def run(self, seconds, handler, body_seconds, is_signalled):
        arguments = [sys.executable, "-c", self.BODY, str(seconds), handler, str(body_seconds)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(arguments, cwd=ROOT, text=True, **pipes) as process:
            assert process.stdout.readline() == "begun\n"
            if is_signalled:
                process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=30)
            return process.returncode, output, errors

    def test_nothing_happens_in_time(self):
        assert self.run(20, "", 0, False) == (0, "ended\n", "")

    def test_a_body_that_does_not_end(self):
        code, output, errors = self.run(0.3, "", 600, False)
        assert (code, output) == (4, "")
        assert errors.startswith("ERROR: All workers had come, and TensorFlow could not connect worker 3 with them in")

    @pytest.mark.parametrize(
        ("handler", "code", "output"), [("", -signal.SIGTERM, ""), ("handler", 0, "handled\nended\n")]
    )
    def test_sigterm_has_its_effect_after_the_body(self, handler, code, output):
        assert self.run(20, handler, 0.5, True) == (code, output, "")

    def test_sigterm_ends_a_body_that_does_not(self):
        code, _, errors = self.run(20, "handler", 600, True)
        assert code == 143 and errors.startswith("ERROR: Worker 3 was stopped by SIGTERM")


def test_the_limit_holds_in_the_main_thread_only():
    """Only its mask of signals counts."""

    def body():
        with rendezvous.limit(0, 0.0):
            return signal.pthread_sigmask(signal.SIG_BLOCK, [])

    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert signal.SIGTERM not in pool.submit(body).result()
