"""Where the workers run: on one loopback interface, or in a network namespace each behind a link of a given rate."""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from dqgan_tf.benchmarking import rates
from dqgan_tf.benchmarking.rates import LOOPBACK
from dqgan_tf.training import launcher

_PORTS = (2222, 2223)
_NAMESPACE = re.compile(r"dqgan-(\d+)-(?:switch|lo|\d+)")


class Place(NamedTuple):
    """Where one worker of every program runs.

    prefix: of its command.
    addresses: host:port, one for each of up to two programs.
    interface: through which it sends.
    """

    prefix: tuple[str, ...]
    addresses: tuple[str, ...]
    interface: str


@contextlib.contextmanager
def places(num_workers: int, rate: str = LOOPBACK) -> Iterator[list[Place]]:
    """Yields a place for every worker.

    With a rate every worker has a network namespace with one link to a common switch; both directions of each link
    carry `rate` (token bucket filter). `loopback` is a namespace of its own where that is possible, so that its
    counters hold nothing else, and the machine's otherwise. The namespaces are removed at the end; those that a killed
    benchmark has left are removed at the start.

    Raises:
      ValueError: the rate cannot be read.
      PermissionError: a rate is given without the right to make namespaces.
      FileNotFoundError: a rate is given, and `ip` or `tc` (iproute2) is missing.
      subprocess.CalledProcessError: `ip` or `tc` refuses.
    """
    if rate != LOOPBACK:
        rates.bits_per_second(rate)
        _check_rights()
    elif os.geteuid() != 0 or shutil.which("ip") is None:
        ports = launcher.free_ports(len(_PORTS) * num_workers)
        yield [_on_loopback((), ports[index::num_workers]) for index in range(num_workers)]
        return
    _remove_stale()
    prefix = f"dqgan-{os.getpid()}"
    names = [f"{prefix}-{index}" for index in range(num_workers)]
    try:
        if rate == LOOPBACK:
            yield _private_loopback(f"{prefix}-lo", num_workers)
        else:
            _make_network(f"{prefix}-switch", names, rate)
            yield [_behind_a_link(index, name) for index, name in enumerate(names)]
    finally:
        _remove(f"{prefix}-lo", f"{prefix}-switch", *names)


def _check_rights():
    if os.geteuid() != 0:
        raise PermissionError("A link of a given rate needs root: it makes network namespaces and sets tc on them.")
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            raise FileNotFoundError(f"A link of a given rate needs the program {program!r} (package iproute2).")


def _on_loopback(prefix, ports):
    return Place(prefix, tuple(f"127.0.0.1:{port}" for port in ports), "lo")


def _private_loopback(name, num_workers):
    _ip("netns", "add", name)
    _ip("-n", name, "link", "set", "lo", "up")
    ports = [[first + 10 * index for first in _PORTS] for index in range(num_workers)]
    return [_on_loopback(("ip", "netns", "exec", name), pair) for pair in ports]


def _behind_a_link(index, name):
    addresses = tuple(f"{_host(index)}:{port}" for port in _PORTS)
    return Place(("ip", "netns", "exec", name), addresses, _inner(index))


def _make_network(switch, names, rate):
    _ip("netns", "add", switch)
    _ip("-n", switch, "link", "add", "br0", "type", "bridge")
    _ip("-n", switch, "link", "set", "br0", "up")
    # The burst goes out at once, whatever the rate: it is kept at one large packet, or at what 0.1 ms lets through.
    burst = max(70_000, round(1e-4 * rates.bits_per_second(rate) / 8))
    for index, name in enumerate(names):
        inner, outer = _inner(index), f"port{index}"
        _ip("netns", "add", name)
        _ip("link", "add", inner, "netns", name, "type", "veth", "peer", "name", outer, "netns", switch)
        _ip("-n", switch, "link", "set", outer, "master", "br0", "up")
        _ip("-n", name, "address", "add", f"{_host(index)}/24", "dev", inner)
        for link in ("lo", inner):
            _ip("-n", name, "link", "set", link, "up")
        for namespace, link in ((name, inner), (switch, outer)):
            limit = f"rate {rate} burst {burst} latency 50ms"
            _run("tc", "-n", namespace, *f"qdisc add dev {link} root tbf {limit}".split())


def _host(index):
    return f"10.77.0.{index + 1}"


def _inner(index):
    return f"link{index}"


def stale(namespaces: str) -> list[str]:
    """Returns the benchmark's namespaces whose process is gone, of the lines that `ip netns list` prints."""
    names = [line.split()[0] for line in namespaces.splitlines() if line.strip()]
    made = [match for match in map(_NAMESPACE.fullmatch, names) if match]
    return [match[0] for match in made if not pathlib.Path(f"/proc/{match[1]}").exists()]


def _remove_stale():
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False)
    _remove(*stale(listed.stdout))


def _remove(*names):
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*arguments):
    _run("ip", *arguments)


def _run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)
