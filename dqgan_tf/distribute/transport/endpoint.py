"""How workers find and connect to each other: one connection to every other worker."""

import contextlib
import hmac
import ipaddress
import json
import secrets
import socket
import struct
import time
import weakref
from collections.abc import Mapping, Sequence

import numpy as np

from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.distribute.transport.connection import Connection
from dqgan_tf.errors import LostConnectionError

_TOKEN_BYTES = 32
_INDEX = struct.Struct("<I")
_GREETING_BYTES = _TOKEN_BYTES + _INDEX.size  # the listener's token, then the caller's index
_GREETING_SECONDS = 5.0
_GOODBYE_SECONDS = 3.0


class Endpoint:
    """This worker's connections to all others.

    They are closed by `close`, when nobody refers to the endpoint any more, or when the interpreter ends: in any case
    everything that was handed over is sent first.

    Args:
      connections: `Connection`, or any object with its methods, by worker index.
    """

    def __init__(self, connections: Mapping[int, Connection]):
        self._connections = dict(connections)
        self._goodbye = weakref.finalize(self, _say_goodbye, tuple(self._connections.values()))

    def send(self, worker: int, tag: int, array: np.ndarray) -> None:
        """See `Connection.send`."""
        self._connections[worker].send(tag, array)

    def receive(self, worker: int, tag: int, nbytes: int, timeout_seconds: float | None = None) -> np.ndarray:
        """See `Connection.receive`."""
        return self._connections[worker].receive(tag, nbytes, timeout_seconds)

    def close(self) -> None:
        """Sends what is left, says goodbye and waits up to 3 s for the goodbyes of the others."""
        self._goodbye()


def _say_goodbye(connections):
    deadline = time.monotonic() + _GOODBYE_SECONDS
    for connection in connections:
        connection.close()
    for connection in connections:
        connection.join(deadline)


def connect(
    board: MessageBoard, addresses: Sequence[str], worker_index: int, timeout_seconds: float = 60.0
) -> Endpoint:
    """Connects all workers with each other. All workers must call it at the same time.

    Each worker listens on a port that the system chooses and posts it together with a random token. A worker connects
    to those with a lower index and shows each its token.

    Args:
      board: where the ports are posted.
      addresses: every worker's `host:port` in TF_CONFIG. The other workers connect to this worker's host.
      worker_index: of this process.
      timeout_seconds: for all connections together, from the moment when all workers have posted.

    Raises:
      LostConnectionError: a connection could not be opened; raised on all workers and names both ends.
      tf.errors.OpError: a worker is gone.
    """
    token = secrets.token_bytes(_TOKEN_BYTES)
    host = addresses[worker_index].rpartition(":")[0].strip("[]") or "localhost"
    with contextlib.closing(_listen(host)) as listener, contextlib.ExitStack() as opened:
        place = {"host": host, "port": listener.getsockname()[1], "token": token.hex()}
        places = [json.loads(text) for text in board.exchange("address", json.dumps(place))]
        deadline = time.monotonic() + timeout_seconds
        sockets, problem = {}, ""
        try:
            for worker in range(worker_index):
                sockets[worker] = opened.enter_context(_call(places[worker], worker_index, deadline))
            while len(sockets) < len(addresses) - 1:
                worker, connected = _answer(listener, token, deadline)
                sockets[worker] = opened.enter_context(connected)
        except OSError as error:
            missing = [worker for worker in range(len(addresses)) if worker not in (worker_index, *sockets)]
            problem = (
                f"worker {worker_index} has no connection to worker {missing[0]} at {places[missing[0]]['host']}: "
                f"{error.strerror or error}. Workers connect to each other on ports that the system chooses; where a "
                "firewall forbids it, pass --transport=ring"
            )
        for text in board.exchange("connected", problem):
            if text:
                raise LostConnectionError(text)
        opened.pop_all()  # the sockets stay open
    return Endpoint({worker: Connection(connected, worker) for worker, connected in sockets.items()})


def _listen(host):
    """Listens at `host` alone if this machine has that address. A gateway's or service's name means everywhere."""
    with contextlib.suppress(OSError):
        family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, 0), family=family, backlog=128)
    with contextlib.suppress(ValueError, OSError):
        if ipaddress.ip_address(host).version == 6:
            return socket.create_server(("", 0), family=socket.AF_INET6, backlog=128)
    return socket.create_server(("", 0), backlog=128)


def _call(place, worker_index, deadline):
    """Returns a socket connected to another worker, after showing the token that it has posted."""
    connected = socket.create_connection((place["host"], place["port"]), _seconds_left(deadline))
    try:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.sendall(bytes.fromhex(place["token"]) + _INDEX.pack(worker_index))
    except OSError:
        connected.close()
        raise
    return connected


def _answer(listener, token, deadline):
    """Returns (index, socket) of the next caller that shows the token. Hangs up on all others."""
    while True:
        listener.settimeout(_seconds_left(deadline))
        connected, _ = listener.accept()
        greeting = b""
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.settimeout(min(_GREETING_SECONDS, _seconds_left(deadline)))
            while len(greeting) < _GREETING_BYTES and (piece := connected.recv(_GREETING_BYTES - len(greeting))):
                greeting += piece
        if len(greeting) == _GREETING_BYTES and hmac.compare_digest(greeting[:_TOKEN_BYTES], token):
            return _INDEX.unpack(greeting[_TOKEN_BYTES:])[0], connected
        connected.close()


def _seconds_left(deadline):
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("timed out")
    return seconds
