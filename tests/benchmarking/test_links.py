"""System: where workers run, what is refused, and that no namespace stays behind."""

import os
import shutil
import subprocess

import pytest

from dqgan_tf.benchmarking import links

PROBE = f"dqgan-probe-{os.getpid()}"  # another process of the tests may ask at the same time
needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0
    or shutil.which("ip") is None
    or subprocess.run(["ip", "netns", "add", PROBE], capture_output=True, check=False).returncode != 0
    or subprocess.run(["ip", "netns", "del", PROBE], capture_output=True, check=False).returncode != 0,
    reason="needs root and the right to make network namespaces",
)


def namespaces():
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def test_a_rate_needs_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionError, match="needs root"), links.places(2, "1gbit"):
        pass


def test_a_rate_needs_tc(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "tc" else f"/sbin/{program}")
    with pytest.raises(FileNotFoundError, match="'tc' .package iproute2"), links.places(2, "1gbit"):
        pass


def test_an_unknown_rate_is_refused_before_anything_is_made(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a program was run"))
    with pytest.raises(ValueError, match="like 1gbit"), links.places(2, "fast"):
        pass


def test_without_root_workers_share_the_machines_loopback(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with links.places(3) as places:
        assert [(place.prefix, place.interface) for place in places] == [((), "lo")] * 3
        addresses = [address for place in places for address in place.addresses]
    assert len(set(addresses)) == 6
    assert all(address.startswith("127.0.0.1:") for address in addresses)


def test_stale_namespaces_are_those_of_processes_that_are_gone():
    gone = 2**22 + 1  # beyond the largest pid of Linux
    listed = f"dqgan-{gone}-lo\ndqgan-{gone}-switch (id: 3)\ndqgan-{gone}-0\ndqgan-{os.getpid()}-0\nmine\ndqgan-x-0\n\n"
    assert links.stale(listed) == [f"dqgan-{gone}-lo", f"dqgan-{gone}-switch", f"dqgan-{gone}-0"]


@needs_namespaces
def test_loopback_is_a_namespace_of_its_own_and_a_stale_one_goes():
    subprocess.run(["ip", "netns", "add", "dqgan-4194305-0"], check=True)
    with links.places(2) as places:
        own = f"dqgan-{os.getpid()}-lo"
        assert own in namespaces()
        assert "dqgan-4194305" not in namespaces()
        assert [place.prefix for place in places] == [("ip", "netns", "exec", own)] * 2
        shown = subprocess.run([*places[0].prefix, "ip", "link"], capture_output=True, text=True, check=True).stdout
        assert "lo:" in shown and "UP" in shown
    assert own not in namespaces()


@needs_namespaces
@pytest.mark.skipif(shutil.which("tc") is None, reason="needs tc")
def test_every_worker_has_a_link_of_the_rate_and_reaches_the_others():
    with links.places(2, "100mbit") as places:
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
@pytest.mark.skipif(shutil.which("tc") is None, reason="needs tc")
def test_nothing_stays_when_the_benchmark_fails():
    with pytest.raises(RuntimeError, match="on purpose"), links.places(2, "1gbit"):
        raise RuntimeError("on purpose")
    assert f"dqgan-{os.getpid()}" not in namespaces()
