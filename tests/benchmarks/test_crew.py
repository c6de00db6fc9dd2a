"""System: rates by hand, places where workers run, and processes that are asked together and end when they should."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import crew, worker
from dqgan_tf.errors import UsageError
from tests.distributed import cluster

PLACES = [crew.Place((), (f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"), "lo") for port in (1, 3)]
PROGRAM = cluster.ROOT / "tests" / "benchmarks" / "echo_program.py"
PROBE = f"dqgan-probe-{os.getpid()}"  # another process of the tests may ask at the same time
needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0
    or shutil.which("ip") is None
    or subprocess.run(["ip", "netns", "add", PROBE], capture_output=True, check=False).returncode != 0
    or subprocess.run(["ip", "netns", "del", PROBE], capture_output=True, check=False).returncode != 0,
    reason="needs root and the right to make network namespaces",
)


@pytest.mark.parametrize(("text", "expected"), [("1gbit", 1e9), ("100mbit", 1e8), ("2.5gbit", 2.5e9), ("64kbit", 64e3)])
def test_a_rate_in_bits_per_second(text, expected):
    assert crew.bits_per_second(text) == expected


def test_loopback_has_no_limit():
    assert crew.bits_per_second("loopback") == math.inf
    assert crew.wire_milliseconds(10**9, "loopback") == 0.0


@pytest.mark.parametrize("text", ["1", "gbit", "1 gbit", "1Gbit", "1gbps", "-1gbit", "0mbit", "1gbit;", ""])
def test_another_text_is_refused_with_one_that_works(text):
    with pytest.raises(UsageError, match="like 1gbit") as caught:
        crew.bits_per_second(text)
    assert repr(text) in str(caught.value)


def test_wire_milliseconds():
    # 6.4 MB are 51.2 Mbit: 51.2 ms at 1 Gbit/s, ten times as long at 100 Mbit/s.
    assert crew.wire_milliseconds(6_400_000, "1gbit") == pytest.approx(51.2)
    assert crew.wire_milliseconds(6_400_000, "100mbit") == pytest.approx(512)


def namespaces():
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def test_a_rate_needs_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="--rate=1gbit needs root.*--rate=loopback"), crew.places(2, "1gbit"):
        pass


def test_a_rate_needs_tc(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "tc" else f"/sbin/{program}")
    with pytest.raises(UsageError, match="'tc' .package iproute2"), crew.places(2, "1gbit"):
        pass


def test_an_unknown_rate_is_refused_before_anything_is_made(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a program was run"))
    with pytest.raises(UsageError, match="like 1gbit"), crew.places(2, "fast"):
        pass


def test_without_root_workers_share_the_machines_loopback(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with crew.places(3, programs=2) as places:
        assert [(place.prefix, place.interface) for place in places] == [((), "lo")] * 3
        addresses = [address for place in places for address in place.addresses]
    assert len(set(addresses)) == 6
    assert all(address.startswith("127.0.0.1:") for address in addresses)


def test_stale_namespaces_are_those_of_processes_that_are_gone():
    gone = 2**22 + 1  # beyond the largest pid of Linux
    listed = f"dqgan-{gone}-lo\ndqgan-{gone}-switch (id: 3)\ndqgan-{gone}-0\ndqgan-{os.getpid()}-0\nmine\ndqgan-x-0\n\n"
    assert crew.stale(listed) == [f"dqgan-{gone}-lo", f"dqgan-{gone}-switch", f"dqgan-{gone}-0"]


@needs_namespaces
def test_loopback_is_a_namespace_of_its_own_and_a_stale_one_goes():
    subprocess.run(["ip", "netns", "add", "dqgan-4194305-0"], check=True)
    with crew.places(2) as places:
        own = f"dqgan-{os.getpid()}-lo"
        assert own in namespaces()
        assert "dqgan-4194305" not in namespaces()
        assert [place.prefix for place in places] == [("ip", "netns", "exec", own)] * 2
        assert [place.addresses for place in places] == [("127.0.0.1:2222",), ("127.0.0.1:2223",)]
        shown = subprocess.run([*places[0].prefix, "ip", "link"], capture_output=True, text=True, check=True).stdout
        assert "lo:" in shown and "UP" in shown
    assert own not in namespaces()


@needs_namespaces
@pytest.mark.skipif(shutil.which("tc") is None, reason="needs tc")
def test_every_worker_has_a_link_of_the_rate_and_reaches_the_others():
    with crew.places(2, "100mbit") as places:
        assert [place.addresses for place in places] == [("10.77.0.1:2222",), ("10.77.0.2:2222",)]
        for place in places:
            shaped = subprocess.run([*place.prefix, "tc", "qdisc"], capture_output=True, text=True, check=True).stdout
            assert f"dev {place.interface} root" in shaped and "rate 100Mbit" in shaped
        host = places[1].addresses[0].partition(":")[0]
        route = subprocess.run(
            [*places[0].prefix, "ip", "route", "get", host], capture_output=True, text=True, check=True
        ).stdout
        assert f"dev {places[0].interface}" in route
    assert f"dqgan-{os.getpid()}" not in namespaces()


@needs_namespaces
def test_a_command_that_fails_is_told_with_its_words():
    with pytest.raises(OSError, match="ip -n dqgan-nowhere link failed: .*dqgan-nowhere"):
        crew._run("ip", "-n", "dqgan-nowhere", "link")


@needs_namespaces
@pytest.mark.skipif(shutil.which("tc") is None, reason="needs tc")
def test_nothing_stays_when_the_benchmark_fails():
    with pytest.raises(RuntimeError, match="on purpose"), crew.places(2, "1gbit"):
        raise RuntimeError("on purpose")
    assert f"dqgan-{os.getpid()}" not in namespaces()


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


def test_one_worker_has_no_cluster():
    with crew.Crew(PROGRAM, {}, PLACES[:1], 0) as workers:
        assert workers.ask("describe")[0][0]["addresses"] == []


def test_threads_and_the_checkout_of_the_library(tmp_path):
    (tmp_path / "dqgan_tf").mkdir()
    (tmp_path / "dqgan_tf" / "__init__.py").touch()
    (tmp_path / "benchmarks").symlink_to(cluster.ROOT / "benchmarks")
    for tree in (cluster.ROOT, tmp_path):
        with crew.Crew(PROGRAM, {}, PLACES[:1], None, threads=3, tree=tree) as workers:
            described = workers.ask("describe")[0][0]
        assert (described["threads"], described["tree"]) == (3, str(tree.resolve()))


def test_a_worker_that_fails_is_named_with_what_it_said():
    with crew.Crew(PROGRAM, {"fails_at": 2}, PLACES, 0) as workers:
        workers.ask("step 0")
        with pytest.raises(RuntimeError, match=r"(?s)Worker 1 of .* exited with 1:.*ValueError: on purpose"):
            workers.ask("step 0")


def test_the_workers_end_with_the_benchmark_in_the_middle_of_a_step():
    code = (
        "from benchmarks import crew; from tests.benchmarks import test_crew as t\n"
        "workers = crew.Crew(t.PROGRAM, {'step_seconds': 60}, t.PLACES, 0); workers.ask('bytes')\n"
        "print(*[process.pid for process in workers._processes], flush=True); workers.ask('step 0')"
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
        worker.sent_bytes("nowhere0")


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
