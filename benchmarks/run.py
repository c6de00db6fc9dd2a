"""Runs a benchmark: starts workers for every program and measures the variants one after the other in every round."""

import contextlib
import os
import pathlib
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import torch_baselines, variants
from benchmarks.crew import LOOPBACK, Crew, places
from benchmarks.provenance import ROOT, checkout, command_line, provenance
from dqgan_tf.errors import UsageError

EXCHANGE, WHOLE_STEP, CODEC = "exchange", "whole_step", "codec"
PHASES = ("encode", "exchange", "decode")
# XLA compiles in the first step; PowerSGD of PyTorch begins with the third. A whole step may take seconds.
_WARM_UP = {EXCHANGE: 4, CODEC: 4, WHOLE_STEP: 2}
_WORKER, _TORCH_WORKER = ROOT / "benchmarks" / "worker.py", ROOT / "benchmarks" / "torch_baselines.py"


class Plan(NamedTuple):
    """Settings of every benchmark.

    names: names of the variants.
    command: the command line, for the record.
    num_workers: processes of each program.
    rounds: timed steps of every variant.
    rate: rate of every worker's link; see `crew.places`.
    threads: computation threads of each worker; for each number there are separate processes.
    against: a revision or a folder, see `provenance.checkout`. Its library runs the variants too, except PyTorch's.
    profile: folder for a TensorFlow profile of one more step of every variant except PyTorch's; None: no profile.
    device: cpu or gpu. The processes of one worker share the visible GPUs and take turns.
    """

    names: tuple[str, ...]
    command: str
    num_workers: int = 2
    rounds: int = 20
    rate: str = LOOPBACK
    threads: tuple[int, ...] = (1,)
    against: str | None = None
    profile: str | None = None
    device: str = "cpu"


class Step(NamedTuple):
    """The training step of `whole_step`.

    batch_size: samples per worker.
    width: filters of DCGAN's widest-resolution layer; None: the network's default.
    data_shape: (height, width, channels).
    steps_per_call: steps in one call of the compiled function; times are per step.
    """

    batch_size: int = 8
    width: int | None = None
    data_shape: tuple[int, ...] = (64, 64, 3)
    steps_per_call: int = 1


def make_plan(kind: str, names: Sequence[str] | None, **settings: Any) -> Plan:
    """Returns the plan of a benchmark of this kind; see `Plan` for the settings.

    Without names, the variants are those of `variants` for the kind; exchanges also run PyTorch's where it is
    installed, and whole steps of several workers `float32`.

    Raises:
      UsageError: an exchange needs two workers, a GPU is for one.
    """
    if kind == EXCHANGE and settings["num_workers"] < 2:
        raise UsageError("An exchange needs --num_workers=2 or more; --codec measures one worker. Received: 1")
    if settings.get("device") == "gpu" and kind != CODEC and settings["num_workers"] > 1:
        raise UsageError(f"--device=gpu needs --num_workers=1. Received: num_workers={settings['num_workers']}")
    defaults = {
        EXCHANGE: (*variants.EXCHANGE, *torch_baselines.available()),
        CODEC: ("copy", *variants.CODEC),
        WHOLE_STEP: (*(["float32"] if settings["num_workers"] > 1 else []), *variants.WHOLE_STEP),
    }
    return Plan(tuple(dict.fromkeys(names or defaults[kind])), command_line("trainers.benchmark"), **settings)


