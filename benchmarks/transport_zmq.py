"""Another transport between CPU processes, to be measured against the library's: pyzmq's PAIR sockets.

    python -m benchmarks.transport_zmq FOLDER [--curve]
    python -m trainers.benchmark --against=FOLDER --variant=sign:bucket=512
    python -m trainers.benchmark --against=FOLDER --whole_step --variant=sign:bucket=512

The first command writes a copy of the library into FOLDER in which `connection.connect` is from this file, with the
installed pyzmq beside it. The others run it in the same rounds as the library; `against_ratio` is the time of the
library over that of pyzmq. `--curve` encrypts by CURVE. Clients are not authenticated: that
would take a ZAP handler more.
"""

import argparse
import collections
import importlib.util
import json
import math
import pathlib
import shutil
import socket
import struct
import threading
import time

import numpy as np
import zmq

from dqgan_tf.errors import LostConnectionError
from dqgan_tf.training import command

_TAG = struct.Struct("<Q")
_TICK_MS = 1000
_EVENTS = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
_ROOT = pathlib.Path(__file__).resolve().parent.parent


class ZmqConnection:
    """As `dqgan_tf.distribute.transport.connection.Connection`, of two PAIR sockets, one for each direction.

    A socket of ZeroMQ belongs to one thread at a time: senders take turns, and a thread owns the other socket.
    Messages of 64 KiB and more are copied neither when they are sent nor when they are received; TensorFlow copies one
    that is not aligned to 64 bytes.

    Args:
      outgoing, incoming: connected sockets that belong to this object from now on.
      peer: the other worker's index.
    """

    def __init__(self, outgoing: zmq.Socket, incoming: zmq.Socket, peer: int):
        self._outgoing, self._incoming, self._peer = outgoing, incoming, peer
        self._sending = threading.Lock()
        self._arrived = threading.Condition()
        self._inbox = collections.defaultdict(collections.deque)
        self._lost = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def send(self, tag: int, array: np.ndarray) -> None:
        if self._lost:
            raise LostConnectionError(self._lost)
        with self._sending:
            self._outgoing.send_multipart([_TAG.pack(tag), memoryview(array).cast("B")], copy=False)

    def receive(self, tag: int, nbytes: int, timeout_seconds: float | None = None) -> np.ndarray:
        end = time.monotonic() + (timeout_seconds or math.inf)
        with self._arrived:
            while not self._inbox[tag]:
                if self._lost:
                    raise LostConnectionError(self._lost)
                if time.monotonic() >= end:
                    raise LostConnectionError(f"worker {self._peer} did not send within {timeout_seconds:g} s")
                self._arrived.wait(min(1.0, end - time.monotonic()))
            frame = self._inbox[tag].popleft()
        message = np.frombuffer(frame.buffer, np.uint8)
        if message.nbytes != nbytes:
            raise LostConnectionError(f"worker {self._peer} sent {message.nbytes} bytes where {nbytes} were expected")
        return message if message.flags.writeable else message.copy()

    def close(self) -> None:
        self._closing.set()

    def join(self, deadline: float) -> None:
        with self._sending:
            self._outgoing.close(linger=max(0, int(1e3 * (deadline - time.monotonic()))))
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _read(self):
        events = self._incoming.get_monitor_socket(_EVENTS)
        poller = zmq.Poller()
        for one in (self._incoming, events):
            poller.register(one, zmq.POLLIN)
        while not self._lost:
            ready = dict(poller.poll(_TICK_MS))
            while self._incoming.poll(0):  # what has arrived before the other side was gone, too
                header, frame = self._incoming.recv_multipart(copy=False)
                (tag,) = _TAG.unpack(header.buffer)
                with self._arrived:
                    self._inbox[tag].append(frame)
                    self._arrived.notify_all()
            if events in ready or (self._closing.is_set() and not ready):
                with self._arrived:
                    self._lost = f"worker {self._peer} is gone: it closed the connection"
                    self._arrived.notify_all()
        self._incoming.disable_monitor()
        self._incoming.close(linger=0)


def connect(board, addresses, worker_index, timeout_seconds=60.0, silence_seconds=30.0, *, curve=False):
    """As `dqgan_tf.distribute.transport.connection.connect`."""
    del timeout_seconds
    context = zmq.Context()
    public_key, secret_key = zmq.curve_keypair() if curve else (b"", b"")
    peers = [worker for worker in range(len(addresses)) if worker != worker_index]
    host = socket.gethostbyname(addresses[worker_index].rpartition(":")[0])
    incoming = {peer: pair_socket(context, silence_seconds) for peer in peers}
    if curve:
        for one in incoming.values():
            one.curve_server, one.curve_publickey, one.curve_secretkey = True, public_key, secret_key
    ports = {str(peer): one.bind_to_random_port(f"tcp://{host}") for peer, one in incoming.items()}
    place = {"host": host, "ports": ports, "key": public_key.decode()}
    places = [json.loads(text) for text in board.exchange("address", json.dumps(place))]
    outgoing = {peer: pair_socket(context, silence_seconds) for peer in peers}
    for peer, one in outgoing.items():
        if curve:
            one.curve_serverkey = places[peer]["key"].encode()
            one.curve_publickey, one.curve_secretkey = public_key, secret_key
        one.connect(f"tcp://{places[peer]['host']}:{places[peer]['ports'][str(worker_index)]}")
    board.exchange("connected", "")
    return {peer: ZmqConnection(outgoing[peer], incoming[peer], peer) for peer in peers}


def pair_socket(context: zmq.Context, silence_seconds: float) -> zmq.Socket:
    """Returns a socket without a limit of queued messages, with a heartbeat a second and a limit of silence."""
    made = context.socket(zmq.PAIR)
    made.sndhwm = made.rcvhwm = 0  # no limit, as of the library's connections
    made.heartbeat_ivl, made.heartbeat_timeout = _TICK_MS, int(1e3 * silence_seconds)
    made.reconnect_ivl = -1
    return made


def write_tree(folder: pathlib.Path, curve: bool) -> None:
    """Writes a copy of the library that connects its workers by pyzmq into an empty or missing folder.

    Raises:
      FileExistsError: the folder holds a library already.
    """
    shutil.copytree(_ROOT / "dqgan_tf", folder / "dqgan_tf", ignore=shutil.ignore_patterns("__pycache__"))
    package = pathlib.Path(importlib.util.find_spec("zmq").origin).parent
    for path in (package, package.with_name("pyzmq.libs")):
        if path.exists():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(__file__, folder / "dqgan_tf" / "distribute" / "transport" / "transport_zmq.py")
    with open(folder / "dqgan_tf" / "distribute" / "transport" / "connection.py", "a", encoding="utf-8") as file:
        file.write(f"\n\nfrom dqgan_tf.distribute.transport import transport_zmq\n\nCURVE = {curve}\n")
        file.write(
            "\n\ndef connect(*args, **options):\n    return transport_zmq.connect(*args, curve=CURVE, **options)\n"
        )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=pathlib.Path, help="of the copy of the library; must not hold one already")
    parser.add_argument("--curve", action="store_true", help="encrypt by CURVE")
    return parser


def main(arguments: argparse.Namespace) -> None:
    write_tree(arguments.folder, arguments.curve)
    print(
        f"pyzmq {zmq.__version__} in {arguments.folder}. Now: python -m trainers.benchmark --against={arguments.folder}"
    )


if __name__ == "__main__":
    command.run_parsed(main, make_parser())
