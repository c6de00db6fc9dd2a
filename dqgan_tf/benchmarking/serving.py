"""A worker's side of the benchmark: it does on request what it can measure, and says what it cost.

A request is a line on stdin, its answer a line of JSON in a pipe of its own, which nothing else prints to:

    describe   a list with {"declared_bytes": ..., ...} of every variant
    step K     one step of variant K: {"total": ms, phase: ms, ...}
    bytes      what the interface has sent so far
    profile K FOLDER   one step of variant K, which worker 0 writes a TensorFlow profile of: {"total": ms, ...}
"""

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Measured(NamedTuple):
    """One variant on this worker.

    step: does it once; all workers' steps together make one exchange.
    phases: returns the milliseconds of the last step's phases; not timed.
    describe: returns `declared_bytes`, what one worker sends per step, and what else is to be recorded.
    """

    step: Callable[[], Any]
    phases: Callable[[], Mapping[str, float]]
    describe: Callable[[], Mapping[str, Any]]


def serve(measured: Sequence[Measured], arguments: Mapping[str, Any]) -> None:
    """Answers requests until stdin ends.

    Args:
      measured: the variants.
      arguments: what `Crew` has given to this worker: `answers`, a file descriptor, and `interface` are used.
    """
    answers = os.fdopen(arguments["answers"], "w", encoding="utf-8")
    for line in sys.stdin:
        request, *given = line.strip().split(" ", 2)
        if request == "step":
            answer = _timed(measured[int(given[0])])
        elif request == "profile":
            with _profile(given[1]) if arguments["index"] == 0 else contextlib.nullcontext():
                answer = _timed(measured[int(given[0])])
        elif request == "bytes":
            answer = sent_bytes(arguments["interface"])
        else:
            answer = [dict(one.describe()) for one in measured]
        print(json.dumps(answer), file=answers, flush=True)


def sent_bytes(interface: str) -> int:
    """Returns the bytes that an interface of this network namespace has sent, from /proc/net/dev.

    Raises:
      ValueError: there is no such interface.
    """
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == interface:
            return int(counters.split()[8])
    raise ValueError(f"There is no interface {interface!r}.")


def _profile(folder):
    import tensorflow as tf  # PyTorch's workers have none

    return tf.profiler.experimental.Profile(folder)


def _timed(measured):
    start = time.perf_counter()
    measured.step()
    total = 1e3 * (time.perf_counter() - start)
    return {"total": total, **measured.phases()}
