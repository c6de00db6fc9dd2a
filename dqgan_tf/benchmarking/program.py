"""One worker of the benchmark: times every variant in turn and lets the chief print JSON lines.

    python -m dqgan_tf.benchmarking.program SIZE ROUNDS INTERFACE VARIANT...

TF_CONFIG names the workers. One line per variant: median and minimum milliseconds of the whole exchange and of its
phases, declared bytes and bytes at the interface.
"""

import json
import pathlib
import sys
import time

import numpy as np
import tensorflow as tf

from dqgan_tf.benchmarking import variants
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.distribute.pipeline import PHASES
from dqgan_tf.distribute.strategy import CompressedStrategy

_WARM_UP = 3


def main(size: str, rounds: str, interface: str, *names: str) -> None:
    """Runs the benchmark of this worker; see the module."""
    strategy = CompressedStrategy()
    board = MessageBoard(strategy.worker_index, strategy.num_workers)
    random = np.random.RandomState(strategy.worker_index)
    vector = tf.Variable(1e-3 * random.standard_normal(int(size)).astype(np.float32))
    compared = [variants.build(name, strategy, vector) for name in names]
    for variant in compared:
        for _ in range(_WARM_UP):
            variant.step()
    times, phases = {v.name: [] for v in compared}, {v.name: [] for v in compared}
    bytes_at_interface = {v.name: 0 for v in compared}
    for _ in range(int(rounds)):  # interleaved: the machine's speed drifts
        for variant in compared:
            board.exchange("start", "")
            before, start = sent_bytes(interface), time.perf_counter()
            variant.step()
            times[variant.name].append(1e3 * (time.perf_counter() - start))
            board.exchange("stop", "")
            bytes_at_interface[variant.name] += sent_bytes(interface) - before
            if variant.channel:
                phases[variant.name].append(1e3 * variant.channel.seconds.variables[0].numpy())
    shared = strategy.num_workers if interface == "lo" else 1  # every worker's bytes pass loopback's counter
    if strategy.is_chief:
        for v in compared:
            measured = bytes_at_interface[v.name] / int(rounds) / shared
            print(json.dumps(_line(v, int(size), strategy, times[v.name], phases[v.name], measured)), flush=True)
    board.exchange("end", "")


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


def _line(variant, size, strategy, times, phases, measured):
    line = {
        "variant": variant.name,
        "values": size,
        "workers": strategy.num_workers,
        "rounds": len(times),
        "milliseconds_median": float(np.median(times)),
        "milliseconds_minimum": float(np.min(times)),
        "declared_bytes": variant.sent_bytes,
        "interface_bytes": round(measured),
    }
    for index, phase in enumerate(PHASES if phases else ()):
        line[f"{phase}_milliseconds_median"] = float(np.median([one[index] for one in phases]))
    if variant.channel:
        line["topology"] = variant.channel.topology
    return line


if __name__ == "__main__":
    main(*sys.argv[1:])