def exchange(plan: Plan, values: int, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Returns one entry per variant, number of threads and checkout: the exchange of one float32 vector [values].

    An entry holds median and minimum milliseconds of the exchange, as the slowest worker of each round took them, and
    of its phases; the declared bytes and the bytes at the interface, per worker; and `provenance`. With
    `plan.against`, the entries of this checkout hold `against_ratio`; see `quartiles`.

    Raises:
      UsageError: unknown variant, rate or revision.
      RuntimeError: a worker failed, with the end of what it printed.
      OSError: the links cannot be made; see `crew.places`.
    """
    _check(plan.names, plan.num_workers)
    torch_names = [name for name in plan.names if name.startswith(torch_baselines.PREFIX)]
    described = [variants.settings(name, values, whole_step=False) for name in plan.names if name not in torch_names]
    arguments = {"program": "exchange", "values": values}
    with checkouts(plan.against) as trees:
        programs = [Program(_WORKER, arguments, described, count, tree) for count in plan.threads for tree in trees]
        of_torch = [{"name": name} for name in torch_names]
        programs += [Program(_TORCH_WORKER, arguments, of_torch, count, trees[0]) for count in plan.threads]
        series = measure(plan, programs, _WARM_UP[EXCHANGE], say)
        return make_entries(plan, series, {"kind": EXCHANGE, "values": values}, seeds=range(plan.num_workers))


def codec(plan: Plan, values: int, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Returns one entry per variant, number of threads and checkout: the exchange of a single worker.

    It consists of encoding with error feedback and decoding one payload. The variant `copy` is a copy of the vector by
    XLA.

    Raises:
      As `exchange`.
    """
    plan = plan._replace(num_workers=1, rate=LOOPBACK)
    _check([name for name in plan.names if name != "copy"], num_workers=2, torch=False)
    described = [variants.settings(name, values, whole_step=False) for name in plan.names]
    arguments = {"program": "exchange", "values": values}
    with checkouts(plan.against) as trees:
        programs = [Program(_WORKER, arguments, described, count, tree) for count in plan.threads for tree in trees]
        series = measure(plan, programs, _WARM_UP[CODEC], say)
        return make_entries(plan, series, {"kind": CODEC, "values": values}, seeds=[0])


def whole_step(plan: Plan, step: Step, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Returns one entry per variant, number of threads and checkout: a training step of DCGAN on synthetic images.

    Besides what `exchange` records: `plain_milliseconds_median` and `plain_ratio`, the step against
    `worker.plain_steps` on the same number of workers, each on its own; with several workers
    `alone_milliseconds_median`, the library's step on workers that exchange nothing. All are measured in turn.

    Raises:
      As `exchange`.
    """
    _check(plan.names, plan.num_workers, torch=False)
    size = 1 << 20  # any size will do to ask whether a compressor is contractive
    described = [variants.settings(name, size, whole_step=True) for name in plan.names]
    alone = [variants.settings("float32", size, whole_step=True)] if plan.num_workers > 1 else []
    fields = step._asdict() | {"data_shape": list(step.data_shape)}
    arguments = {"program": "whole_step", "network": {"network": "dcgan", "width": step.width}, **fields}
    with checkouts(plan.against) as trees:
        programs = []
        for count in plan.threads:
            for tree in trees:
                plain = [] if tree.label else [{"name": "plain"}]
                programs.append(Program(_WORKER, arguments, described, count, tree))
                programs.append(Program(_WORKER, arguments, [*alone, *plain], count, tree, connected=False))
        series = measure(plan, programs, _WARM_UP[WHOLE_STEP], say)
        connected = [item for item in series if item.program.connected]
        entries = make_entries(plan, connected, {"kind": WHOLE_STEP, **fields}, seeds=[0])
    references = {
        (item.name, item.program.threads, item.program.tree.label): item
        for item in series
        if not item.program.connected
    }
    for entry, item in zip(entries, connected, strict=True):
        plain = references["plain", item.program.threads, ""]
        entry["plain_milliseconds_median"] = statistic(np.median, plain, "total")
        entry["plain_ratio"] = quartiles(item, plain)
        if alone:
            reference = references["float32", item.program.threads, item.program.tree.label]
            entry["alone_milliseconds_median"] = statistic(np.median, reference, "total")
    return entries


class Tree(NamedTuple):
    """A checkout. label: empty for this one, else what --against says."""

    label: str
    path: pathlib.Path


class Program(NamedTuple):
    """A worker program and its variants. connected: whether its workers exchange with each other."""

    file: pathlib.Path
    arguments: dict
    variants: list[dict]
    threads: int
    tree: Tree
    connected: bool = True


class Series(NamedTuple):
    """One variant of one program: what it says of itself, and per round its slowest worker's times and all bytes."""

    name: str
    program: Program
    crew: Crew
    index: int
    described: dict
    samples: list[dict[str, float]]
    sent_bytes: list[int]


def _check(names, num_workers, *, torch=True):
    for name in names:
        if not torch and name.startswith(torch_baselines.PREFIX):
            raise UsageError(f"PyTorch's baselines take part in exchanges only. Received: {name!r}")
        variants.check(name, max(2, num_workers))


@contextlib.contextmanager
def checkouts(against: str | None) -> Iterator[list[Tree]]:
    """Yields this checkout and the other one. Inside, SIGTERM unwinds the stack as Ctrl-C does, so that worktrees,
    namespaces and workers end."""

    def interrupt(number, frame):
        raise KeyboardInterrupt(number)

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        with checkout(against) if against else contextlib.nullcontext() as path:
            yield [Tree("", ROOT), *([Tree(against, path)] if against else [])]
    finally:
        signal.signal(signal.SIGTERM, previous)


def measure(plan: Plan, programs: Sequence[Program], warm_up: int, say: Callable[[str], None]) -> list[Series]:
    """Starts the workers of all programs, warms them up and times `plan.rounds` steps of every variant in turn."""
    programs = [program for program in programs if program.variants]
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(places(plan.num_workers, plan.rate, len(programs)))
        crews = [
            stack.enter_context(
                Crew(
                    program.file,
                    program.arguments | {"variants": program.variants},
                    where,
                    number if program.connected else None,
                    threads=program.threads,
                    tree=program.tree.path,
                    device=plan.device,
                )
            )
            for number, program in enumerate(programs)
        ]
        series = [
            entry
            for crew, program in zip(crews, programs, strict=True)
            for entry in _warmed_up(crew, program, warm_up, say)
        ]
        # Variants alternate, and every second round runs in reverse order, because the machine's speed drifts.
        order = sorted(series, key=lambda item: plan.names.index(item.name) if item.name in plan.names else -1)
        for number in range(plan.rounds):
            for item in order[:: -1 if number % 2 else 1]:
                _step(item)
            say(f"round {number + 1} of {plan.rounds}")
        if plan.profile:
            for item in series:
                if item.program.connected and item.program.file == _WORKER:
                    folder = "_".join(
                        filter(None, [item.name, f"threads{item.program.threads}", item.program.tree.label])
                    )
                    path = os.path.abspath(os.path.join(plan.profile, folder.replace("/", "_")))
                    item.crew.ask(f"profile {item.index} {path}")
    return series


def _warmed_up(crew, program, warm_up, say):
    names = [variant["name"] for variant in program.variants]
    for index, name in enumerate(names):
        for _ in range(warm_up):
            crew.ask(f"step {index}")
        say(" ".join(filter(None, [name, program.tree.label, f"with threads={program.threads} is ready"])))
    described = crew.ask("describe")[0]
    return [Series(name, program, crew, index, described[index], [], []) for index, name in enumerate(names)]


def _step(series):
    before = series.crew.ask("bytes")
    answers = series.crew.ask(f"step {series.index}")
    after = series.crew.ask("bytes")
    series.samples.append(max(answers, key=lambda answer: answer["total"]))
    series.sent_bytes.append(sum(after) - sum(before))


def make_entries(
    plan: Plan, series: Sequence[Series], fields: dict[str, Any], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Returns the records of the series; `fields` come first in each."""
    return [_entry(plan, item, series, fields, seeds) for item in series]


def _entry(plan, item, series, fields, seeds):
    # The counter of a loopback counts the bytes of all workers, and every worker reads the same one.
    readings = plan.num_workers ** (2 if plan.rate == LOOPBACK else 1)
    threads, tree = item.program.threads, item.program.tree
    entry = {
        **fields,
        "step": plan.rounds,
        "rate": plan.rate,
        "variant": item.name,
        "tree": tree.label,
        "workers": plan.num_workers,
        "milliseconds_median": statistic(np.median, item, "total"),
        "milliseconds_minimum": statistic(np.min, item, "total"),
        "interface_bytes": round(np.mean(item.sent_bytes) / readings),
    }
    for phase in ("compute", *PHASES):
        if phase in item.samples[0]:
            entry[f"{phase}_milliseconds_median"] = statistic(np.median, item, phase)
            entry[f"{phase}_milliseconds_minimum"] = statistic(np.min, item, phase)
    for other in series:
        if other.program.tree.label and not tree.label and (other.name, other.program.threads) == (item.name, threads):
            entry["against_ratio"] = quartiles(item, other)
    return (
        entry
        | item.described
        | provenance(plan.command, threads=threads, seeds=seeds, tree=tree.path, gpus=plan.device == "gpu")
    )


def quartiles(series: Series, base: Series) -> list[float]:
    """Returns the quartiles over rounds of this series' milliseconds divided by the base's in the same round."""
    ratios = [mine["total"] / its["total"] for mine, its in zip(series.samples, base.samples, strict=True)]
    return [round(float(share), 4) for share in np.percentile(ratios, [25, 50, 75])]


def statistic(function: Callable, series: Series, phase: str) -> float:
    """Returns `function` of the milliseconds of a phase over all rounds; `total` is the whole."""
    return round(float(function([sample[phase] for sample in series.samples])), 4)
