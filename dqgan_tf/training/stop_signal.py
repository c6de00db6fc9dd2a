"""SIGTERM and SIGINT as a request to save and leave together."""

import signal


class StopSignal:
    """Remembers that this process was asked to stop; the loop asks all workers at its next look.

    A second signal raises `KeyboardInterrupt(number)` at once. Use as a context manager in the main thread.
    """

    def __init__(self):
        self.received: int | None = None
        self._previous = {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        del frame
        if self.received is not None:
            raise KeyboardInterrupt(number)
        self.received = number
