"""One TCP connection between two workers: tagged messages both ways, in the background."""

import collections
import socket
import struct
import threading
import time

import numpy as np

_HEADER = struct.Struct("<QQ")  # tag, bytes that follow
_ALIVE = (1 << 64) - 1  # the tag of a message that only says so
_CHUNK = 1 << 18  # bytes read at a time: on a slow link a long message keeps saying that its sender lives
_TICK_SECONDS = 1.0  # between two signs of life
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
      silence_seconds: how long a receiver waits for any sign of life.
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
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._write)]
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
        silent, signs, start = 0, self._signs, time.monotonic()
        with self._arrived:
            while not self._mail[tag]:
                if self._lost:
                    raise LostConnectionError(self._lost)
                if self._arrived.wait(_TICK_SECONDS):
                    continue
                # Whole ticks are counted, not time: after this process was stopped and continued, the time is long
                # but nobody else is to blame.
                silent = silent + 1 if signs == self._signs else 0
                signs = self._signs
                if silent * _TICK_SECONDS >= self._silence_seconds:
                    raise LostConnectionError(
                        f"worker {self._peer} gave no sign of life for {self._silence_seconds:g} s"
                    )
                if timeout_seconds and time.monotonic() - start > timeout_seconds:
                    raise LostConnectionError(f"worker {self._peer} did not send within {timeout_seconds:g} s")
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
        """Waits until both sides have closed, or until `deadline`, a `time.monotonic()`."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

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

    def _write(self):
        alive = [memoryview(_HEADER.pack(_ALIVE, 0))]
        try:
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
        except OSError as error:
            self._lose(error)

    def _read(self):
        header = bytearray(_HEADER.size)
        try:
            while True:
                self._fill(memoryview(header))
                tag, nbytes = _HEADER.unpack(header)
                if tag == _ALIVE:
                    continue
                message = aligned(nbytes)
                self._fill(memoryview(message))
                with self._arrived:
                    self._mail[tag].append(message)
                    self._arrived.notify_all()
        except (OSError, EOFError) as error:
            self._lose(error)
            self.close()  # nobody is there to read

    def _fill(self, view):
        while view.nbytes:
            received = self._socket.recv_into(view, min(view.nbytes, _CHUNK), socket.MSG_WAITALL)
            if not received:
                raise EOFError("it closed the connection")
            self._signs += 1
            view = view[received:]

    def _lose(self, error):
        with self._arrived:
            self._lost = self._lost or f"worker {self._peer} is gone: {getattr(error, 'strerror', None) or error}"
            self._arrived.notify_all()


def aligned(nbytes: int) -> np.ndarray:
    """Returns memory for `nbytes` bytes, uint8, that TensorFlow takes over without a copy."""
    memory = np.empty(nbytes + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + nbytes]
