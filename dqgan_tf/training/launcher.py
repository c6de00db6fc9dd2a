"""Starts the workers of one machine, watches them and stops all if one fails. Imports no TensorFlow.

Without TF_CONFIG these are all workers of a job. If TF_CONFIG names a cluster, it is this machine's worker alone.
"""

import ctypes
import dataclasses
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from absl import flags

from dqgan_tf.distribute import tf_config
from dqgan_tf.errors import EXIT_FAULT, EXIT_PEER_LOST, EXIT_USAGE, UsageError
from dqgan_tf.tensorflow_texts import START_UP_NOISE
from dqgan_tf.training import command

_GRACE_SECONDS = 20.0  # for workers to save and exit after a signal
_SETTLE_SECONDS = 3.0  # for a lost worker to exit after those that lost it
_TAIL_LINES = 15  # of the log of a worker that failed
_TRACEBACK_LINES = 50  # the same after a fault
_PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True)
class LaunchConfig:
    """Settings of a `Launcher`.

    command: command line of every worker.
    num_workers: number of workers.
    log_dir: folder of `worker_<i>.log`.
    max_restarts: number of times that all workers start again after one failed.
    index_in_cluster: index of the only worker in the cluster of TF_CONFIG; None: the launcher makes a cluster of its
      own.
    """

    command: tuple[str, ...]
    num_workers: int
    log_dir: pathlib.Path
    max_restarts: int = 0
    index_in_cluster: int | None = None


