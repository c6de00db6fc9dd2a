"""How workers connect to each other."""

import concurrent.futures
import contextlib
import json
import os
import socket
import threading
import time
import types

import numpy as np
import pytest

from dqgan_tf.distribute.transport import connection
from dqgan_tf.errors import LostConnectionError


class Boards:
    """What `MessageBoard` does, for threads of one process."""

    def __init__(self, count, change=lambda worker, topic, text: text):
        self._barrier = threading.Barrier(count, timeout=30)
        self._texts = {}
        self._change = change
        self._count = count

    def of(self, worker):
        boards = self

        class Board:
            def exchange(self, topic, text):
                boards._texts[topic, worker] = boards._change(worker, topic, text)
                boards._barrier.wait()
                return [boards._texts[topic, index] for index in range(boards._count)]

        return Board()


def connect(boards, count, address="127.0.0.1:9", timeout=20.0):
    """Returns every worker's connections, or the error that it got."""

    def one(worker):
        try:
            return connection.connect(boards.of(worker), [address] * count, worker, timeout)
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


@pytest.fixture
def closing():
    with contextlib.ExitStack() as stack:
        yield lambda ends: [stack.callback(connection.close_all, end.values()) for end in ends] and ends


@pytest.mark.parametrize("address", ["127.0.0.1:2222", "localhost:2222", "[::1]:2222"])
def test_every_pair_talks(closing, address):
    if "::1" in address and not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    ends = closing(connect(Boards(4), 4, address))
    for sender in range(4):
        for receiver in set(range(4)) - {sender}:
            ends[sender][receiver].send(sender, np.full(5, 10 * sender + receiver, np.float32))
    for receiver in range(4):
        for sender in set(range(4)) - {receiver}:
            received = ends[receiver][sender].receive(sender, 20, 20.0).view(np.float32)
            np.testing.assert_array_equal(received, np.full(5, 10 * sender + receiver))


def test_callers_without_the_token_are_hung_up_on(closing):
    answers = []

    def disturb(worker, topic, text):
        if topic == "address" and worker == 0:  # worker 0 listens by now and answers later
            place = json.loads(text)
            proof = connection._proof(place["token"], 1)
            almost = proof[:-1] + bytes([proof[-1] ^ 1])
            # The last two: the proof of a worker that does not exist, and that of worker 1 with another index.
            unknown = connection._proof(place["token"], 7) + b"\7\0\0\0"
            for shown in (b"", b"x" * 36, almost + b"\1\0\0\0", unknown, proof + b"\2\0\0\0"):
                stranger = socket.create_connection((place["host"], place["port"]), 5)
                stranger.sendall(shown)
                stranger.shutdown(socket.SHUT_WR)
                answers.append(stranger)
        return text

    ends = closing(connect(Boards(2, disturb), 2))
    ends[1][0].send(0, np.ones(1, np.float32))
    assert ends[0][1].receive(0, 4, 20.0).view(np.float32)[0] == 1.0
    assert len(answers) == 5 and all(stranger.recv(1) == b"" for stranger in answers)


def test_strangers_that_say_nothing_or_little_delay_nobody(closing):
    """Sixty idle connections and one that sends a byte now and then: each alone once held all others for 5 s."""
    strangers, stop = [], threading.Event()

    def drip(stranger):
        with contextlib.suppress(OSError):
            while not stop.wait(0.2):
                stranger.sendall(b"x")

    def disturb(worker, topic, text):
        if topic == "address" and worker == 0:
            place = json.loads(text)
            strangers.extend(socket.create_connection((place["host"], place["port"]), 5) for _ in range(61))
            threading.Thread(target=drip, args=[strangers[0]], daemon=True).start()
        return text

    start = time.monotonic()
    try:
        ends = closing(connect(Boards(2, disturb), 2))
        assert time.monotonic() - start < 3.0
        ends[1][0].send(0, np.ones(1, np.float32))
        assert ends[0][1].receive(0, 4, 20.0).view(np.float32)[0] == 1.0
    finally:
        stop.set()
        for stranger in strangers:
            stranger.close()


def test_the_token_alone_opens_nothing(closing, monkeypatch):
    """Whoever can read TensorFlow's key-value store knows the token, but not the secret of the workers."""
    monkeypatch.setenv("DQGAN_SECRET", "of this cluster")
    answers = []

    def disturb(worker, topic, text):
        if topic == "address" and worker == 0:
            place = json.loads(text)
            with monkeypatch.context() as stranger_environment:
                stranger_environment.delenv("DQGAN_SECRET")
                forged = connection._proof(place["token"], 1)
            answers.append(socket.create_connection((place["host"], place["port"]), 5))
            answers[0].sendall(forged + b"\1\0\0\0")
        return text

    ends = closing(connect(Boards(2, disturb), 2))
    assert answers[0].recv(1) == b""
    ends[1][0].send(0, np.ones(1, np.float32))
    assert ends[0][1].receive(0, 4, 20.0).view(np.float32)[0] == 1.0


