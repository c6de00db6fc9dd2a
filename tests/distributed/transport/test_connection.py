"""Messages between the two ends of one socket."""

import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest

from dqgan_tf.distribute.transport import connection as connection_module
from dqgan_tf.distribute.transport.connection import Connection, aligned
from dqgan_tf.errors import LostConnectionError


@pytest.fixture
def ends():
    """Two connected `Connection`s: of worker 0, whose peer is 1, and of worker 1, whose peer is 0."""
    first, second = socket.socketpair()
    made = Connection(first, 1, silence_seconds=3.0), Connection(second, 0, silence_seconds=3.0)
    yield made
    for one in made:
        one.close()


@pytest.fixture
def alone():
    """A `Connection` of worker 0, and the bare socket of its peer, worker 1."""
    first, second = socket.socketpair()
    connection = Connection(first, 1, silence_seconds=2.0)
    with second:
        yield connection, second
    connection.close()


def _random(seed, size, dtype=np.float32):
    return np.random.RandomState(seed).standard_normal(size).astype(dtype)


class TestMessages:
    @pytest.mark.parametrize("size", [1, 17, 1000, 3_000_000])
    def test_bytes_arrive_as_they_were_sent(self, ends, size):
        array = _random(0, size)
        ends[0].send(5, array)
        received = ends[1].receive(5, array.nbytes, 20.0)
        assert received.dtype == np.uint8
        assert received.view(np.float32).tobytes() == array.tobytes()

    def test_nan_patterns_survive(self, ends):
        bits = np.array([0x7FC00001, 0xFF800001, 0x7F800000, 0x80000000], np.uint32)
        ends[0].send(0, bits.view(np.float32))
        np.testing.assert_array_equal(ends[1].receive(0, 16, 20.0).view(np.uint32), bits)

    def test_empty_message(self, ends):
        ends[0].send(1, np.zeros(0, np.float32))
        assert ends[1].receive(1, 0, 20.0).size == 0

    def test_messages_of_one_tag_keep_their_order(self, ends):
        arrays = [_random(seed, 40_000 * (seed % 3) + 1) for seed in range(30)]
        for array in arrays:
            ends[0].send(2, array)
        for array in arrays:
            np.testing.assert_array_equal(ends[1].receive(2, array.nbytes, 20.0).view(np.float32), array)

    def test_tags_do_not_wait_for_each_other(self, ends):
        for tag in (7, 8, 9):
            ends[0].send(tag, np.full(3, tag, np.float32))
        for tag in (9, 7, 8):
            assert ends[1].receive(tag, 12, 20.0).view(np.float32)[0] == tag

    def test_both_send_much_before_either_receives(self, ends):
        arrays = [_random(rank, 4_000_000) for rank in range(2)]
        for end, array in zip(ends, arrays, strict=True):
            end.send(0, array)  # more than the kernel takes: a blocking send on both sides would stand still
        for end, array in zip(ends, reversed(arrays), strict=True):
            assert end.receive(0, array.nbytes, 20.0).tobytes() == array.tobytes()

    def test_a_receiver_that_waits_is_woken(self, ends):
        timer = threading.Timer(0.2, ends[0].send, (4, np.ones(2, np.float32)))
        timer.start()
        np.testing.assert_array_equal(ends[1].receive(4, 8, 20.0).view(np.float32), [1.0, 1.0])

    def test_silence_is_not_loss_while_the_other_lives(self, ends):
        timer = threading.Timer(4.5, ends[0].send, (4, np.ones(2, np.float32)))  # longer than silence_seconds
        timer.start()
        np.testing.assert_array_equal(ends[1].receive(4, 8, 20.0).view(np.float32), [1.0, 1.0])


class TestTime:
    def test_a_message_on_a_slow_link_is_a_sign_of_life(self, alone):
        connection, peer = alone
        message = bytes(range(250))

        def trickle():
            peer.sendall(struct.pack("<QQ", 4, len(message)))
            for start in range(0, len(message), 25):
                peer.sendall(message[start : start + 25])
                time.sleep(0.35)  # 3.5 s together, longer than the silence that is allowed

        sender = threading.Thread(target=trickle)
        sender.start()
        assert connection.receive(4, len(message)).tobytes() == message
        sender.join()

    def test_a_message_that_stops_halfway_is_silence(self, alone):
        connection, peer = alone
        peer.sendall(struct.pack("<QQ", 4, 250) + bytes(100))
        with pytest.raises(LostConnectionError, match="worker 1 gave no sign of life for 2 s"):
            connection.receive(4, 250, 20.0)

    def test_time_runs_out_although_other_tags_arrive(self, ends):
        enough = threading.Event()

        def chatter():
            for _ in range(50):
                ends[0].send(9, np.zeros(1, np.float32))
                if enough.wait(0.1):
                    break

        sender = threading.Thread(target=chatter)
        sender.start()
        start = time.monotonic()
        with pytest.raises(LostConnectionError, match="worker 0 did not send within 0.5 s"):
            ends[1].receive(0, 4, 0.5)
        taken = time.monotonic() - start
        enough.set()
        sender.join()
        assert 0.5 <= taken < 2.0

    def test_a_receiver_that_was_stopped_blames_nobody(self, ends, monkeypatch):
        clock = types.SimpleNamespace(stopped=0.0)
        clock.monotonic = lambda: time.monotonic() + clock.stopped
        monkeypatch.setattr(connection_module, "time", clock)

        def stop():
            clock.stopped = 100.0
            ends[0].send(9, np.zeros(1, np.float32))  # wakes the receiver

        timers = [threading.Timer(0.2, stop), threading.Timer(1.5, ends[0].send, (4, np.ones(2, np.float32)))]
        for timer in timers:
            timer.start()
        np.testing.assert_array_equal(ends[1].receive(4, 8).view(np.float32), [1.0, 1.0])

    def test_a_message_longer_than_a_tick_is_still_sent(self, alone):
        connection, peer = alone
        array = _random(0, 4_000_000)
        connection.send(0, array)
        time.sleep(1.5)  # the kernel takes no more: only reading may end after a tick
        received = bytearray(16 + array.nbytes)
        view = memoryview(received)
        while view.nbytes:
            count = peer.recv_into(view, view.nbytes, socket.MSG_WAITALL)
            assert count
            view = view[count:]
        assert received[16:] == array.tobytes()


