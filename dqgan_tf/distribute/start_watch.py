"""A process beside a worker whose workers TensorFlow connects: it ends the worker if that does not come to an end.

TensorFlow's limit for the connection covers the first worker, not one that waits for another one, and TensorFlow holds
the interpreter's lock meanwhile: no thread of Python could end the wait (TensorFlow 2.21.0). As a program it takes the
worker's process id, its index and a limit in seconds; it ends when its standard input does. It imports little, because
it runs at every start.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time

_SIGTERM_SECONDS = 3.0  # in which a worker that is connected ends by itself
_LOOK_SECONDS = 0.2


@contextlib.contextmanager
def limit(worker: int, seconds: float):
    """Ends this process with a line on stderr and SIGKILL if the body takes longer than `seconds`.

    SIGTERM has its effect when the body has ended, after a few seconds at the latest. TensorFlow's notifier of
    preemptions, which the body starts, would take it: it would have no effect at all.
    """
    if threading.current_thread() is not threading.main_thread() or not sys.executable:
        yield
        return
    arguments = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(worker), str(seconds)]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL):
            yield
    finally:
        if signal.SIGTERM in signal.sigpending():
            # Puts back what Python knows of, in place of TensorFlow's handler.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _watch(process: int, worker: str, seconds: float) -> None:
    start, signalled = time.monotonic(), None
    while not select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
        now = time.monotonic()
        signalled = (signalled or now) if _sigterm_waits(process) else None
        if signalled and now - signalled > _SIGTERM_SECONDS:
            _end(process, f"Worker {worker} was stopped by SIGTERM while TensorFlow connected the workers.")
            return
        if now - start > seconds:
            _end(
                process,
                f"All workers had come, and TensorFlow could not connect worker {worker} with them in {seconds:g} s: "
                "one was lost meanwhile. Start all workers again.",
            )
            return


def _sigterm_waits(process):
    """Whether the process blocks SIGTERM and has received one. Only Linux tells."""
    try:
        with open(f"/proc/{process}/status") as file:
            masks = [line.split()[1] for line in file if line.startswith("ShdPnd")]
    except OSError:
        return False
    return any(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks)


def _end(process, text):
    print(f"ERROR: {text}", file=sys.stderr, flush=True)
    os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # of the whole process group
        signal.signal(number, signal.SIG_IGN)
    _watch(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
