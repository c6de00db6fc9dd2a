"""Starts the benchmark's workers and collects what the chief prints."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from dqgan_tf.benchmarking import links
from dqgan_tf.training import comparison


def run(size: int, num_workers: int, rounds: int, names: Sequence[str], rate: str | None = None) -> list[dict]:
    """Returns one entry per variant, see `program`, with rate, commit and hardware.

    Every worker computes with one thread.

    Raises:
      RuntimeError: a worker failed, with the end of what it printed.
      OSError, subprocess.CalledProcessError: the links cannot be made; see `links.places`.
    """
    with links.places(num_workers, rate) as places:
        processes = [_start(places, index, size, rounds, names) for index in range(num_workers)]
        outputs = [process.communicate() for process in processes]
    for index, (process, (_, errors)) in enumerate(zip(processes, outputs, strict=True)):
        if process.returncode:
            raise RuntimeError(f"Benchmark worker {index} exited with {process.returncode}:\n{errors[-2000:]}")
    lines = [json.loads(line) for line in outputs[0][0].splitlines() if line.startswith("{")]
    return [{"rate": rate or "loopback", **line, **comparison.provenance()} for line in lines]


def _start(places, index, size, rounds, names):
    cluster = {"worker": [place.address for place in places]}
    environment = dict(
        os.environ,
        TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
        TF_NUM_INTRAOP_THREADS="1",
        TF_NUM_INTEROP_THREADS="2",
        OMP_NUM_THREADS="1",
        TF_CPP_MIN_LOG_LEVEL="2",
    )
    program = ["-m", "dqgan_tf.benchmarking.program", str(size), str(rounds), places[index].interface, *names]
    command = [*places[index].prefix, sys.executable, *program]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
