"""The whole training step of a Keras classifier on several workers: compression against stock all-reduce.

    python -m benchmarks.keras_step --task=fashion_mnist --rate=loopback,1gbit,100mbit --threads=1,2 \
        --output=results/keras/steps.jsonl
    python -m benchmarks.keras_step --report=results/keras/steps.jsonl

Variants: `float32` and `float16` are Keras' optimizer under TensorFlow's MultiWorkerMirroredStrategy. All others are
SPEC or SPEC@WHERE of `dqgan_tf.compressed`, such as `sign:bucket=512@update`. In every round all variants take their
turn. `worker.classifier` has the step.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import report, run, variants
from benchmarks.crew import LOOPBACK, bits_per_second, wire_milliseconds
from benchmarks.provenance import ROOT, command_line
from dqgan_tf import compressors
from dqgan_tf.errors import UsageError
from dqgan_tf.training import command

KIND, ALONE = "classifier", "alone"
VARIANTS = (
    *variants.DENSE,
    "none",
    *(f"{spec}{place}" for spec in ("linear:bits=4,bucket=512", "sign:bucket=512") for place in ("", "@update")),
)
_WARM_UP = 3


def measure(
    plan: run.Plan, task: str, optimizer: str, batch_size: int, steps_per_call: int, say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Returns one entry per variant and number of threads.

    An entry holds, besides what `run.exchange` records: `alone_milliseconds_median`, the stock step of workers that
    exchange nothing and compute at the same time; `float32_ratio`, the quartiles over rounds of the time divided by
    that of `float32`, if that is a variant. Milliseconds are per step; those of the phases are of the last step of a
    call.

    Raises:
      UsageError: unknown compressor, place or rate; a rate without root.
      RuntimeError: a worker failed, with the end of what it printed.
      OSError: the links cannot be made; see `crew.places`.
    """
    described = [settings(name) for name in plan.names]
    fields = {"task": task, "optimizer": optimizer, "batch_size": batch_size, "steps_per_call": steps_per_call}
    worker = ROOT / "benchmarks" / "worker.py"
    with run.checkouts(None) as (tree,):
        programs = []
        for threads in plan.threads:
            for stock in (True, False):
                own = [variant for variant in described if (variant["name"] in variants.DENSE) == stock]
                arguments = {"program": KIND, "stock": stock, **fields}
                programs.append(run.Program(worker, arguments, own, threads, tree))
            alone = {"program": KIND, "stock": True, **fields}
            programs.append(run.Program(worker, alone, [{"name": ALONE}], threads, tree, connected=False))
        series = run.measure(plan, programs, _WARM_UP, say)
        connected = [item for item in series if item.program.connected]
        entries = run.make_entries(plan, connected, {"kind": KIND, **fields}, seeds=[0])
    for entry, item in zip(entries, connected, strict=True):
        entry["interface_bytes"] = round(entry["interface_bytes"] / steps_per_call)  # the counter is read once a call
        same = {other.name: other for other in series if other.program.threads == item.program.threads}
        entry["alone_milliseconds_median"] = run.statistic(np.median, same[ALONE], "total")
        if "float32" in same:
            entry["float32_ratio"] = run.quartiles(item, same["float32"])
    return entries


def settings(name: str) -> dict[str, str]:
    """Returns the settings from which `worker.classifier` builds a variant.

    Raises:
      UsageError: unknown compressor or place.
    """
    if name in variants.DENSE:
        return {"name": name}
    spec, _, where = name.partition("@")
    compressors.get(spec)
    if where not in ("", "gradient", "update"):
        raise UsageError(f"A variant is float32, float16, SPEC or SPEC@update, such as none@update. Received: {name!r}")
    return {"name": name, "compression": spec, "where": where or "gradient"}


