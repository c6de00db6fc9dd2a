"""The worker processes of the benchmarks: starts them, connects them by links of a given rate, and sends requests."""

import contextlib
import json
import math
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.provenance import ROOT
from dqgan_tf.errors import UsageError
from dqgan_tf.training import launcher

LOOPBACK = "loopback"
_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_FIRST_PORT = 2222
_NAMESPACE = re.compile(r"dqgan-(\d+)-(?:switch|lo|\d+)")
_ANSWER_SECONDS = 600
_TAIL_LINES = 15


def bits_per_second(rate: str) -> float:
    """Returns the bits per second of a rate such as `100mbit`, as tc reads it; infinity for `loopback`.

    Raises:
      UsageError: the rate is not of that form, or zero.
    """
    if rate == LOOPBACK:
        return math.inf
    match = re.fullmatch(rf"(\d+(?:\.\d+)?)({'|'.join(_UNITS)})", rate, re.ASCII)
    if not match or not float(match[1]):
        units = ", ".join(_UNITS)
        raise UsageError(f"`rate` must be {LOOPBACK}, or a number and one of {units}, like 1gbit. Received: {rate!r}")
    return float(match[1]) * _UNITS[match[2]]


def wire_milliseconds(sent_bytes: int, rate: str) -> float:
    """Returns the milliseconds that the bytes alone take: 8000 bytes / rate; 0 on loopback."""
    return 8e3 * sent_bytes / bits_per_second(rate)


class Place(NamedTuple):
    """Host or network namespace of one worker of every program.

    prefix: words before the command of the worker.
    addresses: host:port, one for each program.
    interface: network interface of the worker.
    """

    prefix: tuple[str, ...]
    addresses: tuple[str, ...]
    interface: str


@contextlib.contextmanager
def places(num_workers: int, rate: str = LOOPBACK, programs: int = 1) -> Iterator[list[Place]]:
    """Yields a place for every worker.

    With a rate every worker has a network namespace with one link to a common switch; both directions of each link
    have `rate` (token bucket filter). With `loopback`, workers share one new namespace, so that its counters count
    nothing else; without root or `ip`, they use the machine's loopback. The namespaces are removed at the end; those of
    a killed benchmark are removed at the start.

    Raises:
      UsageError: the rate cannot be read, or needs root or a program (`ip`, `tc` of iproute2) that is missing.
      OSError: `ip` or `tc` fails.
    """
    if rate != LOOPBACK:
        bits_per_second(rate)
        _check_rights(rate)
    elif num_workers == 1 or os.geteuid() != 0 or shutil.which("ip") is None:
        ports = launcher.free_ports(programs * num_workers)
        yield [_on_loopback((), ports[index::num_workers]) for index in range(num_workers)]
        return
    _remove(*stale(subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout))
    prefix = f"dqgan-{os.getpid()}"
    names = [f"{prefix}-{index}" for index in range(num_workers)]
    try:
        if rate == LOOPBACK:
            yield _private_loopback(f"{prefix}-lo", num_workers, programs)
        else:
            _make_network(f"{prefix}-switch", names, rate)
            yield [_behind_a_link(index, name, programs) for index, name in enumerate(names)]
    finally:
        _remove(f"{prefix}-lo", f"{prefix}-switch", *names)


def stale(namespaces: str) -> list[str]:
    """Returns the benchmark's namespaces whose process has ended, from the output of `ip netns list`."""
    names = [line.split()[0] for line in namespaces.splitlines() if line.strip()]
    matches = [match for match in map(_NAMESPACE.fullmatch, names) if match]
    return [match[0] for match in matches if not pathlib.Path(f"/proc/{match[1]}").exists()]


def _check_rights(rate):
    instead = "--rate=loopback works without"
    if os.geteuid() != 0:
        raise UsageError(f"--rate={rate} needs root: it makes network namespaces and sets tc on them; {instead}.")
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            raise UsageError(f"--rate={rate} needs the program {program!r} (package iproute2); {instead}.")


def _on_loopback(prefix, ports):
    return Place(prefix, tuple(f"127.0.0.1:{port}" for port in ports), "lo")


def _private_loopback(name, num_workers, programs):
    _run("ip", "netns", "add", name)
    _run("ip", "-n", name, "link", "set", "lo", "up")
    first = [_FIRST_PORT + index * programs for index in range(num_workers)]
    return [_on_loopback(("ip", "netns", "exec", name), range(port, port + programs)) for port in first]


def _behind_a_link(index, name, programs):
    addresses = tuple(f"{_host(index)}:{_FIRST_PORT + number}" for number in range(programs))
    return Place(("ip", "netns", "exec", name), addresses, f"link{index}")


