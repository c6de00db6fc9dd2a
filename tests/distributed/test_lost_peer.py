"""Real processes: what TensorFlow says when a worker is killed, freezes or leaves, is read as a lost peer."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from dqgan_tf import tensorflow_texts
from dqgan_tf.errors import LostConnectionError
from tests.distributed import cluster

# The program's `silence_timeout` is 10 s; then the service gives a frozen worker up.
_FROZEN_SECONDS = 20
pytestmark = pytest.mark.slow


@pytest.fixture
def start(tmp_path):
    """Starts two workers and waits until both have met."""
    started = []

    def start(*acts):
        workers = cluster.Cluster(["-m", "tests.distributed.lost_peer_program", *acts], tmp_path)
        started.append(workers)
        met = lambda: all("\nready\n" in path.read_text() for path in workers.logs)  # noqa: E731
        cluster.wait_for(met, 120, "the meeting of the workers")
        time.sleep(1.0)  # for both to wait for each other again
        return workers

    yield start
    for workers in started:
        workers.kill()


def error_of(workers, index):
    """The error that a worker printed, as TensorFlow raised it."""
    cluster.wait_for(lambda: "\nerror [" in workers.logs[index].read_text(), 60, f"an error of worker {index}")
    line = workers.logs[index].read_text().split("\nerror ")[1].partition("\n")[0]
    name, message = json.loads(line)
    return getattr(tf.errors, name)(None, None, message) if name else LostConnectionError(message)


def check(error, reason):
    assert tensorflow_texts.is_peer_lost(error), repr(error)
    assert reason in tensorflow_texts.reason(error), repr(error)


@pytest.mark.parametrize("victim", [0, 1])
def test_killed_in_a_collective(start, victim):
    workers = start("collective", "collective")
    workers.kill(victim)
    check(error_of(workers, 1 - victim), "Collective ops is aborted by: ")


@pytest.mark.parametrize("victim", [0, 1])
def test_killed_in_an_exchange_over_sockets(start, victim):
    workers = start("sockets", "sockets")
    workers.kill(victim)
    check(error_of(workers, 1 - victim), f"worker {victim} is gone: ")


def test_frozen_in_a_collective(start):
    workers = start("collective", "collective")
    workers.kill(1, signal.SIGSTOP)
    check(error_of(workers, 0), "Collective ops is aborted by: Error reported from /job:worker/task:1")


def test_frozen_in_an_exchange_over_sockets(start):
    workers = start("sockets", "sockets")
    workers.kill(1, signal.SIGSTOP)
    check(error_of(workers, 0), "worker 1 gave no sign of life for 10 s")


def test_frozen_in_the_message_board(start):
    workers = start("board", "board")
    workers.kill(1, signal.SIGSTOP)
    check(error_of(workers, 0), "heartbeat timeout")


def test_other_threads_run_while_a_worker_waits_in_the_message_board(start):
    """They send heartbeats and notice lost workers. TensorFlow's own binding of barriers stops all of them."""
    workers = start("sleep", "ticks")
    time.sleep(3.0)
    assert workers.logs[1].read_text().count("\ntick") > 10


def test_left_early(start):
    check(error_of(start("board", "leave"), 0), "Barrier failed because: task is set to ERROR")


def test_the_service_has_ended_with_worker_0(start):
    check(error_of(start("leave", "board"), 1), "Failed to send RPC to coordination service")


def test_worker_0_frozen_in_the_message_board(start):
    """It holds the service, so TensorFlow's call to it never returns."""
    workers = start("board", "board")
    workers.kill(0, signal.SIGSTOP)
    error = error_of(workers, 1)
    assert isinstance(error, LostConnectionError) and str(error) == "worker 0 gave no sign of life for 10 s"


def test_a_frozen_service_that_continues(start):
    """Worker 0 holds the service. Worker 1 has missed it; worker 0 hears that worker 1 was missed."""
    workers = start("board", "board")
    workers.kill(0, signal.SIGSTOP)
    time.sleep(_FROZEN_SECONDS)
    workers.kill(0, signal.SIGCONT)
    errors = [error_of(workers, index) for index in range(2)]
    # The service says one or the other, depending on whether the barrier fails before or after it has missed worker 1.
    missed = "heartbeat timeout" in tensorflow_texts.reason(errors[0])
    check(errors[0], "heartbeat timeout" if missed else "is already in error")
    assert isinstance(errors[1], LostConnectionError)


@pytest.mark.parametrize("act, reason", [("pause", "is already in error"), ("collective", "unhealthy")])
def test_a_frozen_worker_that_continues(start, act, reason):
    """It learns that the others have given it up."""
    workers = start("sleep", act)
    workers.kill(1, signal.SIGSTOP)
    time.sleep(_FROZEN_SECONDS)
    workers.kill(1, signal.SIGCONT)
    check(error_of(workers, 1), reason)


def test_a_port_that_is_in_use():
    """What TensorFlow says of it, where another program takes the port after the workers have met."""
    program = (
        "import sys, tensorflow as tf\n"
        "try: tf.distribute.Server({'worker': [sys.argv[1]]}, job_name='worker', task_index=0)\n"
        "except tf.errors.OpError as error: print('error', type(error).__name__, error.message)"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = subprocess.run([sys.executable, "-c", program, address], capture_output=True, text=True, timeout=100)
    name, message = result.stdout.split("error ")[1].strip().split(" ", 1)
    error = getattr(tf.errors, name)(None, None, message)
    assert "is the port of this worker in TF_CONFIG in use?" in tensorflow_texts.reason(error)


def test_what_is_printed_at_import_and_start_is_known_as_noise():
    program = "import tensorflow as tf; tf.constant(1) + 1"
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0", "CUDA_VISIBLE_DEVICES": "-1"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=100
    )
    lines = (result.stdout + result.stderr).splitlines()
    assert lines and result.returncode == 0
    assert [line for line in lines if not tensorflow_texts.START_UP_NOISE.search(line)] == []
