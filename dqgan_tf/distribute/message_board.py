"""Short texts between the workers, outside the collectives: agreement, barriers, reasons to stop."""

import time

from tensorflow.python.eager import context
from tensorflow.python.framework import errors

_READING_SECONDS = 1.0


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
        service = context.context()
        prefix = f"dqgan/{self._name}/{self._posts}/{topic}"
        self._posts += 1
        service.set_config_key_value(f"{prefix}/{self._worker_index}", text or " ")
        keys = [f"{prefix}/{index}" for index in range(self._num_workers)]
        # The barrier fails once a worker's heartbeat is missed; reading a key waits for a dead worker to the end.
        service.wait_at_barrier(prefix, int(1e3 * timeout_seconds))
        self._forget(service, prefix)
        texts = [service.get_config_key_value(key, int(1e3 * timeout_seconds)) for key in keys]
        return ["" if received == " " else received for received in texts]

    def part(self, timeout_seconds: float = 5.0) -> None:
        """Waits until everybody has read what came before, when all are about to leave over an error.

        The service lives in worker 0: were it to leave at once, the others would report a lost peer and not the error.
        """
        if self._num_workers == 1:
            return
        try:
            self.exchange("part", "", timeout_seconds)
        except errors.OpError:
            return  # not everybody came here: there is nothing more to wait for
        if self._worker_index == 0:
            time.sleep(_READING_SECONDS)

    def _forget(self, service, prefix):
        """Deletes this worker's text of two exchanges ago: to be here, every worker has read it."""
        self._own_keys.append(f"{prefix}/{self._worker_index}")
        if len(self._own_keys) > 2:
            service.delete_config_key_value(self._own_keys.pop(0))
