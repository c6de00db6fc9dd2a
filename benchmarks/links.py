"""Measures training over slow links: steps per second of two workers, with and without local steps, beside the same
training alone.

    python -m benchmarks.links --output=results/local/links.jsonl
    python -m benchmarks.links --output=results/speedup/links.jsonl --workers=2,4 --rates=100mbit,1gbit
    python -m benchmarks.links --output=runs/links.jsonl --small
    python -m benchmarks.links --report=results/local/links.jsonl

DCGAN of 28 x 28 grey images with batches of 32 for each worker, on one repeated batch of synthetic images. The workers
are processes of one thread in network namespaces; both directions of a link have the rate (needs root and iproute2, see
`crew.places`). Every variant is timed once a round, in turn, and so is `alone`: the same number of processes with the
same library and the same number of local steps, which compute at the same time but form no cluster and exchange
nothing. `plain` is a plain Keras step, alone too. A repeat starts all processes anew. A repeat at a rate that the file
holds is not measured again, so the same command continues a measurement that was stopped.
"""

import argparse
import functools
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dqgan_tf.errors import UsageError
from dqgan_tf.telemetry import json_lines
from dqgan_tf.training import command

KIND = "links"
ALONE, PLAIN = "alone", "plain"
VARIANTS = (
    *("float32", "none@auto@4", "fp16@auto@4", "linear:bits=8,bucket=512@auto@4", "linear:bits=4,bucket=512@auto@4"),
    *("sign:bucket=512@auto@4", "none@auto@4/K=8", "sign:bucket=512@auto@4/K=8", "sign:bucket=512@auto@4/K=32"),
)
"""Names of `benchmarks.variants`, with the local steps K behind them. `float32` is TensorFlow's own all-reduce."""

_EXPLAINED = """\
Medians over rounds; quartiles of the ratio in brackets. `alone`: the same number of processes with as many local
steps (K), which compute at the same time and exchange nothing. `plain`: a plain Keras step, alone. `float32`:
TensorFlow's all-reduce; `none` and `fp16` are float32 and float16 over the library's sockets. speed-up: workers
divided by the ratio to `alone`, which is samples a second against one worker where each worker has a core of its own.
Where workers share cores, they compute for longer and the link does not, so it is too high, at most by the number of
workers on a core. Measured bytes contain headers, heartbeats and, once a call, the mean of the metrics. wire: what
the declared bytes alone take at the rate. `python -m benchmarks.links --report=FILE` makes this page from the file of
the measurements, links.jsonl."""


class Setup(NamedTuple):
    """All as the options but `steps_per_call`, which is that of the variants with K = 1, and `names`."""

    rates: tuple[str, ...] = ("100mbit", "20mbit")
    workers: tuple[int, ...] = (2,)
    repeats: int = 2
    rounds: int = 5
    width: int | None = None
    batch_size: int = 32
    steps_per_call: int = 4
    names: tuple[str, ...] = VARIANTS


_FEW = (VARIANTS[0], VARIANTS[5], VARIANTS[7])
SMALL = Setup(("100mbit",), repeats=1, rounds=2, width=4, batch_size=4, steps_per_call=2, names=_FEW)


def described(name: str) -> dict[str, Any]:
    """Returns what `worker.whole_step` reads of a variant or a reference."""
    from benchmarks import variants

    if name == PLAIN:
        return {"name": name}
    variant = name.partition("/K=")[0]
    settings = variants.settings("float32" if variant == ALONE else variant, 1 << 20, whole_step=True)
    return settings | {"name": name, "local_steps": _local_steps(name)}


def references(names: Sequence[str]) -> list[str]:
    """Returns `alone` for every number of local steps among the variants, and `plain`."""
    counts = sorted({_local_steps(name) for name in names})
    return [*(ALONE if count == 1 else f"{ALONE}/K={count}" for count in counts), PLAIN]


def _local_steps(name):
    return int(name.partition("/K=")[2] or 1)