def test_a_worker_that_cannot_be_reached_is_named_by_all():
    def misdirect(worker, topic, text):
        if topic != "address" or worker != 0:
            return text
        with socket.create_server(("127.0.0.1", 0)) as closed:
            return json.dumps(json.loads(text) | {"port": closed.getsockname()[1]})

    errors = connect(Boards(2, misdirect), 2, timeout=2.0)
    for error in errors:
        assert isinstance(error, LostConnectionError)
        assert "has no connection to worker" in str(error) and "--transport=ring" in str(error)


def test_a_worker_that_freezes_before_it_calls_is_given_up_after_the_silence():
    boards = Boards(2)

    def freeze():
        board = boards.of(1)
        board.exchange("address", json.dumps({"host": "127.0.0.1", "port": 9, "token": ""}))
        board.exchange("connected", "")  # the real board would raise

    threading.Thread(target=freeze, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(LostConnectionError, match="worker 0 has no connection to worker 1"):
        connection.connect(boards.of(0), ["127.0.0.1:9"] * 2, 0, timeout_seconds=20.0, silence_seconds=0.5)
    assert 0.4 < time.monotonic() - start < 10.0


def test_the_time_begins_when_all_workers_are_there(closing, monkeypatch):
    clock = types.SimpleNamespace(late=0.0)
    clock.monotonic = lambda: time.monotonic() + clock.late

    def wait(worker, topic, text):
        if topic == "address":
            clock.late += 300.0
        return text

    monkeypatch.setattr(connection, "time", clock)
    ends = closing(connect(Boards(2, wait), 2, timeout=60.0))
    ends[0][1].send(0, np.ones(1, np.float32))
    assert ends[1][0].receive(0, 4, 20.0).view(np.float32)[0] == 1.0


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="lists the open files of Linux")
def test_what_was_opened_is_closed_if_one_connection_fails():
    def misdirect(worker, topic, text):
        if topic != "address" or worker != 1:
            return text
        with socket.create_server(("127.0.0.1", 0)) as closed:  # 2 reaches 0 but not 1
            return json.dumps(json.loads(text) | {"port": closed.getsockname()[1]})

    before = _open_sockets()
    errors = connect(Boards(3, misdirect), 3, timeout=1.0)
    assert all(isinstance(error, LostConnectionError) for error in errors)  # whose frames keep what is in them
    assert _open_sockets() <= before


def test_what_was_opened_is_closed_if_a_worker_dies(monkeypatch):
    opened = []
    call = connection._call

    def die(worker, topic, text):
        if topic == "connected":
            raise RuntimeError("the board is gone")
        return text

    monkeypatch.setattr(connection, "_call", lambda *args: opened.append(call(*args)) or opened[-1])
    assert [type(error) for error in connect(Boards(2, die), 2)] == [RuntimeError, RuntimeError]
    assert [one.fileno() for one in opened] == [-1]


def test_a_host_that_is_not_this_machine_still_listens(closing):
    """Behind a gateway the name in TF_CONFIG is no address of the machine."""
    seen = {}

    def as_gateway(worker, topic, text):
        if topic == "address":
            seen[worker] = json.loads(text)
            return json.dumps(seen[worker] | {"host": "127.0.0.1"})
        return text

    ends = closing(connect(Boards(2, as_gateway), 2, "192.0.2.1:2222"))
    assert {place["host"] for place in seen.values()} == {"192.0.2.1"}
    ends[0][1].send(0, np.ones(1, np.float32))
    assert ends[1][0].receive(0, 4, 20.0).view(np.float32)[0] == 1.0


@pytest.mark.parametrize(
    ("host", "leads_to", "listens_at"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2", "127.0.0.2"),
        ("localhost", "127.0.0.1", "127.0.0.1"),
        ("host0", "127.0.1.1", "0.0.0.0"),  # this machine's name on Debian; elsewhere it leads to another address
        ("gateway", "192.0.2.1", "0.0.0.0"),
    ],
)
def test_where_packets_are_received(monkeypatch, host, leads_to, listens_at):
    find = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *args, **kw: find(leads_to, *args, **kw))
    with connection._listen(host) as listening:
        assert listening.getsockname()[0] == listens_at


def _open_sockets():
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {one for one in found if one.startswith("socket:")}


def _has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False