def _make_network(switch, names, rate):
    _run("ip", "netns", "add", switch)
    _run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
    _run("ip", "-n", switch, "link", "set", "br0", "up")
    # tc sends a burst at full speed, whatever the rate: one large packet, or the bytes of .1 ms at the rate.
    burst = max(70_000, round(1e-4 * bits_per_second(rate) / 8))
    for index, name in enumerate(names):
        inner, outer = f"link{index}", f"port{index}"
        _run("ip", "netns", "add", name)
        _run(*f"ip link add {inner} netns {name} type veth peer name {outer} netns {switch}".split())
        _run("ip", "-n", switch, "link", "set", outer, "master", "br0", "up")
        _run("ip", "-n", name, "address", "add", f"{_host(index)}/24", "dev", inner)
        for link in ("lo", inner):
            _run("ip", "-n", name, "link", "set", link, "up")
        for namespace, link in ((name, inner), (switch, outer)):
            limit = f"rate {rate} burst {burst} latency 50ms"
            _run("tc", "-n", namespace, *f"qdisc add dev {link} root tbf {limit}".split())


def _host(index):
    return f"10.77.0.{index + 1}"


def _remove(*names):
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _run(*command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise OSError(f"{' '.join(command)} failed: {' '.join(result.stderr.split())}")


class Crew:
    """One process of `python -P FILE ARGUMENTS` at every place. A context manager: the processes end with it.

    The processes also end when this process does. Their one argument is a JSON object: `arguments`, and `index`,
    `threads`, `device`, `addresses`, `interface`, `answers`; see `worker`.

    Args:
      file: the program, which answers requests by `worker.serve`.
      arguments: JSON object, the same for all processes.
      places: one per worker.
      program: index of the program in `Place.addresses`. None: the workers are not connected.
      threads: computation threads of each process.
      tree: the checkout from which the processes import dqgan_tf.
      device: cpu or gpu.
    """

    def __init__(
        self,
        file: str | os.PathLike,
        arguments: dict,
        places: Sequence[Place],
        program: int | None,
        *,
        threads: int = 1,
        tree: str | os.PathLike = ROOT,
        device: str = "cpu",
    ):
        self._file, self._threads, self._tree, self._device = file, threads, tree, device
        self._logs = tempfile.TemporaryDirectory()
        self._answers = queue.SimpleQueue()
        addresses = [] if program is None or len(places) == 1 else [place.addresses[program] for place in places]
        arguments = arguments | {"threads": threads, "addresses": addresses, "device": device}
        self._processes = [
            self._start(place, arguments | {"index": index, "interface": place.interface})
            for index, place in enumerate(places)
        ]

    def ask(self, request: str) -> list[Any]:
        """Sends a request to all workers; returns their answers in order.

        Raises:
          RuntimeError: a worker ended or did not answer in time, with the end of what it printed.
        """
        for index, process in enumerate(self._processes):
            try:
                process.stdin.write(request + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                raise self._failure(index) from None
        answers = {}
        while len(answers) < len(self._processes):
            try:
                index, line = self._answers.get(timeout=_ANSWER_SECONDS)
            except queue.Empty:
                index, line = min(set(range(len(self._processes))) - set(answers)), ""
            if not line:
                raise self._failure(index)
            answers[index] = json.loads(line)
        return [answers[index] for index in range(len(self._processes))]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._logs.cleanup()

    def _start(self, place, arguments):
        reading, writing = os.pipe()
        command = [sys.executable, "-P", os.fspath(self._file), json.dumps(arguments | {"answers": writing})]
        with open(self._log(arguments["index"]), "wb") as log:
            process = subprocess.Popen(
                [*place.prefix, *command],
                env=self._environment(arguments),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                pass_fds=[writing],
                preexec_fn=launcher.die_with_parent,
            )
        os.close(writing)
        threading.Thread(target=self._read, args=(arguments["index"], reading), daemon=True).start()
        return process

    def _environment(self, arguments):
        environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
        if arguments["addresses"]:
            task = {"type": "worker", "index": arguments["index"]}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": arguments["addresses"]}, "task": task})
        before = environment.get("PYTHONPATH")
        environment |= (
            {"TF_FORCE_GPU_ALLOW_GROWTH": "true"} if self._device == "gpu" else {"CUDA_VISIBLE_DEVICES": "-1"}
        )
        return environment | {
            "PYTHONPATH": f"{self._tree}{os.pathsep}{before}" if before else str(self._tree),
            "OMP_NUM_THREADS": str(self._threads),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_NUM_INTEROP_THREADS": "2",  # one waits in a collective while the other computes
            "TF_NUM_INTRAOP_THREADS": str(self._threads),
        }

    def _read(self, index, answers):
        with os.fdopen(answers, encoding="utf-8") as stream:
            for line in stream:
                self._answers.put((index, line))
        self._answers.put((index, ""))

    def _failure(self, index):
        try:
            end = f"exited with {self._processes[index].wait(5)}"
        except subprocess.TimeoutExpired:
            end = f"did not answer in {_ANSWER_SECONDS} s"
        tail = "\n".join(launcher.last_lines(self._log(index), _TAIL_LINES))
        return RuntimeError(f"Worker {index} of {pathlib.Path(self._file).name} {end}:\n{tail}")

    def _log(self, index):
        return pathlib.Path(self._logs.name) / f"worker_{index}.log"
