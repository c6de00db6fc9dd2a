"""The benchmark's side of its workers: one process of a program at every place, asked together."""

import json
import os
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

from dqgan_tf.benchmarking.links import Place
from dqgan_tf.training import launcher

_ANSWER_SECONDS = 600
_TAIL_LINES = 15
_ONE_THREAD = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "OMP_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_NUM_INTEROP_THREADS": "2",  # one waits in a collective while the other computes
    "TF_NUM_INTRAOP_THREADS": "1",
}


class Crew:
    """One process of `python -m module ARGUMENTS` at every place, with one thread for its computation.

    The arguments are one JSON object: those given, and `index`, `addresses`, `interface`,
    `answers`. The processes end with this
    one. A context manager: they are killed at its end.

    Args:
      module: which answers requests; see `serving`.
      arguments: for all of them.
      places: where they run.
      program: index of the program at its place: which of the addresses it has. None: the workers know nothing of
        each other.
    """

    def __init__(self, module: str, arguments: dict, places: Sequence[Place], program: int | None):
        self._module = module
        self._logs = tempfile.TemporaryDirectory()
        self._answers = queue.SimpleQueue()
        addresses = [] if program is None else [place.addresses[program] for place in places]
        self._processes = [
            self._start(place, arguments | {"index": i, "addresses": addresses, "interface": place.interface})
            for i, place in enumerate(places)
        ]

    def ask(self, request: str) -> list[Any]:
        """Returns every worker's answer, in their order.

        Raises:
          RuntimeError: a worker ended or did not answer in time, with the end of what it printed.
        """
        for index, process in enumerate(self._processes):
            try:
                process.stdin.write(request + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                raise self._failure(index) from None
        answers = {}
        while len(answers) < len(self._processes):
            index, line = self._next(answers)
            if not line:
                raise self._failure(index)
            answers[index] = json.loads(line)
        return [answers[index] for index in range(len(self._processes))]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._logs.cleanup()

    def _start(self, place, arguments):
        environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | _ONE_THREAD
        if arguments["addresses"]:
            task = {"type": "worker", "index": arguments["index"]}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": arguments["addresses"]}, "task": task})
        reading, writing = os.pipe()
        command = [sys.executable, "-m", self._module, json.dumps(arguments | {"answers": writing})]
        with open(self._log(arguments["index"]), "wb") as log:
            process = subprocess.Popen(
                [*place.prefix, *command],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                pass_fds=[writing],
                preexec_fn=launcher.die_with_parent,
            )
        os.close(writing)
        threading.Thread(target=self._read, args=(arguments["index"], reading), daemon=True).start()
        return process

    def _read(self, index, answers):
        with os.fdopen(answers, encoding="utf-8") as stream:
            for line in stream:
                self._answers.put((index, line))
        self._answers.put((index, ""))

    def _next(self, answers):
        try:
            return self._answers.get(timeout=_ANSWER_SECONDS)
        except queue.Empty:
            return min(set(range(len(self._processes))) - set(answers)), ""

    def _failure(self, index):
        process = self._processes[index]
        try:
            how = f"exited with {process.wait(5)}"
        except subprocess.TimeoutExpired:
            how = f"did not answer in {_ANSWER_SECONDS} s"
        tail = "\n".join(launcher.last_lines(self._log(index), _TAIL_LINES))
        return RuntimeError(f"Worker {index} of {self._module} {how}:\n{tail}")

    def _log(self, index):
        return pathlib.Path(self._logs.name) / f"worker_{index}.log"
