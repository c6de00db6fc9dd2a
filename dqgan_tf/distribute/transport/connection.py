"""TCP connections between workers: how workers connect, and tagged messages in both directions, in the background."""

from __future__ import annotations

import collections
import contextlib
import hmac
import ipaddress
import json
import math
import os
import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence

import numpy as np

from dqgan_tf.config import TrainConfig
from dqgan_tf.distribute import tf_config
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.errors import LostConnectionError

_TOKEN_BYTES = 32
_INDEX = struct.Struct("<I")
_GREETING_BYTES = 32 + _INDEX.size  # `_proof` for the listener, then the caller's index
_GREETING_SECONDS = 5.0
_BUSY_SECONDS = 0.05  # wait before the next call is accepted where one could not be
_CLOSING_SECONDS = 3.0
_HEADER = struct.Struct("<QQ")  # tag, number of bytes that follow
_TIMEVAL = struct.Struct("@ll")  # seconds, microseconds
_HEARTBEAT = (1 << 64) - 1  # the tag of an empty message that only shows that the sender is alive
_CHUNK = 1 << 18  # bytes per read, less if a tick has passed; each read counts as a sign of life
_MAX_BYTES = 1 << 40  # sanity limit; a longer message means a foreign or corrupt peer
_TICK_SECONDS = 1.0  # period of heartbeats
_HANG_UP_SECONDS = 1.0  # limit for the threads to notice that the socket is shut down
_ALIGNMENT = 64  # TensorFlow takes over an array without a copy if it is aligned to this (TensorFlow 2.21.0)


def connect(
    board: MessageBoard,
    addresses: Sequence[str],
    worker_index: int,
    timeout_seconds: float = 60.0,
    silence_seconds: float = TrainConfig.silence_timeout,
) -> dict[int, Connection]:
    """Connects all workers with each other. All workers must call it at the same time.

    Each worker listens on a port that the system chooses and posts it together with a random token. A worker calls the
    workers with a lower index and sends each an HMAC of the token which that worker has posted, under the secret of
    `tf_config.proof`. Returns the connections by worker index.

    Args:
      board: where workers post their ports.
      addresses: every worker's `host:port` in TF_CONFIG. The other workers connect to this worker's host.
      worker_index: index of this worker.
      timeout_seconds: limit for all connections together, from the moment when all workers have posted; capped at
        `silence_seconds`, because there are no heartbeats yet.
      silence_seconds: see `Connection`.

    Raises:
      LostConnectionError: a connection could not be opened; raised on all workers and names both ends.
      tf.errors.OpError: a worker is gone.
    """
    token = secrets.token_hex(_TOKEN_BYTES)
    host = addresses[worker_index].rpartition(":")[0].strip("[]") or "localhost"
    with contextlib.closing(_listen(host)) as listening, contextlib.ExitStack() as opened:
        listener = {"host": host, "port": listening.getsockname()[1], "token": token}
        listeners = [json.loads(text) for text in board.exchange("address", json.dumps(listener))]
        deadline = time.monotonic() + min(timeout_seconds, silence_seconds)
        sockets, problem = {}, ""
        try:
            for worker in range(worker_index):
                sockets[worker] = opened.enter_context(_call(listeners[worker], worker_index, deadline))
            callers = set(range(worker_index + 1, len(addresses)))
            for worker, connected in _answer(listening, token, callers, deadline):
                sockets[worker] = opened.enter_context(connected)
        except OSError as error:
            missing = [worker for worker in range(len(addresses)) if worker not in (worker_index, *sockets)]
            problem = (
                f"worker {worker_index} has no connection to worker {missing[0]} at {listeners[missing[0]]['host']}: "
                f"{error.strerror or error}. Workers connect to each other on ports that the system chooses; where a "
                "firewall forbids it, pass --transport=ring"
            )
        for text in board.exchange("connected", problem):
            if text:
                raise LostConnectionError(text)
        opened.pop_all()  # the sockets stay open
    return {worker: Connection(connected, worker, silence_seconds) for worker, connected in sockets.items()}


def close_all(connections: Iterable[Connection]) -> None:
    """Sends what was handed over and closes, and waits for that and for the other workers to close, up to 3 s."""
    deadline = time.monotonic() + _CLOSING_SECONDS
    for connection in connections:
        connection.close()
    for connection in connections:
        connection.join(deadline)


def _listen(host):
    """Listens at `host` if this machine has that address, else at all addresses.

    The host may be a gateway's name. Or it is this machine's own name, which leads to 127.0.1.1 here (as Debian writes
    it into /etc/hosts) and to another address on all other machines.
    """
    with contextlib.suppress(OSError):
        family, *_, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        if host in ("localhost", place[0]) or not ipaddress.ip_address(place[0]).is_loopback:
            return socket.create_server(place, family=family, backlog=128)
    with contextlib.suppress(ValueError, OSError):
        if ipaddress.ip_address(host).version == 6:
            return socket.create_server(("", 0), family=socket.AF_INET6, backlog=128)
    return socket.create_server(("", 0), backlog=128)


