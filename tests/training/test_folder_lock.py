"""One job writes a folder: locks between real processes, and after a kill."""

import json
import os
import signal
import subprocess
import sys

import pytest

from dqgan_tf.errors import UsageError
from dqgan_tf.training import folder_lock

_HOLDER = """
import pathlib, sys, time
from dqgan_tf.training import folder_lock
folder_lock.acquire(pathlib.Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "run"
    folder_lock.release(tmp_path / "run")


@pytest.fixture
def holder(folder):
    """A process that has locked the folder."""
    process = subprocess.Popen([sys.executable, "-c", _HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_and_told_of_the_first(folder, holder):
    with pytest.raises(UsageError, match=rf"in use by process {holder.pid} on {os.uname().nodename}\. Stop that"):
        folder_lock.acquire(folder)


def test_whether_another_process_holds_it_can_be_asked_without_a_lock(folder, holder):
    """The evaluator asks, and must not be in the way of a job that starts at that moment."""
    assert folder_lock.is_held(folder) and (folder / "LOCK").exists()
    holder.kill()
    holder.wait()
    assert not folder_lock.is_held(folder)
    assert not folder_lock.is_held(folder / "none")


def test_a_frozen_process_keeps_its_lock(folder, holder):
    """It could go on to write when it is continued."""
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(UsageError, match="in use"):
        folder_lock.acquire(folder)


def test_a_killed_process_leaves_no_lock(folder, holder):
    holder.kill()
    holder.wait()
    folder_lock.acquire(folder)
    assert json.loads((folder / "LOCK").read_text())["process"] == os.getpid()


def test_the_same_process_may_lock_again(folder, tmp_path):
    """As after a `fit` that an exception ended; also by another spelling of the path."""
    folder_lock.acquire(folder)
    folder_lock.acquire(tmp_path / "run" / ".." / "run")
    done = subprocess.run([sys.executable, "-c", _HOLDER, str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode and "is in use by process" in done.stderr


def test_released(folder, tmp_path):
    folder_lock.acquire(folder)
    folder_lock.release(folder)
    folder_lock.release(folder)
    assert list(folder.iterdir()) == []
    process = subprocess.Popen([sys.executable, "-c", _HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    process.kill()
    process.communicate()


def test_a_file_that_its_holder_has_removed_meanwhile_is_no_lock(folder, monkeypatch):
    """Another job opened the file before it was removed: a lock on it would exclude nobody."""
    lockf, removed = folder_lock.fcntl.lockf, []

    def remove_first(descriptor, operation):
        if not removed:
            removed.append((folder / "LOCK").unlink())
        lockf(descriptor, operation)

    monkeypatch.setattr(folder_lock.fcntl, "lockf", remove_first)
    folder_lock.acquire(folder)
    assert removed and json.loads((folder / "LOCK").read_text())["process"] == os.getpid()


def test_a_file_system_without_locks(folder, monkeypatch, capsys):
    def no_locks(descriptor, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "lockf", no_locks)
    folder_lock.acquire(folder)
    assert "has no file locks: make sure that no other job" in capsys.readouterr().err
