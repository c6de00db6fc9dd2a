"""Runs the benchmark: all variants in turn, round after round, one at a time in all its worker processes."""

import contextlib
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dqgan_tf.benchmarking import comparison, links, torch_baselines, variants
from dqgan_tf.benchmarking.crew import Crew
from dqgan_tf.benchmarking.rates import LOOPBACK
from dqgan_tf.distribute.pipeline import PHASES

EXCHANGE, WHOLE_STEP = "exchange", "whole_step"
# XLA compiles in the first step; PowerSGD of PyTorch begins with the third. A whole step may take seconds.
_WARM_UP = {EXCHANGE: 4, WHOLE_STEP: 2}


class Plan(NamedTuple):
    """What every measurement needs.

    names: of the variants.
    num_workers: processes of each program.
    rounds: timed steps of every variant.
    rate: of every worker's link; see `links.places`.
    profile: folder for a TensorFlow profile of a further step of every variant but PyTorch's; None: no profile.
    """

    names: tuple[str, ...]
    num_workers: int
    rounds: int
    rate: str
    profile: str | None = None


def exchange(plan: Plan, values: int, say: Callable[[str], None] = print) -> list[dict]:
    """Returns one entry per variant: the exchange of one float32 vector of `values` values.

    TensorFlow and PyTorch run in processes of their own at the same places. An entry holds median and minimum
    milliseconds of the exchange, as the slowest worker of each round took them, and of its phases; declared bytes and
    bytes at the interface, per worker; rate, commit and hardware.

    Raises:
      ValueError: unknown variant or rate.
      RuntimeError: a worker failed, with the end of what it printed.
      OSError, subprocess.CalledProcessError: the links cannot be made; see `links.places`.
    """
    for name in plan.names:
        variants.check(name, plan.num_workers)
    of_torch = [name for name in plan.names if name.startswith(torch_baselines.PREFIX)]
    of_tensorflow = [name for name in plan.names if name not in of_torch]
    programs = [_Program("exchange_program", of_tensorflow, 0), _Program("torch_program", of_torch, 1)]
    series = _measure(plan, [one for one in programs if one.names], {"values": values}, _WARM_UP[EXCHANGE], say)
    return [
        _entry(plan, one, kind=EXCHANGE, values=values) for name in plan.names for one in series if one.name == name
    ]


def whole_step(plan: Plan, batch_size: int, width: int | None, say: Callable[[str], None] = print) -> list[dict]:
    """Returns one entry per variant: a training step of DCGAN-64 with `width` filters on `batch_size` synthetic images
    a worker.

    Besides what `exchange` records: `alone_milliseconds_median`, the step of workers that exchange nothing, taken in
    turn with the others and on all workers at once.

    Raises:
      As `exchange`.
    """
    for name in plan.names:
        if name.startswith(torch_baselines.PREFIX):
            raise ValueError(f"A whole step is taken by TensorFlow alone. Received: {name!r}")
        variants.check(name, plan.num_workers)
    programs = [_Program("step_program", list(plan.names), 0), _Program("step_program", ["float32"], None)]
    *series, alone = _measure(plan, programs, {"batch_size": batch_size, "width": width}, _WARM_UP[WHOLE_STEP], say)
    floor = float(np.median([sample["total"] for sample in alone.samples]))
    fixed = {"kind": WHOLE_STEP, "batch_size": batch_size, "alone_milliseconds_median": floor}
    return [_entry(plan, one, **fixed) for one in series]


class _Program(NamedTuple):
    module: str
    names: list[str]
    place: int | None


class _Series(NamedTuple):
    """One variant: where it runs, what it says of itself, per round its slowest worker's times and the bytes of all."""

    name: str
    crew: Crew
    index: int
    described: dict
    samples: list[dict[str, float]]
    sent_bytes: list[int]


def _measure(plan, programs, arguments, warm_up, say):
    with links.places(plan.num_workers, plan.rate) as places, contextlib.ExitStack() as stack:
        crews = [
            stack.enter_context(
                Crew(f"{__package__}.{one.module}", arguments | {"names": one.names}, places, one.place)
            )
            for one in programs
        ]
        series = [
            entry
            for crew, one in zip(crews, programs, strict=True)
            for entry in _warmed_up(crew, one.names, warm_up, say)
        ]
        for number in range(plan.rounds):  # interleaved: the machine's speed drifts
            for one in series:
                _step(one)
            say(f"round {number + 1} of {plan.rounds}")
        if plan.profile:
            _profile(plan, series)
    return series


def _profile(plan, series):
    for name in plan.names:
        if not name.startswith(torch_baselines.PREFIX):
            one = next(one for one in series if one.name == name)  # the first of its name: not the one alone
            one.crew.ask(f"profile {one.index} {os.path.abspath(os.path.join(plan.profile, name))}")


def _warmed_up(crew, names, warm_up, say):
    for index, name in enumerate(names):
        for _ in range(warm_up):
            crew.ask(f"step {index}")
        say(f"{name} is ready")
    described = crew.ask("describe")[0]
    return [_Series(name, crew, index, described[index], [], []) for index, name in enumerate(names)]


def _step(series):
    before = series.crew.ask("bytes")
    answers = series.crew.ask(f"step {series.index}")
    after = series.crew.ask("bytes")
    series.samples.append(max(answers, key=lambda answer: answer["total"]))
    series.sent_bytes.append(sum(after) - sum(before))


def _entry(plan, series, **fixed):
    # A loopback's counter holds what all workers sent, and every worker reads the same one.
    readings = plan.num_workers ** (2 if plan.rate == LOOPBACK else 1)
    entry = {
        **fixed,
        "rate": plan.rate,
        "variant": series.name,
        "workers": plan.num_workers,
        "rounds": plan.rounds,
        "milliseconds_median": _of(np.median, series, "total"),
        "milliseconds_minimum": _of(np.min, series, "total"),
        "interface_bytes": round(np.mean(series.sent_bytes) / readings),
    }
    for phase in ("compute", *PHASES):
        if phase in series.samples[0]:
            entry[f"{phase}_milliseconds_median"] = _of(np.median, series, phase)
            entry[f"{phase}_milliseconds_minimum"] = _of(np.min, series, phase)
    return entry | series.described | comparison.provenance()


def _of(statistic, series, phase):
    return round(float(statistic([sample[phase] for sample in series.samples])), 4)
