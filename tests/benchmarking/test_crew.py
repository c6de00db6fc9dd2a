"""System: processes that are asked together, and end when they should."""

import signal
import subprocess
import sys
import time

import pytest

from dqgan_tf.benchmarking import crew, serving
from dqgan_tf.benchmarking.links import Place
from tests.distributed import cluster

PLACES = [Place((), (f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"), "lo") for port in (1, 3)]
PROGRAM = "tests.benchmarking.echo_program"


def test_every_worker_answers_in_order():
    with crew.Crew(PROGRAM, {}, PLACES, 1) as workers:
        taken = workers.ask("step 1")
        assert [sorted(one) for one in taken] == [["encode", "total"]] * 2
        assert all(one["encode"] == 1.0 and one["total"] >= 0 for one in taken)
        described = workers.ask("describe")
        assert [[one["declared_bytes"] for one in worker] for worker in described] == [[0, 1]] * 2
        assert [worker[0]["index"] for worker in described] == [0, 1]
        assert described[0][0]["addresses"] == ["127.0.0.1:2", "127.0.0.1:4"]
        assert all(count >= 0 for count in workers.ask("bytes"))


def test_workers_that_know_nothing_of_each_other():
    with crew.Crew(PROGRAM, {}, PLACES, None) as workers:
        assert [worker[0]["addresses"] for worker in workers.ask("describe")] == [[], []]


def test_a_worker_that_fails_is_named_with_what_it_said():
    with crew.Crew(PROGRAM, {"fails_at": 2}, PLACES, 0) as workers:
        workers.ask("step 0")
        with pytest.raises(RuntimeError, match=r"(?s)Worker 1 of .* exited with 1:.*ValueError: on purpose"):
            workers.ask("step 0")


def test_the_workers_end_with_the_benchmark_in_the_middle_of_a_step():
    code = (
        "from dqgan_tf.benchmarking import crew; from tests.benchmarking import test_crew as t\n"
        f"workers = crew.Crew({PROGRAM!r}, {{'step_seconds': 60}}, t.PLACES, 0); workers.ask('bytes')\n"
        "print(*[one.pid for one in workers._processes], flush=True); workers.ask('step 0')"
    )
    benchmark = subprocess.Popen([sys.executable, "-c", code], cwd=cluster.ROOT, stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in benchmark.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(0.3)  # for the step to begin
    benchmark.send_signal(signal.SIGKILL)
    benchmark.wait()
    end = time.monotonic() + 10
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < end, "a worker outlived the benchmark"
        time.sleep(0.05)


def test_bytes_of_an_interface_that_does_not_exist():
    with pytest.raises(ValueError, match="nowhere0"):
        serving.sent_bytes("nowhere0")


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
