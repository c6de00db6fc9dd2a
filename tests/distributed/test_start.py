"""The start of a worker whose cluster does not come together, as its user sees it."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.distributed import cluster
from tests.distributed.cluster import ROOT, environment_of, free_ports


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


@pytest.mark.parametrize("system", ["Linux", "one without sigtimedwait"])
def test_the_limit_of_connecting_ends_the_process_with_a_sentence(tmp_path, system):
    code = (
        """
import signal, time
"""
        + ("" if system == "Linux" else "del signal.sigtimedwait, signal.pthread_sigmask, signal.sigpending")
        + """
from dqgan_tf.distribute import rendezvous

with rendezvous.limit(0.2):
    pass
time.sleep(0.5)
print("in time", flush=True)
with rendezvous.limit(0.2):
    time.sleep(60)
"""
    )
    process = cluster.start(["-c", code], environment_of([0], 0), tmp_path / "log")
    assert process.wait(30) == 4
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[-2] == "in time"
    assert lines[-1].startswith("ERROR: After the meeting of all workers, TensorFlow could not connect them in 0.2 s")


@pytest.mark.slow
def test_workers_of_a_resolver(tmp_path):
    """They meet: the second one starts when the first one has waited for a while."""
    code = """
import json, os, sys, time
import tensorflow as tf
import dqgan_tf
config = json.loads(os.environ.pop("TF_CONFIG"))
workers, index = tf.train.ClusterSpec(config["cluster"]), config["task"]["index"]
time.sleep(6 * index)
resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(workers, "", "worker", index)
strategy = dqgan_tf.CompressedStrategy(resolver, silence_timeout=7)
print("place", strategy.num_workers, strategy.worker_index)
print(strategy.message_board().exchange("names", f"worker {index}"))
strategy.message_board().leave()
sys.stdout.flush()
os._exit(0)
"""
    workers = cluster.run(["-c", code], tmp_path)
    for index in (0, 1):
        assert f"place 2 {index}" in workers.output(index)
        assert "['worker 0', 'worker 1']" in workers.output(index)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["cluster", "index"])
def test_workers_that_cannot_meet_end_at_once_with_the_same_words(tmp_path, change):
    """Two of three workers fit together."""
    ports = free_ports(3)
    other = {"cluster": [*ports[:2], free_ports(1)[0]], "index": ports}[change]
    with contextlib.ExitStack() as stack:
        processes, logs = [], []
        for name, (of_worker, index) in {"a": (ports, 0), "b": (ports, 1), "c": (other, 2)}.items():
            folder = tmp_path / name
            folder.mkdir()
            index = 1 if (change, name) == ("index", "c") else index
            processes.append(stack.enter_context(worker(folder, of_worker, index)))
            logs.append(folder / "log")
        assert [process.wait(60) for process in processes] == [2, 2, 2]
    [error] = {log.read_text().splitlines()[-1] for log in logs}
    expected = {
        "cluster": "ERROR: Worker 0 refuses worker 2: its TF_CONFIG holds",
        "index": f"ERROR: Port {ports[1]}, ",
    }
    assert error.startswith(expected[change])


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_freezes_right_after_the_meeting_is_given_up(tmp_path, victim):
    """TensorFlow by itself waits for it for an hour."""
    code = f"""
import os, signal
import dqgan_tf
from dqgan_tf.distribute import rendezvous

meet = rendezvous.meet

def meet_and_freeze(place, seconds):
    meet(place, seconds)
    if place.worker_index == {victim}:
        os.kill(os.getpid(), signal.SIGSTOP)

rendezvous.meet = meet_and_freeze
dqgan_tf.CompressedStrategy(start_timeout=20, silence_timeout=5)
"""
    workers = cluster.Cluster(["-c", code], tmp_path)
    try:
        assert workers.processes[1 - victim].wait(90) == 4
        assert "could not connect" in workers.output(1 - victim)
    finally:
        workers.kill()


@pytest.mark.slow
def test_sigterm_ends_a_worker_while_tensorflow_connects(tmp_path):
    """Its notifier of preemptions has taken the signal by then."""
    code = """
import json, os, time
import dqgan_tf
from dqgan_tf.distribute import rendezvous

meet = rendezvous.meet

def meet_and_sleep(place, seconds):
    meet(place, seconds)
    print("all have come", flush=True)
    if place.worker_index == 0:
        time.sleep(600)

rendezvous.meet = meet_and_sleep
dqgan_tf.CompressedStrategy()
"""
    workers = cluster.Cluster(["-c", code], tmp_path)
    log = workers.logs[1]
    try:
        cluster.wait_for(lambda: log.exists() and "all have come" in log.read_text(), 60, "the meeting")
        time.sleep(3.0)
        workers.kill(1, signal.SIGTERM)
        assert workers.processes[1].wait(10) == -signal.SIGTERM
    finally:
        workers.kill()


SIGTERM_IN_A_LIMIT = """
import ctypes, signal, sys, time
from dqgan_tf.distribute import rendezvous

if sys.argv[1] == "handler":
    signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
with rendezvous.limit(60.0):
    ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(1))  # ignored, as by TensorFlow's notifier
    print("begun", flush=True)
    time.sleep(float(sys.argv[2]))
print("ended", flush=True)
"""


@pytest.mark.parametrize(
    ("handler", "seconds", "code", "output"),
    [("", 600.0, -signal.SIGTERM, ""), ("handler", 0.5, 0, "handled\nended\n")],
)
def test_sigterm_has_its_effect_while_tensorflow_connects(handler, seconds, code, output):
    arguments = [sys.executable, "-c", SIGTERM_IN_A_LIMIT, handler, str(seconds)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == output
        assert process.returncode == code