class Launcher:
    """Runs the workers of a `LaunchConfig` until all have exited.

    The first worker that exits with an error is reported as the cause of the failure. The launcher then stops the other
    workers and ignores their exit codes. SIGTERM and SIGINT are forwarded to the workers, which save and exit. No
    worker outlives this process.
    """

    def __init__(self, config: LaunchConfig):
        self._config = config
        self._first_index = config.index_in_cluster or 0
        self._secret = secrets.token_hex(32)
        self._processes: list[subprocess.Popen] = []
        self._signal: int | None = None
        self._hurried = False

    def run(self) -> int:
        """Returns 0, 128 + the signal that stopped all workers, or the exit code of the first worker that failed.

        All workers start again after any failure but `EXIT_USAGE`, up to `max_restarts` times. In a cluster of
        TF_CONFIG every machine's launcher does so for its worker: the workers that lost another one exit, start again
        and wait for each other.

        Raises:
          UsageError: the folder of the logs cannot be made.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)
        for attempt in range(self._config.max_restarts + 1):
            code = self._run_once(attempt)
            if self._signal or code in (0, EXIT_USAGE):  # a restart does not correct a flag
                break
            if attempt < self._config.max_restarts:
                _say(f"Restart {attempt + 1} of {self._config.max_restarts}.")
        return 128 + self._signal if self._signal else code

    def _run_once(self, attempt):
        try:
            self._config.log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--log_dir={self._config.log_dir} cannot be made: {error.strerror}") from None
        in_cluster = self._config.index_in_cluster is not None
        ports = [] if in_cluster else free_ports(self._config.num_workers)
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
        self._report(failed)
        code = self._processes[failed].returncode
        return code if code > 0 else 128 - code

    def _start(self, index, ports, attempt):
        environment = worker_environment(ports, index, self._secret)
        with open(self._log(index), "ab" if attempt else "wb") as log:
            return subprocess.Popen(
                self._config.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # else Ctrl-C would signal a worker twice, and a second signal skips saving
                preexec_fn=die_with_parent,
            )

    def _wait(self):
        """Returns the index of the worker that failed first, or None after success or a signal to this process."""
        deadline = None
        while self._running():
            cause = self._cause()
            if cause is not None:
                return self._settled(cause)
            if self._signal and deadline is None:
                deadline = time.monotonic() + _GRACE_SECONDS
                self._send(self._signal)
            if deadline and (self._hurried or time.monotonic() > deadline):
                return None
            time.sleep(0.05)
        return self._cause()

    def _settled(self, cause):
        """Returns the index of the worker that failed. If its exit code is EXIT_PEER_LOST, waits for the worker that it
        lost to exit, up to `_SETTLE_SECONDS`, and returns that one."""
        end = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < end and cause is not None and self._processes[cause].returncode == EXIT_PEER_LOST:
            time.sleep(0.02)
            cause = self._cause()  # None if a signal has arrived meanwhile
        return cause

    def _running(self):
        # Polls all processes; any() would stop at the first that runs and never reap a later one.
        return [process for process in self._processes if process.poll() is None]

    def _cause(self):
        """Returns a worker that failed, if possible one that did not exit with EXIT_PEER_LOST. None after a signal."""
        if self._signal:
            return None
        codes = [process.poll() for process in self._processes]
        failed = [(code == EXIT_PEER_LOST, index) for index, code in enumerate(codes) if code]
        return min(failed)[1] if failed else None

    def _stop(self):
        """Ends the running workers: SIGTERM, then SIGKILL after five seconds."""
        for number, grace in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            self._send(number)
            end = time.monotonic() + grace
            while time.monotonic() < end and self._running():
                time.sleep(0.02)

    def _send(self, number):
        """Sends a signal to the running workers."""
        for process in self._running():
            process.send_signal(number)

    def _receive(self, number, frame):
        # `_wait` forwards it. At this moment some workers may not have started, or may be stopping.
        del frame
        self._hurried = self._signal is not None
        self._signal = self._signal or number

    def _report(self, index):
        code = self._processes[index].returncode
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        _say(f"Worker {self._first_index + index} {how}. The end of {self._log(index)}:")
        for line in last_lines(self._log(index), _TRACEBACK_LINES if code == EXIT_FAULT else _TAIL_LINES):
            _say(f"  {line}")

    def _log(self, index):
        return self._config.log_dir / f"worker_{self._first_index + index}.log"


class Follower:
    """Prints a growing file from `offset` on until closed, without TensorFlow's start-up notices."""

    def __init__(self, path: pathlib.Path, offset: int = 0):
        self._path = path
        self._closing = threading.Event()
        self._offset = offset
        self._rest = ""
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Prints the rest of the file and stops."""
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
        if not START_UP_NOISE.search(line):
            print(line, flush=True)


def worker_environment(ports: Sequence[int], index: int, secret: str = "") -> dict[str, str]:
    """Returns this process' environment, with TF_CONFIG for worker `index`, thread counts and the workers' secret.

    Thread counts that the environment has are not changed; others are a worker's share of the cores. A single worker
    gets no TF_CONFIG and starts no cluster. Without `ports`, TF_CONFIG stays as it is.
    """
    environment = dict(os.environ)
    if ports:
        environment.pop("TF_CONFIG", None)
    if len(ports) > 1:
        workers = [f"127.0.0.1:{port}" for port in ports]
        task = {"type": "worker", "index": index}
        environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    threads = max(1, len(os.sched_getaffinity(0)) // max(1, len(ports)))
    environment.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
    environment.setdefault("TF_NUM_INTEROP_THREADS", "2")  # one can wait in a collective while the other computes
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    environment.setdefault("PYTHONUNBUFFERED", "1")
    if ports:
        environment.setdefault(tf_config.SECRET, secret)
    return environment


def index_in_cluster(num_workers: int | None, scheduler: str | None = None) -> int | None:
    """Returns this process' worker of the cluster that TF_CONFIG names, or None if it names no cluster.

    Args:
      num_workers: --num_workers, None if it was not given.
      scheduler: --cluster: TF_CONFIG is first made from the scheduler's variables, for the worker to read.

    Raises:
      UsageError: TF_CONFIG or the variables cannot be used, or name a cluster while `num_workers` asks for another one.
    """
    if scheduler:
        os.environ["TF_CONFIG"] = tf_config.of_scheduler(scheduler, os.environ)
    place = tf_config.read(os.environ)
    if place is not None and num_workers is not None:
        source, remedy = (
            (f"--cluster={scheduler}", "leave out --cluster") if scheduler else ("TF_CONFIG", "unset TF_CONFIG")
        )
        raise UsageError(
            f"--num_workers={num_workers} asks for a cluster on this machine, and {source} names one of "
            f"{place.num_workers} workers. Leave out --num_workers to run worker {place.worker_index} of it, or "
            f"{remedy}."
        )
    return place.worker_index if place else None


def free_ports(count: int) -> list[int]:
    """Returns `count` different free ports. Another process may take one before the worker does."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def last_lines(path: pathlib.Path, count: int) -> list[str]:
    """Returns the last `count` lines of a file, without TensorFlow's start-up notices."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if line and not START_UP_NOISE.search(line)][-count:]


def log_dir_of(arguments: Sequence[str]) -> pathlib.Path:
    """Returns the default folder of the workers' logs: logs/ in the --model_dir of their `arguments`.

    --model_dir is read as the worker will read it, also from a --flagfile.

    Raises:
      UsageError: there is no --model_dir, it has no value, or a flagfile cannot be read.
    """
    worker_flags = flags.FlagValues()
    command.define_path("model_dir", "As of the worker.", flag_values=worker_flags)
    worker_flags.set_gnu_getopt()  # without it, the value of `--steps 5` would end the parsing
    try:
        worker_flags(["worker", *arguments], known_only=True)
    except flags.Error as error:
        raise UsageError(str(error)) from None
    if not worker_flags.model_dir:
        raise UsageError("Give --model_dir=DIR after --, or --log_dir=DIR before it.")
    return pathlib.Path(worker_flags.model_dir) / "logs"


def die_with_parent() -> None:
    """Makes Linux kill the calling process when its parent ends, even if SIGKILL ends that. For `preexec_fn`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _say(text):
    print(text, file=sys.stderr, flush=True)