def measure(setup: Setup, path: str | os.PathLike, say: Callable[[str], None]) -> None:
    """Measures the repeats and rates that the file does not hold; appends one entry per variant and reference.

    An entry has milliseconds per gradient step (`milliseconds_median`, `_minimum`, of phases where the library tells
    them, and all of them in `samples`), bytes per gradient step and worker, declared and at the interface, and
    `alone_ratio`: the quartiles over rounds of its time divided by that of `alone` with as many local steps in the same
    round.

    Raises:
      UsageError: a rate that cannot be read, or that needs root or a program that is missing.
      RuntimeError: a worker failed, with the end of what it printed.
      OSError: the links cannot be made.
    """
    from benchmarks import report, run
    from benchmarks.crew import bits_per_second
    from benchmarks.provenance import command_line

    for rate in setup.rates:
        bits_per_second(rate)
    fields = {"kind": KIND, "width": setup.width, "batch_size": setup.batch_size}
    for repeat, rate, workers in itertools.product(range(setup.repeats), setup.rates, setup.workers):
        key = fields | {"repeat": repeat, "rate": rate, "workers": workers}
        recorded = [row for row in json_lines.read(path) if key.items() <= row.items()]
        if {row["variant"] for row in recorded} >= {*setup.names, *references(setup.names)}:
            say(f"{rate}, {workers} workers, repeat {repeat + 1}: in {path} already")
            continue
        say(f"{rate}, {workers} workers, repeat {repeat + 1} of {setup.repeats}")
        plan = run.Plan(setup.names, command_line("benchmarks.links"), workers, setup.rounds, rate)
        report.append(path, _entries(plan, setup, key, say))