class TestClosing:
    def test_both_have_closed(self):
        sockets = socket.socketpair()
        made = [Connection(one, 1 - index) for index, one in enumerate(sockets)]
        for one in made:
            one.close()
        for one in made:
            one.join(time.monotonic() + 10.0)
        assert [one.fileno() for one in sockets] == [-1, -1]

    def test_the_other_does_not_close(self):
        ours, theirs = socket.socketpair()
        connection = Connection(ours, 1)
        connection.send(0, _random(0, 4_000_000))  # more than the kernel takes
        connection.close()
        with theirs:
            connection.join(time.monotonic() + 0.1)
            assert ours.fileno() == -1
        with pytest.raises(LostConnectionError):
            connection.send(0, np.zeros(1, np.float32))


class TestLoss:
    def test_closed_by_the_other(self, ends):
        ends[0].close()
        with pytest.raises(LostConnectionError, match="worker 0 is gone: it closed the connection"):
            ends[1].receive(0, 4, 20.0)

    def test_what_was_handed_over_arrives_before_the_close(self, ends):
        arrays = [_random(seed, 2_000_000) for seed in range(4)]
        for array in arrays:
            ends[0].send(0, array)
        ends[0].close()
        for array in arrays:
            assert ends[1].receive(0, array.nbytes, 20.0).tobytes() == array.tobytes()
        ends[0].join(time.monotonic() + 10.0)
        assert not any(thread.is_alive() for thread in ends[0]._threads)

    def test_send_to_one_that_is_gone(self, ends):
        ends[0].close()
        with pytest.raises(LostConnectionError):
            ends[1].receive(0, 4, 20.0)
        with pytest.raises(LostConnectionError, match="worker 0"):
            ends[1].send(0, np.zeros(1, np.float32))

    def test_wrong_size_is_named(self, ends):
        ends[0].send(0, np.zeros(3, np.float32))
        with pytest.raises(LostConnectionError, match="sent 12 bytes where 16 were expected"):
            ends[1].receive(0, 16, 20.0)

    def test_absurd_length_is_refused(self, alone):
        connection, peer = alone
        peer.sendall(struct.pack("<QQ", 0, 1 << 62))
        with pytest.raises(
            LostConnectionError, match=f"worker 1 is gone: it sent an unexpected message of {1 << 62} bytes"
        ):
            connection.receive(0, 4, 20.0)

    @pytest.mark.parametrize("error, reason", [(MemoryError(), "MemoryError"), (ValueError("no such"), "no such")])
    def test_whatever_ends_the_reader_is_named(self, alone, monkeypatch, error, reason):
        def fail(nbytes):
            raise error

        connection, peer = alone
        monkeypatch.setattr(connection_module, "aligned", fail)
        peer.sendall(struct.pack("<QQ", 0, 4))
        with pytest.raises(LostConnectionError, match=f"worker 1 is gone: {reason}"):
            connection.receive(0, 4, 20.0)

    def test_a_reader_that_ends_hangs_up(self, alone):
        connection, peer = alone
        peer.sendall(struct.pack("<QQ", 0, 1 << 62))
        peer.settimeout(5.0)
        assert peer.recv(1) == b""  # before the first sign of life

    def test_time_runs_out_although_the_other_lives(self, ends):
        with pytest.raises(LostConnectionError, match="worker 0 did not send within 0.5 s"):
            ends[1].receive(0, 4, 0.5)

    def test_a_frozen_process_is_silent(self):
        ours, theirs = socket.socketpair()
        program = (
            "import socket, sys, time\n"
            "from dqgan_tf.distribute.transport.connection import Connection\n"
            "one = Connection(socket.socket(fileno=int(sys.argv[1])), 0)\n"
            "print('up', flush=True)\n"
            "time.sleep(60)\n"
        )
        command = [sys.executable, "-c", program, str(theirs.fileno())]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE) as process:
            theirs.close()
            assert process.stdout.readline() == b"up\n"
            connection = Connection(ours, 1, silence_seconds=3.0)
            process.send_signal(signal.SIGSTOP)
            start = time.monotonic()
            with pytest.raises(LostConnectionError, match="worker 1 gave no sign of life for 3 s"):
                connection.receive(0, 4)
            assert 3.0 <= time.monotonic() - start < 10.0
            process.kill()
            connection.close()


def test_memory_is_aligned_for_tensorflow():
    for nbytes in (1, 63, 64, 100_000):
        memory = aligned(nbytes)
        assert memory.nbytes == nbytes and memory.ctypes.data % 64 == 0