def table(entries: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table for every task and optimizer.

    `wire`: milliseconds that the declared bytes alone take at the rate. `ms / bound`: the time divided by
    max(alone, wire). `ms / float32`: median and quartiles over rounds.
    """
    parts = []
    for task, optimizer in dict.fromkeys((entry["task"], entry["optimizer"]) for entry in entries):
        own = [entry for entry in entries if (entry["task"], entry["optimizer"]) == (task, optimizer)]
        rows = [_row(entry) for entry in sorted(own, key=lambda e: (e["threads"], -bits_per_second(e["rate"])))]
        sample = own[0]
        parts += [
            f"{task}, {optimizer}, {sample['values']:,} weights, {sample['workers']} workers x {sample['batch_size']} "
            f"samples, {sample['steps_per_call']} steps a call, {sample['step']} rounds; `{sample['command']}`; commit "
            f"{sample['commit']}; {sample['hardware']}.",
            report.markdown(list(rows[0]), [list(row.values()) for row in rows]),
        ]
    return "\n\n".join(parts) + "\n"


def _row(entry):
    wire, time = wire_milliseconds(entry["declared_bytes"], entry["rate"]), entry["milliseconds_median"]
    bound = max(wire, entry["alone_milliseconds_median"])
    phases = {phase: entry.get(f"{phase}_milliseconds_median") for phase in run.PHASES}
    return {
        "link": entry["rate"],
        "threads": str(entry["threads"]),
        "variant": entry["variant"],
        "ms, median / min": f"{time:.1f} / {entry['milliseconds_minimum']:.1f}",
        **{phase: "" if value is None else f"{value:.1f}" for phase, value in phases.items()},
        "MB sent, declared / measured": f"{entry['declared_bytes'] / 1e6:.3f} / {entry['interface_bytes'] / 1e6:.3f}",
        "alone": f"{entry['alone_milliseconds_median']:.1f}",
        "wire": f"{wire:.1f}" if wire else "",
        "ms / bound": f"{time / bound:.2f}",
        "ms / float32": "{1:.2f} ({0:.2f} to {2:.2f})".format(*entry["float32_ratio"])
        if "float32_ratio" in entry
        else "",
    }


def _last(entries):
    """Returns, of several entries of one variant under the same conditions, the last one."""
    names = ("task", "optimizer", "batch_size", "steps_per_call", "workers", "threads", "rate", "variant")
    return list({tuple(entry[name] for name in names): entry for entry in entries}.values())


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--task", default="fashion_mnist", choices=["fashion_mnist", "cifar10"], help="network; keras_quality.TASKS")
    add("--optimizer", default="sgd", choices=["sgd", "adam"], help="SGD with momentum, or Adam")
    add("--variant", action="append", help="float32, float16, SPEC or SPEC@WHERE; repeatable")
    add("--batch_size", default=32, type=command.positive, help="samples per worker and step")
    add("--num_workers", default=2, type=command.positive, help="worker processes")
    add("--threads", default="1", help="threads of each worker for its computation; several: 1,2")
    add("--rounds", default=20, type=command.positive, help="timed calls of every variant")
    add("--steps_per_call", default=5, type=command.positive, help="steps in one call of the compiled function")
    add("--rate", default=LOOPBACK, help="rates of every worker's link, such as loopback,1gbit,100mbit")
    add("--output", help="file to which JSON lines are appended")
    add("--report", help="measure nothing: print the tables of this file of JSON lines")
    return parser


def main(arguments: argparse.Namespace) -> None:
    print(table(_last(report.read_json_lines(arguments.report)) if arguments.report else _measure_all(arguments)))


def _measure_all(arguments):
    entries = []
    names = tuple(dict.fromkeys(arguments.variant or VARIANTS))
    rates, threads = arguments.rate.split(","), tuple(map(int, arguments.threads.split(",")))
    _ = [*map(settings, names), *map(bits_per_second, rates)]  # refuses, before anything is measured
    for rate in rates:
        plan = run.Plan(
            names,
            command_line("benchmarks.keras_step"),
            num_workers=arguments.num_workers,
            rounds=arguments.rounds,
            rate=rate,
            threads=threads,
        )
        step = (arguments.task, arguments.optimizer, arguments.batch_size, arguments.steps_per_call)
        measured = measure(plan, *step, functools.partial(print, f"{rate}:", file=sys.stderr, flush=True))
        if arguments.output:
            report.append(arguments.output, measured)
        entries += measured
    return entries


if __name__ == "__main__":
    command.run_parsed(main, make_parser())
