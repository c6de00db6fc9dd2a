"""Where the workers run: plain loopback, or one network namespace each behind a link of a given rate."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from dqgan_tf.training import launcher


class Place(NamedTuple):
    """Where one worker runs.

    prefix: of its command.
    address: host:port of its server.
    interface: through which it sends.
    """

    prefix: tuple[str, ...]
    address: str
    interface: str


@contextlib.contextmanager
def places(num_workers: int, rate: str | None) -> Iterator[list[Place]]:
    """Yields a place for every worker: on loopback, or with `rate` (of tc, such as `1gbit`) on a private network.

    There every worker has a namespace with one link to a common switch; both directions of each link carry `rate`
    (token bucket filter, burst 256 kB). The network is removed at the end.

    Raises:
      PermissionError: `rate` is given without the right to make namespaces.
      FileNotFoundError: `ip` or `tc` (iproute2) is missing.
      subprocess.CalledProcessError: tc refuses the rate.
    """
    if rate is None:
        yield [Place((), f"127.0.0.1:{port}", "lo") for port in launcher.free_ports(num_workers)]
        return
    _check_rights()
    prefix = f"dq{os.getpid() % 10000}"
    names = [f"{prefix}w{index}" for index in range(num_workers)]
    try:
        _make_network(prefix, names, rate)
        yield [Place(("ip", "netns", "exec", n), f"{_host(i)}:2222", f"{n}e") for i, n in enumerate(names)]
    finally:
        for name in (*names, f"{prefix}s"):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _check_rights():
    if os.geteuid() != 0:
        raise PermissionError("A link of a given rate needs root: it makes network namespaces and sets tc on them.")
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            raise FileNotFoundError(f"A link of a given rate needs the program {program!r} (package iproute2).")


def _make_network(prefix, names, rate):
    switch = f"{prefix}s"
    _ip("netns", "add", switch)
    _ip("-n", switch, "link", "add", "br0", "type", "bridge")
    _ip("-n", switch, "link", "set", "br0", "up")
    for index, name in enumerate(names):
        inner, outer = f"{name}e", f"{name}x"
        _ip("netns", "add", name)
        _ip("link", "add", inner, "netns", name, "type", "veth", "peer", "name", outer, "netns", switch)
        _ip("-n", switch, "link", "set", outer, "master", "br0", "up")
        _ip("-n", name, "address", "add", f"{_host(index)}/24", "dev", inner)
        for link in ("lo", inner):
            _ip("-n", name, "link", "set", link, "up")
        for namespace, link in ((name, inner), (switch, outer)):
            _run("tc", "-n", namespace, *f"qdisc add dev {link} root tbf rate {rate} burst 256kb latency 50ms".split())


def _host(index):
    return f"10.77.0.{index + 1}"


def _ip(*arguments):
    _run("ip", *arguments)


def _run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)