def _call(listener, worker_index, deadline):
    """Returns a socket connected to another worker, after sending it the proof for the token that it has posted."""
    connected = socket.create_connection((listener["host"], listener["port"]), _seconds_left(deadline))
    try:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.sendall(_proof(listener["token"], worker_index) + _INDEX.pack(worker_index))
    except OSError:
        connected.close()
        raise
    return connected


def _proof(token, caller):
    return bytes.fromhex(tf_config.proof(os.environ, "packets", token, str(caller)))


def _answer(listener, token, callers, deadline):
    """Yields (index, socket) of each worker in the set `callers` as it calls, until all have called.

    All greetings are read at the same time, each for a few seconds, so that a stranger delays nobody. Sockets of other
    callers are closed.
    """
    missing, greetings = set(callers), {}  # greetings: socket -> [bytes so far, end of its time]
    listener.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        try:
            while missing:
                for key, _ in selector.select(min(_TICK_SECONDS, _seconds_left(deadline))):
                    if key.fileobj is listener:
                        try:
                            connected, _ = listener.accept()
                            connected.setblocking(False)
                            selector.register(connected, selectors.EVENT_READ)
                            greetings[connected] = [b"", time.monotonic() + _GREETING_SECONDS]
                        except OSError:  # the caller has left again, or too many files are open
                            time.sleep(_BUSY_SECONDS)
                        continue
                    if (worker := _greeting(key.fileobj, greetings[key.fileobj], token)) is None:
                        continue
                    selector.unregister(key.fileobj)
                    del greetings[key.fileobj]
                    if worker in missing:
                        missing.remove(worker)
                        key.fileobj.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        yield worker, key.fileobj
                    else:
                        key.fileobj.close()
                for connected in [c for c, (_, end) in greetings.items() if time.monotonic() > end]:
                    selector.unregister(connected)
                    del greetings[connected]
                    connected.close()
        finally:
            for connected in greetings:
                connected.close()


def _greeting(connected, received, token):
    """Reads what a caller has sent. Returns its index, -1 for a stranger, None while the greeting is incomplete."""
    try:
        piece = connected.recv(_GREETING_BYTES - len(received[0]))
    except BlockingIOError:
        return None
    except OSError:
        return -1
    received[0] += piece
    if piece and len(received[0]) < _GREETING_BYTES:
        return None
    if len(received[0]) < _GREETING_BYTES:
        return -1
    worker = _INDEX.unpack(received[0][-_INDEX.size :])[0]
    return worker if hmac.compare_digest(received[0][: -_INDEX.size], _proof(token, worker)) else -1


def _seconds_left(deadline):
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("timed out")
    return seconds


