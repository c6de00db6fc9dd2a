"""Real worker processes on this machine, for tests."""

import contextlib
import functools
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

from tests.distributed.forks import ROOT, Forks

_SECONDS_FOR_STACKS = 5


class Cluster:
    """`num_workers` processes of one command under TF_CONFIG, each with its output in a file.

    Args:
      command: arguments after the interpreter, `-m MODULE ...` or `-c CODE ...`.
      folder: for the outputs.
      num_workers: 1 starts a process without TF_CONFIG.
      extra: per worker, further arguments.
      environment: further variables.
    """

    def __init__(self, command, folder, num_workers=2, extra=None, environment=None):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        ports = free_ports(num_workers)
        self.logs = [folder / f"worker_{i}.log" for i in range(num_workers)]
        self.processes = []
        for index in range(num_workers):
            arguments = [*command, *(extra[index] if extra else [])]
            variables = environment_of(ports, index) | (environment or {})
            self.processes.append(start(arguments, variables, self.logs[index]))

    def wait(self, timeout=240):
        """Returns the exit codes; when `timeout` seconds pass, kills all and fails with the stacks of their threads."""
        end = time.monotonic() + timeout
        try:
            return [process.wait(max(0.1, end - time.monotonic())) for process in self.processes]
        except subprocess.TimeoutExpired:
            self.kill(number=signal.SIGABRT)
            time.sleep(_SECONDS_FOR_STACKS)
            self.kill()
            raise AssertionError("workers did not end:\n" + self.output()) from None

    def kill(self, index=None, number=signal.SIGKILL):
        """Sends a signal to one worker or to all."""
        chosen = self.processes if index is None else [self.processes[index]]
        for process in chosen:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def output(self, index=None):
        """Returns what one worker, or all, printed."""
        chosen = self.logs if index is None else [self.logs[index]]
        return "\n".join(f"--- {path.name}\n{path.read_text()[-6000:]}" for path in chosen)


def start(arguments, environment, log):
    """Starts `python *arguments` in a fork of a process that has imported TensorFlow; see `forks.Forks.start`."""
    return _forks().start(arguments, environment, log)


def run(command, folder, num_workers=2, timeout=240, **options):
    """Runs a cluster to its end; fails unless every worker exits with 0. Returns the cluster."""
    cluster = Cluster(command, folder, num_workers, **options)
    codes = cluster.wait(timeout)
    assert codes == [0] * num_workers, cluster.output()
    return cluster


def wait_for(condition, timeout=180, what="condition"):
    """Polls until `condition()` holds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about in {timeout} s"
        time.sleep(0.05)


def free_ports(count):
    """Returns ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@functools.cache
def _forks():
    """Forks of TensorFlow, one process for all tests of this one; it ends when this one does."""
    return Forks("tensorflow", "keras", environment=environment_of([0], 0))


def environment_of(ports, index):
    # One thread each: two processes share two cores, and oversubscription makes collectives slow.
    variables = dict(
        os.environ,
        CUDA_VISIBLE_DEVICES="-1",
        TF_CPP_MIN_LOG_LEVEL="2",
        TF_NUM_INTRAOP_THREADS="1",
        TF_NUM_INTEROP_THREADS="2",
        OMP_NUM_THREADS="1",
        PYTHONFAULTHANDLER="1",
        PYTHONPATH=str(ROOT),
    )
    variables.pop("TF_CONFIG", None)
    if len(ports) > 1:
        workers = [f"127.0.0.1:{port}" for port in ports]
        variables["TF_CONFIG"] = json.dumps(
            {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        )
    return variables
