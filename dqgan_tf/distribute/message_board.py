"""Short texts between the workers, outside the collectives: agreement, barriers, reasons to stop."""

import contextlib
import threading
import time

import tensorflow as tf

from dqgan_tf.private_tensorflow import CoordinationService

_ANSWERING_SECONDS = 0.2  # in which the answers to the last calls leave


class MessageBoard:
    """Every worker posts a text under a topic and reads everybody's.

    It uses the coordination service that multi-worker strategies start (TensorFlow 2.21.0), which works while replicas
    disagree about their number or have not built a single variable: collectives would hang there.

    Args:
      worker_index: this worker's index.
      num_workers: workers in the cluster; with 1 nothing is sent.
      name: of the board: the texts of one never meet those of another.
    """

    def __init__(self, worker_index: int, num_workers: int, name: str = "run"):
        self._name = name
        self._worker_index = worker_index
        self._num_workers = num_workers
        self._posts = 0
        self._own_keys = []

    def exchange(self, topic: str, text: str, timeout_seconds: float = 600.0) -> list[str]:
        """Returns every worker's text, in the order of the workers. All workers must make the same sequence of calls.

        Doubles as a barrier: nobody returns before everybody has posted.

        Args:
          topic: what it is about, for messages of the service.
          text: this worker's.
          timeout_seconds: how long to wait for another worker.

        Raises:
          tf.errors.OpError: a worker is gone or did not post in time.
        """
        if self._num_workers == 1:
            return [text]
        service = CoordinationService()
        prefix = f"dqgan/{self._name}/{self._posts}/{topic}"
        self._posts += 1
        service.set(f"{prefix}/{self._worker_index}", text or " ")
        keys = [f"{prefix}/{index}" for index in range(self._num_workers)]
        # The barrier fails once a worker's heartbeat is missed; reading a key waits for a dead worker to the end.
        service.wait_at_barrier(prefix, timeout_seconds)
        self._forget(service, prefix)
        texts = [service.get(key, timeout_seconds) for key in keys]
        return ["" if received == " " else received for received in texts]

    def part(self, timeout_seconds: float = 10.0) -> None:
        """Says that this worker needs the board no longer; in worker 0, where the service lives, waits for the others.

        The last call before a worker ends: were worker 0 to end while another one still reads, that one would wait for
        ever or report a lost peer instead of its own error.

        Args:
          timeout_seconds: how long to wait for the others, or for worker 0's answer.
        """
        if self._num_workers == 1:
            return
        if self._worker_index:
            # A thread, since worker 0 may end before it has answered: the call would never return.
            saying = threading.Thread(target=self._say_parted, daemon=True)
            saying.start()
            saying.join(timeout_seconds)
            return
        end = time.monotonic() + timeout_seconds
        for index in range(1, self._num_workers):
            with contextlib.suppress(tf.errors.OpError):  # it is gone already, or will not come here
                CoordinationService().get(f"dqgan/{self._name}/parted/{index}", end - time.monotonic())
        time.sleep(_ANSWERING_SECONDS)

    def _say_parted(self):
        with contextlib.suppress(tf.errors.OpError):
            CoordinationService().set(f"dqgan/{self._name}/parted/{self._worker_index}", " ")

    def _forget(self, service, prefix):
        """Deletes this worker's text of two exchanges ago: to be here, every worker has read it."""
        self._own_keys.append(f"{prefix}/{self._worker_index}")
        if len(self._own_keys) > 2:
            service.delete(self._own_keys.pop(0))
