"""Several workers on one machine: started together, watched together, stopped together. Knows no TensorFlow."""

import ctypes
import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from absl import flags

from dqgan_tf.training.errors import EXIT_PEER_LOST, EXIT_USAGE

_GRACE_SECONDS = 20.0
_SETTLE_SECONDS = 3.0
_TAIL_LINES = 15
# What TensorFlow 2.21 prints at import whatever its log level; it stays in the log files.
_START_UP_NOISE = re.compile(r"^(WARNING: All log messages before absl|[IWE]0000 )|rebuild TensorFlow with the")
_PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True)
class LaunchConfig:
    """What to start.

    command: of one worker, the same for all.
    num_workers: how many.
    log_dir: for `worker_<i>.log`.
    max_restarts: how often all are started again after one has failed.
    """

    command: tuple[str, ...]
    num_workers: int
    log_dir: pathlib.Path
    max_restarts: int = 0


class Launcher:
    """Runs the workers of a `LaunchConfig` until all are done.

    The first to exit with an error is taken for the cause; the others are stopped and what they say is a consequence.
    SIGTERM and SIGINT are handed on to the workers, which save and leave. No worker outlives this process.
    """

    def __init__(self, config: LaunchConfig):
        self._config = config
        self._processes: list[subprocess.Popen] = []
        self._received: int | None = None
        self._hurried = False

    def run(self) -> int:
        """Returns 0, 128 + the signal that stopped all, or the exit code of the first worker that failed."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)
        for attempt in range(self._config.max_restarts + 1):
            code = self._run_once(attempt)
            if self._received or code in (0, EXIT_USAGE):  # what the user asked for cannot be done; again neither
                break
            if attempt < self._config.max_restarts:
                _say(f"Restart {attempt + 1} of {self._config.max_restarts}.")
        return 128 + self._received if self._received else code

    def _run_once(self, attempt):
        self._config.log_dir.mkdir(parents=True, exist_ok=True)
        ports = free_ports(self._config.num_workers)
        shown = self._log(0).stat().st_size if attempt else 0
        self._processes = [self._start(index, ports, attempt) for index in range(self._config.num_workers)]
        follower = Follower(self._log(0), shown)
        try:
            failed = self._wait()
        finally:
            self._stop()
            follower.close()
        if failed is None:
            return 0
        self._explain(failed)
        code = self._processes[failed].returncode
        return code if code > 0 else 128 - code

    def _start(self, index, ports, attempt):
        environment = worker_environment(ports, index)
        with open(self._log(index), "ab" if attempt else "wb") as log:
            return subprocess.Popen(
                self._config.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches them through this process alone: twice is at once
                preexec_fn=die_with_parent,
            )

    def _wait(self):
        """Returns the index of the first worker that failed, or None when all have ended well or were asked to stop."""
        deadline = None
        while self._running():
            cause = self._cause()
            if cause is not None:
                return self._settled(cause)
            if self._received and deadline is None:
                deadline = time.monotonic() + _GRACE_SECONDS
                self._send(self._received)
            if deadline and (self._hurried or time.monotonic() > deadline):
                return None
            time.sleep(0.05)
        return self._cause()

    def _settled(self, cause):
        """The cause, a moment later if it only lost another: who fails first need not be the first to exit."""
        end = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < end and cause is not None and self._processes[cause].returncode == EXIT_PEER_LOST:
            time.sleep(0.02)
            cause = self._cause()  # None when a signal has come meanwhile
        return cause

    def _running(self):
        # All are polled: any() over polls stops at the first that runs and never sees a later one die.
        return [process for process in self._processes if process.poll() is None]

    def _cause(self):
        """The worker that failed, of several rather one that did not lose another; None once all were asked to stop."""
        if self._received:
            return None
        codes = [process.poll() for process in self._processes]
        failed = [(code == EXIT_PEER_LOST, index) for index, code in enumerate(codes) if code]
        return min(failed)[1] if failed else None

    def _stop(self):
        """Ends what is still running: asked first, killed after a grace."""
        for number, grace in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            self._send(number)
            end = time.monotonic() + grace
            while time.monotonic() < end and self._running():
                time.sleep(0.02)

    def _send(self, number):
        """Sends a signal to what is still running."""
        for process in self._running():
            process.send_signal(number)

    def _receive(self, number, frame):
        # Acted on by `_wait`: here the workers may be half started, or half stopped.
        del frame
        self._hurried = self._received is not None
        self._received = self._received or number

    def _explain(self, index):
        code = self._processes[index].returncode
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        _say(f"Worker {index} {how}. The end of {self._log(index)}:")
        for line in last_lines(self._log(index), _TAIL_LINES):
            _say(f"  {line}")

    def _log(self, index):
        return self._config.log_dir / f"worker_{index}.log"


class Follower:
    """Copies a growing file to the screen from `offset` until it is closed, without TensorFlow's start-up notices."""

    def __init__(self, path: pathlib.Path, offset: int = 0):
        self._path = path
        self._closing = threading.Event()
        self._offset = offset
        self._rest = ""
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Copies what is left and ends."""
        self._closing.set()
        self._thread.join()

    def _follow(self):
        while not self._closing.wait(0.1):
            self._copy()
        self._copy()
        if self._rest:
            self._show(self._rest)

    def _copy(self):
        with open(self._path, encoding="utf-8", errors="replace") as file:
            file.seek(self._offset)
            text = self._rest + file.read()
            self._offset = file.tell()
        *lines, self._rest = text.split("\n")
        for line in lines:
            self._show(line)

    def _show(self, line):
        if not _START_UP_NOISE.search(line):
            print(line, flush=True)


def worker_environment(ports: Sequence[int], index: int) -> dict[str, str]:
    """Returns this process' environment with TF_CONFIG for worker `index` and its share of the processors.

    Thread counts that the user has set stay. One worker gets no TF_CONFIG: nothing of a cluster is started then.
    """
    environment = dict(os.environ)
    environment.pop("TF_CONFIG", None)
    if len(ports) > 1:
        workers = [f"127.0.0.1:{port}" for port in ports]
        task = {"type": "worker", "index": index}
        environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    threads = max(1, len(os.sched_getaffinity(0)) // len(ports))
    environment.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
    environment.setdefault("TF_NUM_INTEROP_THREADS", "2")  # one may wait in a collective while the other computes
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    environment.setdefault("PYTHONUNBUFFERED", "1")
    return environment


def free_ports(count: int) -> list[int]:
    """Returns `count` different ports that are free now. Another process may still take one before the worker does."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def last_lines(path: pathlib.Path, count: int) -> list[str]:
    """Returns the last `count` lines of a file, without TensorFlow's start-up notices."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if line and not _START_UP_NOISE.search(line)][-count:]


def model_dir_of(arguments: Sequence[str]) -> str | None:
    """Returns --model_dir among a worker's arguments, read as the worker will, --flagfile included; None without one.

    Raises:
      absl.flags.Error: a flagfile cannot be read, or --model_dir has no value.
    """
    known = flags.FlagValues()
    flags.DEFINE_string("model_dir", None, "As of the worker.", flag_values=known)
    known.set_gnu_getopt()  # the value behind an unknown `--name value` ends nothing
    known(["worker", *arguments], known_only=True)
    return known.model_dir


def die_with_parent() -> None:
    """Makes the calling process end with its parent: for `preexec_fn`."""
    # Without it a launcher that is killed -9 leaves workers behind. Linux only.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _say(text):
    print(text, file=sys.stderr, flush=True)
