"""Messages between the two ends of one socket."""

import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from dqgan_tf.distribute.sockets.connection import Connection, LostConnectionError, aligned


@pytest.fixture
def ends():
    """Two connected `Connection`s: of worker 0, whose peer is 1, and of worker 1, whose peer is 0."""
    first, second = socket.socketpair()
    made = Connection(first, 1, silence_seconds=3.0), Connection(second, 0, silence_seconds=3.0)
    yield made
    for one in made:
        one.close()


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

    def test_time_runs_out_although_the_other_lives(self, ends):
        with pytest.raises(LostConnectionError, match="worker 0 did not send within 0.5 s"):
            ends[1].receive(0, 4, 0.5)

    def test_a_frozen_process_is_silent(self):
        ours, theirs = socket.socketpair()
        program = (
            "import socket, sys, time\n"
            "from dqgan_tf.distribute.sockets.connection import Connection\n"
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
