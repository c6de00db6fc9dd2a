"""Exchange of short texts between workers without collectives: agreement, barriers, reasons to stop."""

import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable

import tensorflow as tf

from dqgan_tf.config import TrainConfig
from dqgan_tf.errors import LostConnectionError
from dqgan_tf.private_tensorflow import CoordinationService

_REPLY_SECONDS = 0.2  # grace period for the service's last replies
_TICK_SECONDS = 1.0


class MessageBoard:
    """Every worker posts a text under a topic and reads the texts of all workers.

    It uses the coordination service that multi-worker strategies start. The service works where collectives would hang:
    while replicas disagree about their number, or before a worker has built its variables. It notices workers that are
    gone or frozen. It runs in worker 0, so it cannot detect that worker 0 is frozen: calls to it would block forever.
    Each call therefore runs in a thread, while this worker posts to the service every second and gives up after
    `silence_seconds` without a reply.

    Args:
      worker_index: this worker's index.
      num_workers: number of workers; with 1 nothing is sent.
      name: name of the board; boards with different names never read each other's texts.
      silence_seconds: seconds without a reply after which worker 0 counts as lost; the value of --silence_timeout.
    """

    def __init__(
        self,
        worker_index: int,
        num_workers: int,
        name: str = "run",
        silence_seconds: float = TrainConfig.silence_timeout,
    ):
        self._name = name
        self._silence_seconds = silence_seconds
        self._worker_index = worker_index
        self._num_workers = num_workers
        self._posts = 0
        self._posted_keys: list[str] = []

    def exchange(self, topic: str, text: str, timeout_seconds: float = 600.0) -> list[str]:
        """Returns the texts of all workers, by worker index. All workers must make the same sequence of calls.

        The call is also a barrier: no worker returns before all have posted.

        Args:
          topic: name of the exchange, for error messages of the service.
          text: text of this worker.
          timeout_seconds: how long to wait for another worker.

        Raises:
          tf.errors.OpError: a worker is gone or did not post in time.
          LostConnectionError: worker 0 gives no sign of life for `silence_seconds`.
        """
        if self._num_workers == 1:
            return [text]
        prefix = f"dqgan/{self._name}/{self._posts}/{topic}"
        self._posts += 1
        return self._ask(lambda service: self._exchange(service, prefix, text, timeout_seconds))

    def _exchange(self, service, prefix, text, timeout_seconds):
        service.set(f"{prefix}/{self._worker_index}", text or " ")
        keys = [f"{prefix}/{index}" for index in range(self._num_workers)]
        # The barrier fails as soon as a worker misses its heartbeat; reading a key would wait for the whole timeout.
        service.wait_at_barrier(prefix, timeout_seconds)
        # Every worker that reached this barrier has read the texts of the exchange before the last one.
        self._posted_keys.append(f"{prefix}/{self._worker_index}")
        if len(self._posted_keys) > 2:
            service.delete(self._posted_keys.pop(0))
        texts = [service.get(key, timeout_seconds) for key in keys]
        return ["" if received == " " else received for received in texts]

    def leave(self, timeout_seconds: float = 10.0) -> None:
        """Tells worker 0 that this worker no longer needs the board. Worker 0 waits until all workers have left.

        It is the last call before a worker ends. If worker 0, which runs the service, ended while another worker still
        reads, that worker would wait forever, or report a lost peer instead of its own error.

        Args:
          timeout_seconds: how long worker 0 waits for the others, and the others for worker 0's reply.
        """
        if self._num_workers == 1:
            return
        if self._worker_index:
            # In a thread: worker 0 may end before it has replied, and then the call never returns.
            announcement = threading.Thread(target=self._announce_leave, daemon=True)
            announcement.start()
            announcement.join(timeout_seconds)
            return
        end = time.monotonic() + timeout_seconds
        for index in range(1, self._num_workers):
            with contextlib.suppress(tf.errors.OpError):  # that worker is gone, or ends in another way
                CoordinationService().get(f"dqgan/{self._name}/left/{index}", end - time.monotonic())
        time.sleep(_REPLY_SECONDS)

    def _ask(self, action: Callable):
        """Returns action(service), which waits for other workers.

        Raises:
          LostConnectionError: the service answers nothing for `silence_seconds`.
        """
        service = CoordinationService()
        answer, ticks = _in_thread(lambda: action(service)), 0
        probe = _in_thread(lambda: self._is_alive(service))
        while True:
            # Count ticks instead of measuring time: after this process was stopped and continued, only one has passed.
            if concurrent.futures.wait([answer], _TICK_SECONDS).done:
                return answer.result()
            ticks += 1
            if probe.done():
                ticks = 0 if probe.result() else ticks
                probe = _in_thread(lambda: self._is_alive(service))
            if ticks * _TICK_SECONDS >= self._silence_seconds:
                raise LostConnectionError(f"worker 0 gave no sign of life for {self._silence_seconds:g} s")

    def _is_alive(self, service):
        """Whether the service has replied. TensorFlow itself ends some calls to a frozen service with other errors."""
        with contextlib.suppress(tf.errors.OpError):
            try:
                service.set(f"dqgan/{self._name}/alive/{self._worker_index}", " ")
            except tf.errors.AlreadyExistsError:  # from the second time on
                pass
            return True
        return False

    def _announce_leave(self):
        with contextlib.suppress(tf.errors.OpError):
            CoordinationService().set(f"dqgan/{self._name}/left/{self._worker_index}", " ")


def _in_thread(action):
    """Returns a future of action(). The thread ends with the process, also if the action never returns."""
    future = concurrent.futures.Future()

    def run():
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
