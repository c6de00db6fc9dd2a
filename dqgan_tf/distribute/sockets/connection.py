"""One TCP connection between two workers: tagged messages both ways, in the background."""

import collections
import contextlib
import math
import socket
import struct
import threading
import time

import numpy as np

_HEADER = struct.Struct("<QQ")  # tag, bytes that follow
_TIME = struct.Struct("@ll")  # seconds, microseconds: a timeval
_ALIVE = (1 << 64) - 1  # the tag of a message that only says so
_CHUNK = 1 << 18  # bytes read at a time; fewer where fewer come within a tick: each is a sign of life
_MOST_BYTES = 1 << 40  # of a message: more is none of ours
_TICK_SECONDS = 1.0  # between two signs of life
_HANG_UP_SECONDS = 1.0  # for the threads to see that the socket is shut down
_ALIGNMENT = 64  # TensorFlow takes an array over without a copy if it is aligned like this (read at 2.21.0)


class LostConnectionError(ConnectionError):
    """Another worker closed its connection, fell silent, or sent what was not expected."""


class Connection:
    """Messages to and from one other worker.

    A message is a tag, the number of its bytes, and these. Messages of one tag arrive in the order in which they were
    sent; tags do not wait for each other. A thread reads whatever comes, so that a sender never waits for this worker's
    computation; another one sends what the kernel does not take at once, and a sign of life every second.

    Args:
      connected: a connected stream socket, which belongs to this object from now on.
      peer: the other worker's index, for messages.
      silence_seconds: how long a receiver waits for any sign of life; parts of a message are some, however slow.
    """

    def __init__(self, connected: socket.socket, peer: int, silence_seconds: float = 15.0):
        self._socket = connected
        self._peer = peer
        self._silence_seconds = silence_seconds
        self._arrived = threading.Condition()
        self._mail = collections.defaultdict(collections.deque)
        self._signs = 0  # of life, counted by the reader
        self._lost = ""
        self._handed = threading.Condition()
        self._unsent = collections.deque()
        self._closing = False
        connected.setblocking(True)
        # The kernel's timeout, of reading alone: Python's holds for sending, too, and asks before every read.
        tick = _TIME.pack(int(_TICK_SECONDS), int(_TICK_SECONDS % 1.0 * 1e6))
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, tick)
        works = self._read, self._write
        self._working = len(works)  # threads that use the socket
        self._threads = [threading.Thread(target=self._run, args=[work], daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def send(self, tag: int, array: np.ndarray) -> None:
        """Sends the bytes of a contiguous array and returns before they have left: the array must not change.

        Raises:
          LostConnectionError: the other worker is known to be gone.
        """
        if self._lost:
            raise LostConnectionError(self._lost)
        payload = memoryview(array).cast("B") if array.size else memoryview(b"")
        pieces = [memoryview(_HEADER.pack(tag, payload.nbytes)), payload]
        with self._handed:
            if not self._unsent:
                pieces = self._send_now(pieces)
            if pieces:
                self._unsent.append(pieces)
                self._handed.notify()

    def receive(self, tag: int, nbytes: int, timeout_seconds: float | None = None) -> np.ndarray:
        """Returns the next message of a tag, uint8 [nbytes], aligned and owned by the caller.

        Args:
          tag: of the message.
          nbytes: that it must have.
          timeout_seconds: how long to wait while the other worker gives signs of life; None: for ever.

        Raises:
          LostConnectionError: the other worker closed the connection, gave no sign of life for `silence_seconds`, did
            not send in time or sent another number of bytes.
        """
        with self._arrived:
            now = time.monotonic()
            end, tick = now + (timeout_seconds or math.inf), now + _TICK_SECONDS
            silent, signs = 0, self._signs
            while not self._mail[tag]:
                if self._lost:
                    raise LostConnectionError(self._lost)
                now = time.monotonic()
                if now >= tick:
                    # Whole ticks are counted, not time: after this process was stopped and continued, the time is long
                    # but nobody else is to blame.
                    silent = silent + 1 if signs == self._signs else 0
                    signs, tick = self._signs, now + _TICK_SECONDS
                if silent * _TICK_SECONDS >= self._silence_seconds:
                    raise LostConnectionError(
                        f"worker {self._peer} gave no sign of life for {self._silence_seconds:g} s"
                    )
                if now >= end:
                    raise LostConnectionError(f"worker {self._peer} did not send within {timeout_seconds:g} s")
                self._arrived.wait(min(tick, end) - now)  # ends early for messages of other tags, too
            message = self._mail[tag].popleft()
        if message.nbytes != nbytes:
            raise LostConnectionError(
                f"worker {self._peer} sent {message.nbytes} bytes where {nbytes} were expected: the workers do not run "
                "the same program"
            )
        return message

    def close(self) -> None:
        """Begins to close: what was handed over is still sent. `join` waits for it."""
        with self._handed:
            self._closing = True
            self._handed.notify()

    def join(self, deadline: float) -> None:
        """Waits until both sides have closed, or until `deadline`, a `time.monotonic()`: then it hangs up."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._handed, contextlib.suppress(OSError):  # it is closed, or the other side has closed it
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the threads, the last of which closes it
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

    def _run(self, work):
        """A thread: reads or writes. The last one closes the socket, whose number may belong to another one then."""
        try:
            work()
        except Exception as error:
            self._lose(error)
        self.close()  # nobody is there to read
        with self._handed:
            self._working -= 1
            if not self._working:
                self._socket.close()

    def _write(self):
        alive = [memoryview(_HEADER.pack(_ALIVE, 0))]
        while True:
            with self._handed:
                if not self._unsent and not self._closing and not self._handed.wait(_TICK_SECONDS):
                    self._unsent.append(alive)
                if not self._unsent:
                    if self._closing:
                        break
                    continue
                pieces = self._unsent[0]  # stays there while it is sent, so that nothing overtakes it
            for piece in pieces:
                self._socket.sendall(piece)
            with self._handed:
                self._unsent.popleft()
        self._socket.shutdown(socket.SHUT_WR)

    def _read(self):
        header = bytearray(_HEADER.size)
        while True:
            self._fill(memoryview(header))
            tag, nbytes = _HEADER.unpack(header)
            if tag == _ALIVE:
                continue
            if nbytes > _MOST_BYTES:
                raise ValueError(f"it sent what was not expected, a message of {nbytes} bytes")
            message = aligned(nbytes)
            self._fill(memoryview(message))
            with self._arrived:
                self._mail[tag].append(message)
                self._arrived.notify_all()

    def _fill(self, view):
        while view.nbytes:
            try:
                received = self._socket.recv_into(view, min(view.nbytes, _CHUNK), socket.MSG_WAITALL)
            except BlockingIOError:  # nothing came within a tick
                continue
            if not received:
                raise EOFError("it closed the connection")
            self._signs += 1
            view = view[received:]

    def _lose(self, error):
        with self._arrived:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            self._lost = self._lost or f"worker {self._peer} is gone: {reason}"
            self._arrived.notify_all()


def aligned(nbytes: int) -> np.ndarray:
    """Returns memory for `nbytes` bytes, uint8, that TensorFlow takes over without a copy."""
    memory = np.empty(nbytes + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + nbytes]
