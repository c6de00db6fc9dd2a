"""One TCP connection between two workers: tagged messages in both directions, in the background."""

import collections
import contextlib
import math
import socket
import struct
import threading
import time

import numpy as np

from dqgan_tf.errors import LostConnectionError

_HEADER = struct.Struct("<QQ")  # tag, number of bytes that follow
_TIMEVAL = struct.Struct("@ll")  # seconds, microseconds
_HEARTBEAT = (1 << 64) - 1  # the tag of an empty message that only shows that the sender is alive
_CHUNK = 1 << 18  # bytes per read; a read ends earlier after a tick. Each read counts as a sign of life.
_MAX_BYTES = 1 << 40  # sanity limit; a longer message means a foreign or corrupt peer
_TICK_SECONDS = 1.0  # between two heartbeats
_HANG_UP_SECONDS = 1.0  # for the threads to notice that the socket is shut down
_ALIGNMENT = 64  # TensorFlow takes over an array without a copy if it is aligned to this (read at 2.21.0)


class Connection:
    """Messages to and from one other worker.

    A message is a tag, the number of its bytes, and the bytes. Messages with one tag arrive in the order in which they
    were sent; different tags do not wait for each other. One thread reads everything that arrives, so a sender never
    waits for this worker's computation. Another thread sends what the kernel does not take at once, and a heartbeat
    every second.

    Args:
      connected: a connected stream socket; this object owns it from now on.
      peer: the other worker's index, for messages.
      silence_seconds: how long a receiver waits without any sign of life. Each part of a message is one, however slow.
    """

    def __init__(self, connected: socket.socket, peer: int, silence_seconds: float = 15.0):
        self._socket = connected
        self._peer = peer
        self._silence_seconds = silence_seconds
        self._arrived = threading.Condition()  # guards the next three
        self._inbox = collections.defaultdict(collections.deque)  # tag -> messages
        self._signs_of_life = 0
        self._lost = ""  # why the connection is lost
        self._handed_over = threading.Condition()  # guards the next three
        self._unsent = collections.deque()
        self._closing = False
        self._active_threads = 2  # that use the socket
        connected.setblocking(True)
        # The kernel's timeout for reading alone: Python's own would hold for sending too, and polls before every read.
        tick = _TIMEVAL.pack(int(_TICK_SECONDS), int(_TICK_SECONDS % 1.0 * 1e6))
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, tick)
        self._threads = [
            threading.Thread(target=self._run, args=[work], daemon=True) for work in (self._read, self._write)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, tag: int, array: np.ndarray) -> None:
        """Sends the bytes of a contiguous array. Returns before they have left: the array must not change.

        Raises:
          LostConnectionError: the other worker is known to be gone.
        """
        if self._lost:
            raise LostConnectionError(self._lost)
        payload = memoryview(array).cast("B") if array.size else memoryview(b"")
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
          tag: of the message.
          nbytes: the number of bytes that the message must have.
          timeout_seconds: how long to wait for a worker that gives signs of life; None waits without a limit.

        Raises:
          LostConnectionError: the other worker closed the connection, gave no sign of life for `silence_seconds`, did
            not send in time, or sent another number of bytes.
        """
        with self._arrived:
            now = time.monotonic()
            end, tick = now + (timeout_seconds or math.inf), now + _TICK_SECONDS
            silent_ticks, signs = 0, self._signs_of_life
            while not self._inbox[tag]:
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
        if message.nbytes != nbytes:
            raise LostConnectionError(
                f"worker {self._peer} sent {message.nbytes} bytes where {nbytes} were expected: the workers do not run "
                "the same program"
            )
        return message

    def close(self) -> None:
        """Starts to close. Everything that was handed over is still sent; `join` waits for it."""
        with self._handed_over:
            self._closing = True
            self._handed_over.notify()

    def join(self, deadline: float) -> None:
        """Waits until both sides have closed, or until `deadline` (a `time.monotonic()`), then hangs up."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._handed_over, contextlib.suppress(OSError):  # the socket may be closed already, by either side
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the threads; the last one closes the socket
        for thread in self._threads:
            thread.join(_HANG_UP_SECONDS)

    def _send_now(self, pieces):
        """Gives the kernel what it takes without waiting. Returns the rest."""
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
        """A thread: reads or writes. The last thread closes the socket: its number may be reused from then on."""
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
                raise ValueError(f"it sent what was not expected, a message of {nbytes} bytes")
            message = aligned(nbytes)
            self._fill(memoryview(message))
            with self._arrived:
                self._inbox[tag].append(message)
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
