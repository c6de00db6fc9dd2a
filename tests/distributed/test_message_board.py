"""Unit test of the message board: nobody needs worker 0 after it has gone, and nobody waits for ever."""

import threading
import time

import pytest
import tensorflow as tf

from dqgan_tf.distribute import message_board
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.errors import LostConnectionError


class Service:
    """Stands in for the coordination service, which needs several processes: keys, and reads that wait for them."""

    def __init__(self):
        self.keys, self._changed, self.frozen = {}, threading.Condition(), False

    def set(self, key, value):
        if self.frozen:
            threading.Event().wait()
        with self._changed:
            self.keys[key] = value
            self._changed.notify_all()

    def get(self, key, timeout_seconds):
        with self._changed:
            if not self._changed.wait_for(lambda: key in self.keys, timeout_seconds):
                raise tf.errors.DeadlineExceededError(None, None, key)
            return self.keys[key]

    def delete(self, key):
        del self.keys[key]

    def wait_at_barrier(self, name, timeout_seconds):
        """Nobody else ever comes."""
        threading.Event().wait(timeout_seconds)
        raise tf.errors.DeadlineExceededError(None, None, name)


@pytest.fixture
def service(monkeypatch):
    service = Service()
    monkeypatch.setattr(message_board, "CoordinationService", lambda: service)
    return service


def seconds_to_leave(index, num_workers, timeout_seconds):
    start = time.monotonic()
    MessageBoard(index, num_workers).leave(timeout_seconds)
    return time.monotonic() - start


def test_worker_0_waits_for_every_other_worker(service):
    for index, seconds in ((1, 0.1), (2, 1.0)):
        threading.Timer(seconds, MessageBoard(index, 3).leave).start()
    assert 1.0 <= seconds_to_leave(0, 3, timeout_seconds=60.0) < 30.0
    assert len(service.keys) == 2


def test_worker_0_does_not_wait_for_the_dead(service):
    MessageBoard(2, 3).leave()
    assert 0.5 <= seconds_to_leave(0, 3, timeout_seconds=0.5) < 10.0


def test_a_worker_does_not_wait_for_an_answer_that_never_comes(service, monkeypatch):
    monkeypatch.setattr(service, "set", lambda key, value: threading.Event().wait())
    assert 0.5 <= seconds_to_leave(1, 2, timeout_seconds=0.5) < 10.0


def test_a_service_that_is_gone_is_no_error(service, monkeypatch):
    def gone(*_):
        raise tf.errors.UnavailableError(None, None, "gone")

    monkeypatch.setattr(service, "set", gone)
    monkeypatch.setattr(service, "get", gone)
    assert seconds_to_leave(0, 2, timeout_seconds=30.0) < 10.0
    assert seconds_to_leave(1, 2, timeout_seconds=30.0) < 10.0


def test_a_single_worker_has_nobody_to_wait_for():
    assert seconds_to_leave(0, 1, timeout_seconds=30.0) < 10.0


def test_a_service_that_answers_nothing_is_lost(service, monkeypatch):
    monkeypatch.setattr(message_board, "_TICK_SECONDS", 0.02)
    threading.Timer(0.2, setattr, (service, "frozen", True)).start()
    start = time.monotonic()
    with pytest.raises(LostConnectionError, match="worker 0 gave no sign of life for 0.3 s"):
        MessageBoard(1, 2, silence_seconds=0.3).exchange("topic", "text", timeout_seconds=60.0)
    assert 0.4 < time.monotonic() - start < 10.0


def test_a_service_that_answers_with_errors_is_lost(service, monkeypatch):
    """TensorFlow ends some calls to a frozen service by itself."""

    def fail(key, value):
        if "alive" in key:
            raise tf.errors.DeadlineExceededError(None, None, key)

    monkeypatch.setattr(service, "set", fail)
    monkeypatch.setattr(message_board, "_TICK_SECONDS", 0.02)
    with pytest.raises(LostConnectionError):
        MessageBoard(1, 2, silence_seconds=0.3).exchange("topic", "text", timeout_seconds=20.0)


def test_waiting_for_a_slow_worker_ends_by_the_limit_alone(service, monkeypatch):
    """The service answers all the while, for longer than the silence that is allowed."""
    monkeypatch.setattr(message_board, "_TICK_SECONDS", 0.02)
    with pytest.raises(tf.errors.DeadlineExceededError):
        MessageBoard(1, 2, silence_seconds=0.3).exchange("topic", "text", timeout_seconds=1.0)
    assert "dqgan/run/alive/1" in service.keys
