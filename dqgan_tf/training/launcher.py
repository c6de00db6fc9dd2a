"""Starts the workers of one machine, watches them and stops all if one fails. Imports no TensorFlow.

Without TF_CONFIG these are all workers of a job, and its evaluator if there is to be one. If TF_CONFIG names a cluster,
it is this machine's task alone.
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

_GRACE_SECONDS = 20.0  # limit for workers to save and exit after a signal
_SETTLE_SECONDS = 3.0  # limit for a lost worker to exit after those that lost it
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
    name_in_cluster: name of the only process, which has the task of TF_CONFIG; see the function of that name. None: the
      launcher makes a cluster of its own.
    evaluator: start an evaluator beside the workers.
    """

    command: tuple[str, ...]
    num_workers: int
    log_dir: pathlib.Path
    max_restarts: int = 0
    name_in_cluster: str | None = None
    evaluator: bool = False


class Launcher:
    """Runs the workers of a `LaunchConfig` until all have exited.

    The first worker that exits with an error is reported as the cause of the failure. The launcher then stops the other
    workers and ignores their exit codes. SIGTERM and SIGINT are forwarded to the workers, which save and exit. No
    worker outlives this process.

    The evaluator starts with the workers and goes on while they start again. Its failure is reported and stops no
    worker. After the run it may finish; if the workers fail, it is stopped.
    """

    def __init__(self, config: LaunchConfig):
        self._config = config
        in_cluster = config.name_in_cluster
        self._names = [in_cluster] if in_cluster else [f"worker_{index}" for index in range(config.num_workers)]
        self._secret = secrets.token_hex(32)
        self._processes: list[subprocess.Popen] = []
        self._evaluator: subprocess.Popen | None = None
        self._evaluator_code = 0  # once it has ended
        self._signal: int | None = None
        self._hurried = False

    def run(self) -> int:
        """Returns 0, 128 + the signal that stopped all workers, or the exit code of the first worker that failed. If
        only the evaluator failed, its code.

        All workers start again after any failure but `EXIT_USAGE`, up to `max_restarts` times. In a cluster of
        TF_CONFIG every machine's launcher does so for its worker: the workers that lost another one exit, start again
        and wait for each other.

        Raises:
          UsageError: the folder of the logs cannot be made.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)
        try:
            for attempt in range(self._config.max_restarts + 1):
                code = self._run_once(attempt)
                if self._signal or code in (0, EXIT_USAGE):  # a restart does not correct a flag
                    break
                if attempt < self._config.max_restarts:
                    _say(f"Restart {attempt + 1} of {self._config.max_restarts}.")
            while code == 0 and not self._signal and self._evaluator_runs():
                time.sleep(0.05)
        finally:
            self._stop(self._evaluators())
        return 128 + self._signal if self._signal else code or self._evaluator_code

    def _run_once(self, attempt):
        try:
            self._config.log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--log_dir={self._config.log_dir} cannot be made: {error.strerror}") from None
        ports = [] if self._config.name_in_cluster else free_ports(self._config.num_workers)
        first = self._log(self._names[0])
        shown = first.stat().st_size if first.exists() else 0
        self._processes = [
            self._start(name, worker_environment(ports, index, self._secret)) for index, name in enumerate(self._names)
        ]
        if self._config.evaluator and not attempt:
            self._evaluator = self._start("evaluator", evaluator_environment(ports))
        follower = Follower(first, shown)
        try:
            failed = self._wait()
        finally:
            self._stop(self._processes)
            follower.close()
        if failed is None:
            return 0
        return self._report(self._names[failed], self._processes[failed].returncode)

    def _start(self, name, environment):
        # Appended: another job may be writing there, which the workers find out after this.
        with open(self._log(name), "ab") as log:
            return subprocess.Popen(
                self._config.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # else Ctrl-C would signal a worker twice, and a second signal skips saving
                preexec_fn=die_with_parent,
            )

    def _evaluators(self):
        return [self._evaluator] if self._evaluator else []

    def _evaluator_runs(self):
        """Returns whether the evaluator is at work. When it has failed, says so, once."""
        code = self._evaluator.poll() if self._evaluator else 0
        if code and not self._evaluator_code and not self._signal:
            self._evaluator_code = self._report("evaluator", code)
        return code is None

    def _wait(self):
        """Returns the index of the worker that failed first, or None after success or a signal to this process."""
        deadline = None
        while self._running(self._processes):
            self._evaluator_runs()
            cause = self._cause()
            if cause is not None:
                return self._settled(cause)
            if self._signal and deadline is None:
                deadline = time.monotonic() + _GRACE_SECONDS
                self._send(self._signal, self._processes + self._evaluators())
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

    def _running(self, processes):
        # Polls all processes; any() would stop at the first that runs and never reap a later one.
        return [process for process in processes if process.poll() is None]

    def _cause(self):
        """Returns a worker that failed, if possible one that did not exit with EXIT_PEER_LOST. None after a signal."""
        if self._signal:
            return None
        codes = [process.poll() for process in self._processes]
        failed = [(code == EXIT_PEER_LOST, index) for index, code in enumerate(codes) if code]
        return min(failed)[1] if failed else None

    def _stop(self, processes):
        """Ends the processes that run: SIGTERM, then SIGKILL after five seconds."""
        for number, grace in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            self._send(number, processes)
            end = time.monotonic() + grace
            while time.monotonic() < end and self._running(processes):
                time.sleep(0.02)

    def _send(self, number, processes):
        """Sends a signal to the processes that run."""
        for process in self._running(processes):
            process.send_signal(number)

    def _receive(self, number, frame):
        # `_wait` forwards it. At this moment some workers may not have started, or may be stopping.
        del frame
        self._hurried = self._signal is not None
        self._signal = self._signal or number

    def _report(self, name, code):
        """Says how a process failed, with the end of its log. Returns its exit code, 128 + n for signal n."""
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        _say(f"{name.capitalize().replace('_', ' ')} {how}. The end of {self._log(name)}:")
        for line in last_lines(self._log(name), _TRACEBACK_LINES if code == EXIT_FAULT else _TAIL_LINES):
            _say(f"  {line}")
        return code if code > 0 else 128 - code

    def _log(self, name):
        return self._config.log_dir / f"{name}.log"


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
    gets no TF_CONFIG and starts no cluster. Without `ports`, TF_CONFIG and the secret stay as they are: each machine of
    a cluster has a launcher of its own, which knows nothing of the others.
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
    if ports and secret and tf_config.secret(os.environ) is None:  # of workers that this process starts, not of others
        environment[tf_config.SECRET] = secret
    return environment


def evaluator_environment(ports: Sequence[int]) -> dict[str, str]:
    """Returns the environment of the evaluator beside the workers with these ports."""
    workers = [f"127.0.0.1:{port}" for port in ports]
    config = {"cluster": {"worker": workers}, "task": {"type": "evaluator", "index": 0}}
    return worker_environment(ports, 0) | {"TF_CONFIG": json.dumps(config)}


def name_in_cluster(num_workers: int | None, evaluator: bool = False, scheduler: str | None = None) -> str | None:
    """Returns the name of this machine's task in the cluster that TF_CONFIG names, `worker_<i>` or `evaluator`.

    None if TF_CONFIG names no cluster.

    Args:
      num_workers: --num_workers, None if it was not given.
      evaluator: --evaluator.
      scheduler: --cluster: TF_CONFIG is first made from the scheduler's variables, for the worker to read.

    Raises:
      UsageError: TF_CONFIG or the variables cannot be used, or name a cluster while `num_workers` or `evaluator` asks
        for another one.
    """
    if scheduler:
        os.environ["TF_CONFIG"] = tf_config.of_scheduler(scheduler, os.environ)
    is_evaluator = tf_config.is_evaluator(os.environ)
    place = None if is_evaluator else tf_config.read(os.environ)
    if not is_evaluator and place is None:
        return None
    task = f"worker {place.worker_index}" if place else "the evaluator"
    source, remedy = (
        (f"--cluster={scheduler}", "leave out --cluster") if scheduler else ("TF_CONFIG", "unset TF_CONFIG")
    )
    if num_workers is not None:
        size = f"one of {place.num_workers} workers" if place else "another one"
        raise UsageError(
            f"--num_workers={num_workers} asks for a cluster on this machine, and {source} names {size}. Leave out "
            f"--num_workers to run {task} of it, or {remedy}."
        )
    if evaluator:
        raise UsageError(
            f"--evaluator starts an evaluator beside the workers of one machine, and {source} names a cluster. Leave "
            f"out --evaluator to run {task} of it, and start the task evaluator with a TF_CONFIG of its own."
        )
    return task.replace(" ", "_") if place else "evaluator"


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
