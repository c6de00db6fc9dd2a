"""What a transport takes for a dead worker: a long message over a slow link, and a worker that was stopped for a while.

    python -m benchmarks.transport_liveness --output=FILE

Each case runs over the library's `Connection` and over pyzmq's PAIR sockets with the heartbeats of ZMTP, both with a
heartbeat a second and a limit of 15 s of silence. pyzmq must be installed.
"""

import argparse
import json
import multiprocessing
import os
import signal
import socket
import threading
import time

import numpy as np
import zmq

from benchmarks.provenance import command_line, provenance
from benchmarks.transport_zmq import ZmqConnection, pair_socket
from dqgan_tf.distribute.transport.connection import Connection
from dqgan_tf.errors import LostConnectionError
from dqgan_tf.training import command

_BYTES = 25_000_000
_BYTES_PER_SECOND = 1_000_000  # 8 Mbit/s: the message takes longer than the limit of silence
_STOPPED_SECONDS = 20
_SILENCE_SECONDS = 15.0
_DEADLINE_SECONDS = 90.0


def _slow_link(port: int) -> int:
    """Returns a port whose connection is passed on to `port` at `_BYTES_PER_SECOND`."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)

    def forward(source, target):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
            time.sleep(len(piece) / _BYTES_PER_SECOND)
        target.shutdown(socket.SHUT_WR)

    def serve():
        # ZMQ's pair has two connections, one for each direction.
        while True:
            caller, _ = listener.accept()
            callee = socket.create_connection(("127.0.0.1", port))
            for ends in ((caller, callee), (callee, caller)):
                threading.Thread(target=forward, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def _connections(transport: str, slow: bool):
    """Returns (what the other process needs to connect, a function that then returns this side's connection)."""
    if transport == "sockets":
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        return (_slow_link(port) if slow else port), lambda: Connection(listener.accept()[0], 1, _SILENCE_SECONDS)
    context = zmq.Context()
    outgoing, incoming = pair_socket(context, _SILENCE_SECONDS), pair_socket(context, _SILENCE_SECONDS)
    ports = [one.bind_to_random_port("tcp://127.0.0.1") for one in (outgoing, incoming)]
    return [_slow_link(port) if slow else port for port in ports], lambda: ZmqConnection(outgoing, incoming, 1)


def _other(transport: str, place):
    """The other worker: receives one message and answers with its length."""
    if transport == "sockets":
        connection = Connection(socket.create_connection(("127.0.0.1", place)), 0, _SILENCE_SECONDS)
    else:
        context = zmq.Context()
        incoming, outgoing = pair_socket(context, _SILENCE_SECONDS), pair_socket(context, _SILENCE_SECONDS)
        for one, port in zip((incoming, outgoing), place, strict=True):
            one.connect(f"tcp://127.0.0.1:{port}")
        connection = ZmqConnection(outgoing, incoming, 0)
    connection.receive(1, _BYTES, _DEADLINE_SECONDS)
    connection.send(2, np.zeros(1, np.float32))
    time.sleep(2.0)
    os._exit(0)


def measure(transport: str, case: str) -> dict:
    """Returns the row of one transport (`sockets`, `pyzmq`) in one case (`slow link`, `stopped worker`)."""
    place, connect = _connections(transport, case == "slow link")
    other = multiprocessing.Process(target=_other, args=(transport, place), daemon=True)
    other.start()
    connection = connect()
    time.sleep(2.0)
    if case == "stopped worker":
        os.kill(other.pid, signal.SIGSTOP)
        time.sleep(_STOPPED_SECONDS)
        os.kill(other.pid, signal.SIGCONT)
    start = time.monotonic()
    try:
        connection.send(1, np.zeros(_BYTES, np.uint8))
        connection.receive(2, 4, _DEADLINE_SECONDS)
        outcome = "arrived"
    except LostConnectionError as error:
        outcome = str(error)
    other.kill()
    return {"transport": transport, "case": case, "outcome": outcome, "seconds": round(time.monotonic() - start, 1)}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", required=True, help="file to which JSON lines are appended")
    return parser


def main(arguments: argparse.Namespace) -> None:
    origin = provenance(command_line("benchmarks.transport_liveness"), threads=1, seeds=[])
    with open(arguments.output, "a", encoding="utf-8") as file:
        for case in ("slow link", "stopped worker"):
            for transport in ("sockets", "pyzmq"):
                row = measure(transport, case) | {"bytes": _BYTES, "pyzmq": zmq.__version__} | origin
                print(json.dumps(row), file=file, flush=True)
                print(f"{case}, {transport}: {row['outcome']} after {row['seconds']} s", flush=True)


if __name__ == "__main__":
    command.run_parsed(main, make_parser(), exits_at_once=True)