class Connection:
    """Messages to and from one other worker.

    A message is a tag, the number of its bytes, and the bytes. Messages with one tag arrive in the order in which they
    were sent; different tags do not wait for each other. One thread reads everything that arrives, so a sender never
    waits for this worker's computation. Another thread sends what the kernel does not take at once, and a heartbeat
    every second.

    Args:
      connected: a connected stream socket; this object owns it from now on.
      peer: the other worker's index, for error messages.
      silence_seconds: how long a receiver waits without a sign of life, a heartbeat or a part of a message; the value
        of --silence_timeout.
    """

    def __init__(self, connected: socket.socket, peer: int, silence_seconds: float = TrainConfig.silence_timeout):
        self._socket = connected
        self._peer = peer
        self._silence_seconds = silence_seconds
        # Guards `_inbox` and every change of `_lost`. Only the reading thread changes `_signs_of_life`.
        self._arrived = threading.Condition()
        self._inbox: dict[int, collections.deque] = {}  # tag -> messages, at least one
        self._signs_of_life = 0
        self._lost = ""  # the reason, once the connection is lost
        self._handed_over = threading.Condition()  # guards the next three attributes
        self._unsent: collections.deque[list[memoryview]] = collections.deque()
        self._closing = False
        self._active_threads = 2  # threads that use the socket
        connected.setblocking(True)
        # The kernel's timeout for reading alone: Python's own would hold for sending too, and polls before every read.
        tick = _TIMEVAL.pack(int(_TICK_SECONDS), int(_TICK_SECONDS % 1.0 * 1e6))
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, tick)
        self._threads = [
            threading.Thread(target=self._run_thread, args=[work], daemon=True) for work in (self._read, self._write)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, tag: int, array: np.ndarray) -> None:
        """Sends the bytes of a contiguous array. Returns before they are sent: the array must not change.

        Raises:
          LostConnectionError: the other worker is known to be gone.
        """
        if self._lost:
            raise LostConnectionError(self._lost)
        payload = memoryview(array.data).cast("B") if array.size else memoryview(b"")
        pieces = [memoryview(_HEADER.pack(tag, payload.nbytes)), payload]
        with self._handed_over:
            if not self._unsent:
                pieces = self._send_now(pieces)
            if pieces:
                self._unsent.append(pieces)
                self._handed_over.notify()

    def receive(self, tag: int, nbytes: int, timeout_seconds: float | None = None) -> np.ndarray:
        """Returns the next message with a tag, uint8 [nbytes], aligned for TensorFlow and owned by the caller.

        Args:
          tag: tag of the message.
          nbytes: number of bytes that the message must have.
          timeout_seconds: how long to wait for a worker that gives signs of life; None: without a limit.

        Raises:
          LostConnectionError: the other worker closed the connection, gave no sign of life for `silence_seconds`, did
            not send in time, or sent another number of bytes.
        """
        with self._arrived:
            now = time.monotonic()
            end, tick = now + (timeout_seconds or math.inf), now + _TICK_SECONDS
            silent_ticks, signs = 0, self._signs_of_life
            while tag not in self._inbox:
                if self._lost:
                    raise LostConnectionError(self._lost)
                now = time.monotonic()
                if now >= tick:
                    # Count ticks instead of measuring time. After this process was stopped and continued, much time has
                    # passed, but only one tick: the other worker is not to blame.
                    silent_ticks = silent_ticks + 1 if signs == self._signs_of_life else 0
                    signs, tick = self._signs_of_life, now + _TICK_SECONDS
                if silent_ticks * _TICK_SECONDS >= self._silence_seconds:
                    raise LostConnectionError(
                        f"worker {self._peer} gave no sign of life for {self._silence_seconds:g} s"
                    )
                if now >= end:
                    raise LostConnectionError(f"worker {self._peer} did not send within {timeout_seconds:g} s")
                self._arrived.wait(min(tick, end) - now)  # messages with other tags end this wait, too
            message = self._inbox[tag].popleft()
            if not self._inbox[tag]:
                del self._inbox[tag]  # each collective has a tag of its own
        if message.nbytes != nbytes:
            raise LostConnectionError(
                f"worker {self._peer} sent {message.nbytes} bytes where {nbytes} were expected: the workers do not run "
                "the same program"
            )
        return message

    def close(self) -> None:
        """Starts to close. What was handed over is still sent until the deadline of `join`."""
        with self._handed_over:
            self._closing = True
            self._handed_over.notify()

    def join(self, deadline: float) -> None:
        """Waits until both sides have closed, or until `deadline` (of `time.monotonic`), then shuts the socket down."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._handed_over, contextlib.suppress(OSError):  # the socket may be closed already, by either side
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the threads; the last one closes the socket
        for thread in self._threads:
            thread.join(_HANG_UP_SECONDS)

    def _send_now(self, pieces):
        """Gives the kernel what it takes without waiting; returns the rest."""
        try:
            sent = self._socket.sendmsg(pieces, [], socket.MSG_DONTWAIT)
        except BlockingIOError:
            return pieces
        except OSError as error:
            self._lose(error)
            return []
        rest = []
        for piece in pieces:
            if sent < piece.nbytes:
                rest.append(piece[sent:])
            sent = max(0, sent - piece.nbytes)
        return rest

    def _run_thread(self, work):
        """Reads or writes in a thread. The last thread closes the socket: its number may be reused from then on."""
        try:
            work()
        except Exception as error:
            self._lose(error)
        self.close()  # if one direction has ended, the other ends too
        with self._handed_over:
            self._active_threads -= 1
            if not self._active_threads:
                self._socket.close()

    def _write(self):
        heartbeat = [memoryview(_HEADER.pack(_HEARTBEAT, 0))]
        while True:
            with self._handed_over:
                if not self._unsent and not self._closing and not self._handed_over.wait(_TICK_SECONDS):
                    self._unsent.append(heartbeat)
                if not self._unsent:
                    if self._closing:
                        break
                    continue
                pieces = self._unsent[0]  # stays in the queue while it is sent, so that `send` cannot overtake it
            for piece in pieces:
                self._socket.sendall(piece)
            with self._handed_over:
                self._unsent.popleft()
        self._socket.shutdown(socket.SHUT_WR)

    def _read(self):
        header = bytearray(_HEADER.size)
        while True:
            self._fill(memoryview(header))
            tag, nbytes = _HEADER.unpack(header)
            if tag == _HEARTBEAT:
                continue
            if nbytes > _MAX_BYTES:
                raise ValueError(f"it sent an unexpected message of {nbytes} bytes")
            message = aligned(nbytes)
            self._fill(memoryview(message))
            with self._arrived:
                self._inbox.setdefault(tag, collections.deque()).append(message)
                self._arrived.notify_all()

    def _fill(self, view):
        while view.nbytes:
            try:
                received = self._socket.recv_into(view, min(view.nbytes, _CHUNK), socket.MSG_WAITALL)
            except BlockingIOError:  # nothing arrived within a tick
                continue
            if not received:
                raise EOFError("it closed the connection")
            self._signs_of_life += 1
            view = view[received:]

    def _lose(self, error):
        with self._arrived:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            self._lost = self._lost or f"worker {self._peer} is gone: {reason}"
            self._arrived.notify_all()


def aligned(nbytes: int) -> np.ndarray:
    """Returns memory for `nbytes` bytes, uint8, that TensorFlow takes over without a copy."""
    memory = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + nbytes]
