"""The transport that the library's is measured against keeps the same contract, so that the figures compare equals."""

import contextlib
import inspect
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf.distribute.transport import connection
from dqgan_tf.distribute.transport.collectives import SocketCollectives
from dqgan_tf.distribute.transport.connection import close_all
from tests.contracts.collectives_contract import CollectivesContract
from tests.distributed.transport.test_sockets import together

pytest.importorskip("zmq", reason="pyzmq is not installed: python -m pip install pyzmq")
from benchmarks import transport_zmq  # noqa: E402


class Board:
    """What `MessageBoard` does, for threads of one process."""

    def __init__(self, count):
        self.texts, self.barrier = {}, threading.Barrier(count, timeout=30)

    def of(self, worker, count):
        def exchange(topic, text):
            self.texts[topic, worker] = text
            self.barrier.wait()
            return [self.texts[topic, index] for index in range(count)]

        return type("OfOne", (), {"exchange": staticmethod(exchange)})


class Zmq(CollectivesContract):
    curve = False

    def run(self, act):
        board = Board(self.ranks)

        def rank(index):
            addresses = ["127.0.0.1:1"] * self.ranks
            connections = transport_zmq.connect(board.of(index, self.ranks), addresses, index, curve=self.curve)
            with contextlib.closing(SocketCollectives(connections, list(range(self.ranks)), index)) as collectives:
                result = tf.nest.map_structure(lambda one: one.numpy() if tf.is_tensor(one) else one, act(collectives))
                board.barrier.wait()  # nobody leaves early
                return result

        return together(list(range(self.ranks)), rank)

    def alone(self):
        return SocketCollectives({}, [0], 0)


class TestTwo(Zmq):
    ranks = 2


class TestThree(Zmq):
    ranks = 3


class TestEncrypted(Zmq):
    ranks, curve = 2, True


def test_the_tree_connects_by_zmq(tmp_path):
    transport_zmq.write_tree(tmp_path, curve=True)
    program = (
        "from dqgan_tf.distribute.transport import connection, transport_zmq, transports\n"
        "calls = []\n"
        "transport_zmq.connect = lambda *args, **options: calls.append((args, options))\n"
        "connection.connect('board', ['a:1', 'b:1'], 1, silence_seconds=7.0)\n"
        "print(connection.__file__, *calls)\n"
    )
    call = subprocess.run(
        [sys.executable, "-P", "-c", program], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert call.returncode == 0, call.stderr
    assert call.stdout.startswith(str(tmp_path))
    assert "(('board', ['a:1', 'b:1'], 1), {'curve': True, 'silence_seconds': 7.0})" in call.stdout
    assert (tmp_path / "zmq" / "__init__.py").exists()


def test_it_takes_the_arguments_of_the_librarys():
    assert list(inspect.signature(transport_zmq.connect).parameters)[:5] == list(
        inspect.signature(connection.connect).parameters
    )


def test_what_is_handed_over_arrives_before_the_end():
    board, array = Board(2), np.arange(3_000_000, dtype=np.float32)

    def worker(index):
        connections = transport_zmq.connect(board.of(index, 2), ["127.0.0.1:1"] * 2, index)
        if index == 0:
            connections[1].send(7, array)
            close_all(connections.values())
            return None
        received = connections[0].receive(7, array.nbytes, 20.0).view(np.float32).copy()
        close_all(connections.values())
        return received

    _, received = together([0, 1], worker)
    np.testing.assert_array_equal(received, array)
