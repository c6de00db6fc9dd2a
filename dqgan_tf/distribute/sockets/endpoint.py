"""This process's connections to all other workers."""

import atexit
import contextlib
import functools
import hmac
import ipaddress
import json
import secrets
import socket
import struct
import time
from collections.abc import Sequence

import numpy as np

from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.distribute.sockets.connection import Connection, LostConnectionError

_TOKEN_BYTES = 32
_INDEX = struct.Struct("<I")
_GOODBYE_SECONDS = 3.0


class Endpoint:
    """One `Connection` to every other worker.

    Args:
      connections: by worker index.
    """

    def __init__(self, connections: dict[int, Connection]):
        self._connections = connections

    def send(self, worker: int, tag: int, array: np.ndarray) -> None:
        """See `Connection.send`."""
        self._connections[worker].send(tag, array)

    def receive(self, worker: int, tag: int, nbytes: int, timeout_seconds: float | None = None) -> np.ndarray:
        """See `Connection.receive`."""
        return self._connections[worker].receive(tag, nbytes, timeout_seconds)

    def close(self) -> None:
        """Sends what is left, says goodbye and waits a little for the others'."""
        deadline = time.monotonic() + _GOODBYE_SECONDS
        for connection in self._connections.values():
            connection.close()
        for connection in self._connections.values():
            connection.join(deadline)


@functools.cache
def of_process(addresses: tuple[str, ...], worker_index: int) -> Endpoint:
    """Returns the connections of this process, opened at the first call: by all workers at the same time.

    Args:
      addresses: every worker's in TF_CONFIG; the host of this worker's is where the others connect to.
      worker_index: of this process.

    Raises: see `connect`.
    """
    board = MessageBoard(worker_index, len(addresses), name="sockets")
    endpoint = connect(board, addresses, worker_index)
    atexit.register(endpoint.close)  # what was handed over last must leave before the process ends
    return endpoint


def connect(
    board: MessageBoard, addresses: Sequence[str], worker_index: int, timeout_seconds: float = 60.0
) -> Endpoint:
    """Connects all workers with each other.

    Every worker listens on a port that the system chooses and posts it with a token; a later worker connects to the
    earlier ones and shows their tokens.

    Args:
      board: where the ports are posted.
      addresses: every worker's, `host:port`.
      worker_index: of this process.
      timeout_seconds: for all connections together, once all workers are there.

    Raises:
      LostConnectionError: a connection did not come about, with its two ends; on all workers.
      tf.errors.OpError: a worker is gone.
    """
    token = secrets.token_bytes(_TOKEN_BYTES)
    host = _host(addresses[worker_index])
    with contextlib.closing(_listen(host)) as listener, contextlib.ExitStack() as opened:
        own = {"host": host, "port": listener.getsockname()[1], "token": token.hex()}
        places = [json.loads(text) for text in board.exchange("address", json.dumps(own))]
        deadline = time.monotonic() + timeout_seconds
        sockets, trouble = {}, ""
        try:
            for worker in range(worker_index):
                sockets[worker] = opened.enter_context(_call(places[worker], worker_index, deadline))
            while len(sockets) < len(addresses) - 1:
                worker, connected = _answer(listener, token, deadline)
                sockets[worker] = opened.enter_context(connected)
        except OSError as error:
            missing = [worker for worker in range(len(addresses)) if worker not in (worker_index, *sockets)]
            trouble = (
                f"worker {worker_index} has no connection to worker {missing[0]} at {places[missing[0]]['host']}: "
                f"{error.strerror or error}. Workers connect to each other on ports that the system chooses; where a "
                "firewall forbids it, pass --communication=ring"
            )
        for text in board.exchange("connected", trouble):
            if text:
                raise LostConnectionError(text)
        opened.pop_all()  # they stay open
    return Endpoint({worker: Connection(connected, worker) for worker, connected in sockets.items()})


def _host(address):
    return address.rpartition(":")[0].strip("[]") or "localhost"


def _listen(host):
    """Listens at `host` alone if this machine has that address, else (a name of a gateway or service) everywhere."""
    with contextlib.suppress(OSError):
        family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, 0), family=family, backlog=128)
    with contextlib.suppress(ValueError, OSError):
        if ipaddress.ip_address(host).version == 6:
            return socket.create_server(("", 0), family=socket.AF_INET6, backlog=128)
    return socket.create_server(("", 0), backlog=128)


def _call(place, own_index, deadline):
    connected = socket.create_connection((place["host"], place["port"]), _left(deadline))
    try:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.sendall(bytes.fromhex(place["token"]) + _INDEX.pack(own_index))
    except OSError:
        connected.close()
        raise
    return connected


def _answer(listener, token, deadline):
    """Returns the next caller that shows the token: (its index, the socket). Others are hung up on."""
    while True:
        listener.settimeout(_left(deadline))
        connected, _ = listener.accept()
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.settimeout(min(5.0, _left(deadline)))
            shown = _exactly(connected, _TOKEN_BYTES + _INDEX.size)
        except OSError:
            shown = b""
        if len(shown) == _TOKEN_BYTES + _INDEX.size and hmac.compare_digest(shown[:_TOKEN_BYTES], token):
            return _INDEX.unpack(shown[_TOKEN_BYTES:])[0], connected
        connected.close()


def _exactly(connected, count):
    received = b""
    while len(received) < count:
        piece = connected.recv(count - len(received))
        if not piece:
            break
        received += piece
    return received


def _left(deadline):
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
