"""System: signals to the launcher and its workers, and that no worker outlives it."""

import os
import signal
import time

import pytest

from tests.training.launched import assert_none_running, wait_until


def test_a_worker_killed_by_a_signal(launch):
    run = launch("alive()")
    pids = run.pids(2)
    os.kill(pids[1], signal.SIGKILL)
    assert run.end() == 128 + signal.SIGKILL
    assert "Worker 1 was killed by signal 9" in run.err
    assert_none_running(pids)


@pytest.mark.slow  # waits
def test_a_worker_that_ignores_sigterm_is_killed(launch):
    run = launch("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nif index: time.sleep(2); sys.exit(1)\nalive()")
    assert run.end() == 1
    assert_none_running([int(run.log(0).split("alive ")[1])])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_handed_on_once_and_waited_for(launch, number):
    worker = f"""
def save(*_): append("saved"); time.sleep(1); sys.exit({128 + number})
signal.signal({int(number)}, save)
alive()
"""
    run = launch(worker, restarts=3)
    pids = run.pids(2)
    run.process.send_signal(number)
    assert run.end() == 128 + number
    assert run.notes.read_text() == "saved\n" * 2
    assert run.err == ""
    assert_none_running(pids)


def test_control_c_reaches_a_worker_once(launch):
    """A terminal signals its whole foreground group; for a worker the second signal means: at once, no checkpoint."""
    worker = """
signal.signal(signal.SIGINT, lambda *_: append("asked"))
say(f"alive {os.getpid()}")
end = time.monotonic() + 2
while time.monotonic() < end: time.sleep(0.05)
"""
    run = launch(worker)
    run.pids(2)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.end() == 128 + signal.SIGINT
    assert run.notes.read_text() == "asked\n" * 2


def test_a_second_signal_does_not_wait(launch):
    run = launch("signal.signal(signal.SIGINT, lambda *_: append('asked'))\nwhile True: alive()", workers=1)
    pids = run.pids(1)
    run.process.send_signal(signal.SIGINT)
    wait_until(run.notes.exists)
    start = time.monotonic()
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 128 + signal.SIGINT
    assert time.monotonic() - start < 15  # less than the 20 s that a first one waits
    assert "Traceback" not in run.err
    assert_none_running(pids)


@pytest.mark.slow  # waits
def test_more_signals_while_it_stops_its_workers(launch):
    """Impatience must not leave the workers behind, nor show a traceback."""
    run = launch("for number in (2, 15): signal.signal(number, signal.SIG_IGN)\nalive()")
    pids = run.pids(2)
    for _ in range(4):
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert run.end() == 128 + signal.SIGINT
    assert run.err == ""
    assert_none_running(pids)


def test_a_launcher_killed_leaves_nobody_behind(launch):
    run = launch("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nalive()", workers=3)
    pids = run.pids(3)
    run.process.kill()
    assert_none_running(pids)