def _entries(plan, setup, key, say):
    from benchmarks import run
    from benchmarks.worker import __file__ as worker

    arguments = {
        "program": "whole_step",
        "network": {"network": "dcgan", "width": setup.width},
        "batch_size": setup.batch_size,
        "data_shape": [28, 28, 1],
        "steps_per_call": setup.steps_per_call,
    }
    with run.checkouts(None) as [tree]:
        programs = [
            run.Program(worker, arguments, [described(name) for name in setup.names], 1, tree),
            run.Program(
                worker, arguments, [described(name) for name in references(setup.names)], 1, tree, connected=False
            ),
        ]
        series = run.measure(plan, programs, warm_up=2, say=say)
        entries = run.make_entries(plan, series, key, seeds=[0])
    alone = {_local_steps(item.name): item for item in series if item.name.startswith(ALONE)}
    for entry, item in zip(entries, series, strict=True):
        count = _local_steps(item.name)
        reference = alone[count]
        calls = count if count > 1 else setup.steps_per_call
        entry |= {
            "local_steps": count,
            "steps_per_call": calls,
            "interface_bytes": round(entry["interface_bytes"] / calls) if item.program.connected else 0,
            "declared_bytes": entry["declared_bytes"] / count if item.program.connected else 0,
            "alone_ratio": run.quartiles(item, reference),
            "samples": [round(sample["total"], 3) for sample in item.samples],
            "alone_samples": [round(sample["total"], 3) for sample in reference.samples],
        }
    return entries


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table: medians over the rounds of all repeats, with the quartiles of the ratio to `alone`
    with as many local steps.

    "wire" is what the declared bytes alone take at the rate, per gradient step.
    """
    import numpy as np

    from benchmarks.crew import bits_per_second, wire_milliseconds
    from benchmarks.report import markdown

    if not rows:
        raise UsageError("--report must name a file that `python -m benchmarks.links --output=FILE` wrote.")
    parts = ["# Training over slow links", _EXPLAINED]
    for width, batch_size, workers in dict.fromkeys(map(_setting, rows)):
        lines = []
        own = [row for row in rows if _setting(row) == (width, batch_size, workers)]
        for rate in sorted({row["rate"] for row in own}, key=bits_per_second):
            for name in dict.fromkeys([*references(VARIANTS), *VARIANTS, *(row["variant"] for row in own)]):
                runs = [row for row in own if (row["rate"], row["variant"]) == (rate, name)]
                if not runs:
                    continue
                times = np.concatenate([row["samples"] for row in runs])
                ratios = times / np.concatenate([row["alone_samples"] for row in runs])
                low, middle, high = np.percentile(ratios, [25, 50, 75])
                declared, median = runs[0]["declared_bytes"], float(np.median(times))
                measured = np.mean([row["interface_bytes"] for row in runs])
                lines.append(
                    [
                        *(rate, name, f"{1e3 / median:.2f}", f"{median:.1f} / {times.min():.1f}"),
                        f"{middle:.2f} ({low:.2f} to {high:.2f})",
                        f"{workers / middle:.2f}" if declared else "",
                        f"{declared / 1e3:.1f} / {measured / 1e3:.1f}" if declared else "",
                        f"{wire_milliseconds(declared, rate):.1f}" if declared else "",
                    ]
                )
        header = ["link", "variant", "steps/s", "ms per step, median / min", "time / alone, same K", "speed-up"]
        header += ["kB per step and worker, declared / measured", "wire, ms per step"]
        parts += [markdown(header, lines), _source(own, width, batch_size)]
    return "\n\n".join(parts) + "\n"


def _setting(row):
    """Rows of one table have the same."""
    return row["width"], row["batch_size"], row["workers"]


def _source(rows, width, batch_size):
    size = f"width {width}" if width else "the default width"
    words = (
        f"DCGAN 28 x 28 of {size}, {rows[0]['values']:,} values, batch {batch_size} a worker, {rows[0]['workers']} "
        f"workers of one thread; repeats: {len({row['repeat'] for row in rows})}, each of {rows[0]['step']} rounds"
    )
    sources = [sorted({row[name] for row in rows}) for name in ("hardware", "commit")]
    command = max(rows, key=lambda row: row["repeat"])["command"]  # a run adds the repeats that the file lacks
    return f"{words}; {'; '.join(sources[0])}; commit {', '.join(sources[1])}: `{command}`"


def _counts(text):
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 1 for part in parts):
        raise argparse.ArgumentTypeError(f"must be whole numbers from 2, such as 2,4. Received: {text}")
    return tuple(map(int, parts))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Setup()
    parser.add_argument("--output", help="file to which JSON lines are appended")
    parser.add_argument("--report", help="measure nothing: print the table of this file")
    parser.add_argument("--rates", default=",".join(default.rates), help="of every worker's link")
    parser.add_argument(
        "--workers", type=_counts, default=default.workers, help="numbers of workers, such as 2,4; each from 2"
    )
    parser.add_argument(
        "--repeats", type=command.positive, default=default.repeats, help="starts of all processes at every rate"
    )
    parser.add_argument(
        "--rounds", type=command.positive, default=default.rounds, help="timed calls of every variant in a repeat"
    )
    parser.add_argument(
        "--width", type=command.positive, help="filters of the layer next to the image; default: the network's"
    )
    parser.add_argument(
        "--batch_size", type=command.positive, default=default.batch_size, help="images per worker and step"
    )
    parser.add_argument("--small", action="store_true", help="few variants, width 4, batches of 4, one repeat")
    return parser


def main(arguments: argparse.Namespace) -> None:
    if arguments.report:
        rows = json_lines.read(arguments.report)
        print(table([row for row in rows if row.get("kind") == KIND]), end="")
    elif arguments.output:
        chosen = {name: getattr(arguments, name) for name in ("workers", "repeats", "rounds", "width", "batch_size")}
        setup = SMALL if arguments.small else Setup(rates=tuple(arguments.rates.split(",")), **chosen)
        measure(setup, arguments.output, functools.partial(print, file=sys.stderr, flush=True))
    else:
        raise UsageError("Name the file of the measurements, such as --output=results/local/links.jsonl")


if __name__ == "__main__":
    command.run_parsed(main, make_parser())
