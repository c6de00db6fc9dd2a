"""The suites of `trainers.compare`: what they run, and the file of the runs that are done.

A suite is a list of cells: one run each, of a problem by a method with a compressor, a number of workers, shards and
a seed. Cells come seed by seed, so that a suite that is stopped early has whole tables of fewer seeds. A run has a
process of its own, in which all replicas live. This file imports no TensorFlow.
"""

import json
import math
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from benchmarks.provenance import ROOT, provenance
from dqgan_tf import config as config_lib
from dqgan_tf.errors import TrainingError, UsageError
from dqgan_tf.fields import value_type
from dqgan_tf.telemetry import json_lines
from dqgan_tf.telemetry.throughput import format_duration

GAMES, DATA = "games", "data"
IMAGES, SMALL_IMAGES = 10_000, 200
"""Generated images of an evaluation, and of one in the small form of a suite."""


class Method(NamedTuple):
    """settings: by their key in `config.settings()`. reference: the method whose float32 runs a table compares with."""

    settings: dict[str, Any]
    reference: str


_REFERENCES = {"cpoadam_gq": "cpoadam", "cpoadam_ef": "cpoadam"} | {
    f"{method}_{ablation}": method
    for method in ("dqgan", "dqgan_adam")
    for ablation in ("residual_out", "no_error_feedback", "no_half_step")
}
# For workers with different data: a second moment of more steps, never below the worker's own.
METHODS: dict[str, Method] = {
    name: Method(settings, _REFERENCES.get(name, name)) for name, settings in config_lib.ALGORITHMS.items()
} | {
    "dqgan_adam_split": Method(
        config_lib.ALGORITHMS["dqgan_adam_guarded"] | {"optimizer.beta_2": 0.999}, "dqgan_adam_split"
    )
}
"""The methods of `--algorithm`, and one for workers with different data."""


def method(name: str, keep: Collection[str] = ()) -> Method:
    """Returns the method of `NAME[,SETTING=VALUE...]`, such as `dqgan,local_steps=4,shift=0.1`.

    Args:
      name: a key of `METHODS`, and flags of `trainers.train` that differ from it.
      keep: the flags that the reference has too, such as local_steps; else it is exchanged at every step.

    Raises:
      UsageError: no such method, or no such setting.
    """
    base, *changes = name.split(",")
    if base not in METHODS:
        raise UsageError(f"A cell's method must be one of {', '.join(METHODS)}. Received: {base!r}")
    settings, reference = METHODS[base]
    for change in changes:
        flag, _, text = change.partition("=")
        settings = settings | dict([_setting(flag, text)])
        if flag in keep:
            reference = f"{reference},{change}"
    return Method(settings, reference)


def _setting(flag, text):
    """Returns the key and the value of a flag of `trainers.train`."""
    keys = {field.name: (key, value_type(field)[0]) for key, field in config_lib.settings().items()}
    if flag not in keys:
        raise UsageError(f"A setting must be a flag of trainers.train, such as local_steps=4. Received: {flag}={text}")
    key, kind = keys[flag]
    return key, text.lower() == "true" if kind is bool else kind(text)


class Figure(NamedTuple):
    """A column of the tables. key: in the rows. title: of the column. scale: factor. digits: behind the point.
    difference: `percent` of the reference's mean or `points`, for a paired difference; empty: none."""

    key: str
    title: str
    scale: float = 1.0
    digits: int = 1
    difference: str = ""


class Cell(NamedTuple):
    """One run. problem: a game, or the name of a file of flags/experiments. compressor: its spec, with `@TOPOLOGY`
    behind it unless the topology is `auto`."""

    problem: str
    method: str
    compressor: str
    workers: int
    shards: str
    seed: int

    @property
    def name(self) -> str:
        """The cell as a text that `parse` reads."""
        return "/".join([*self[:3], f"M={self.workers}", self.shards, f"seed={self.seed}"])


def parse(name: str) -> Cell:
    """Returns the cell of a name such as `nonlinear/dqgan/sign:bucket=512/M=8/homogeneous/seed=0`.

    Raises:
      UsageError: another form, or an unknown method.
    """
    try:
        problem, variant, compressor, workers, shards, seed = name.split("/")
        cell = Cell(
            problem, variant, compressor, int(workers.removeprefix("M=")), shards, int(seed.removeprefix("seed="))
        )
    except ValueError:
        raise UsageError(
            f"A cell is such as nonlinear/dqgan/sign:bucket=512/M=8/homogeneous/seed=0. Received: {name!r}"
        ) from None
    method(cell.method)
    return cell


class Group(NamedTuple):
    """Runs of one problem. rows: (method, compressor). seeds: their number; the seeds are 0 to seeds - 1."""

    problem: str
    workers: int
    shards: str
    rows: Sequence[tuple[str, str]]
    seeds: int


class Suite(NamedTuple):
    """kind: `GAMES` or `DATA`. question: the title of its page. figures: of the tables; the first is that of the
    curves. settings: of every run, by key. worker_batch: samples of a worker and step. marks: times that a run is
    evaluated."""

    kind: str
    question: str
    groups: Sequence[Group]
    figures: Sequence[Figure]
    settings: dict[str, Any]
    worker_batch: int = 1
    marks: int = 64

    def cells(self) -> list[Cell]:
        """All runs, seed by seed; a row of several groups has the largest of their numbers of seeds."""
        cells = (
            Cell(group.problem, method, compressor, group.workers, group.shards, seed)
            for seed in range(max(group.seeds for group in self.groups))
            for group in self.groups
            if seed < group.seeds
            for method, compressor in group.rows
        )
        return list(dict.fromkeys(cells))


def _rows(methods, compressors):
    return [(method, compressor) for method in methods for compressor in compressors]


NONE, FOUR_BIT, TERNARY, SIGN = "none", "linear:bits=4,bucket=512", "ternary:bucket=512", "sign:bucket=512"
HALF, EIGHT_BIT = "fp16", "linear:bits=8,bucket=512"
TOP_5, TOP_1 = "topk:fraction=0.05", "topk:fraction=0.01"
_SHARP = (TERNARY, SIGN, TOP_5)
# What the tables judge has five seeds; what they compare it with has fewer, where one seed shows the difference.
_NONLINEAR = _rows(["dqgan", "dqgan_adam"], (NONE, FOUR_BIT, *_SHARP))
_NONLINEAR_BASELINES = [
    *_rows(["dqgan"], (f"{SIGN}@two_step", f"{TOP_5}@two_step")),
    *_rows(["cpoadam", "extra_adam"], (NONE,)),
    *_rows(["cpoadam_gq", "cpoadam_ef"], _SHARP),
    *_rows(["dqgan_residual_out", "dqgan_no_error_feedback"], (SIGN,)),
]
_NONLINEAR_ABLATIONS = [
    *_rows(["dqgan_residual_out", "dqgan_no_error_feedback"], (TERNARY, TOP_5)),
    *_rows(["dqgan_adam_residual_out", "dqgan_adam_no_error_feedback"], _SHARP),
    *_rows(["dqgan_no_half_step"], (NONE, SIGN)),
    *_rows(["sgda"], (NONE,)),
]
_DIFFERENT = [
    *_rows(["dqgan_adam"], (NONE, *_SHARP)),
    *_rows(["dqgan_residual_out", "dqgan_no_error_feedback"], _SHARP),
    *_rows(["cpoadam"], (NONE,)),
    *_rows(["cpoadam_gq", "cpoadam_ef"], _SHARP),
]
_AFFINE = [
    *_rows(["dqgan"], (NONE, *_SHARP)),
    *_rows(["dqgan_residual_out", "dqgan_no_error_feedback"], _SHARP),
    *_rows(["dqgan_no_half_step"], (NONE,)),
]
_FEW = _rows(["dqgan"], (NONE, SIGN, TOP_5))
_SPREAD = Figure("spread", "spread of the residuals", 1.0, 3)
_FIELD = (Figure("field", "norm of the field", 1.0, 4, "percent"),)
_SPEEDUP = _rows(["dqgan"], (NONE, SIGN))
_OTHER_BASELINES = [
    *_rows(["sim_adam", "extra_adam"], (NONE,)),
    *_rows(["cpoadam_gq"], (FOUR_BIT, SIGN, TOP_1)),
    *_rows(["cpoadam_ef"], (SIGN, TOP_1)),
]
_BASELINES = [("cpoadam", NONE), *_OTHER_BASELINES]
_HEADLINE = _rows(["dqgan_adam"], (NONE, FOUR_BIT, TERNARY, SIGN, TOP_1))
_ABLATIONS = [
    *_rows(["dqgan_adam_residual_out"], (SIGN, TOP_1)),
    *_rows(["dqgan_adam_no_error_feedback"], (TERNARY, SIGN, TOP_1)),
]
_SHORT = [*_rows(["dqgan_adam"], (NONE, SIGN, TOP_1)), *_rows(["dqgan_adam_no_error_feedback"], (SIGN, TOP_1))]
# Where gradients are taken: the direction that looks ahead, and what else is in the point. Workers have different data.
_SPLIT = [
    f"dqgan_adam_split{changes}"
    for changes in (
        "",
        ",residual_in_half_step=false",
        ",shift=0.3",
        ",half_step=common",
        ",half_step=common,residual_in_half_step=false",
        ",half_step=common,residual_in_half_step=false,shift=0.1",
        ",half_step=corrected,shift=0.3",
        ",half_step=corrected,shift=1",
        ",half_step=corrected,residual_in_half_step=false,shift=0.1",
        ",half_step=none",
    )
]
_COMMON = ",half_step=common,residual_in_half_step=false"


def _rate(value):
    """Returns the settings of a method with this rate of both players."""
    return f",learning_rate_g={value},learning_rate_d={value}"


# The averaged second moment of workers with different data is larger than that of their mean gradient, so steps are
# shorter: a larger rate. A central Adam of compressed gradients sees their mean alone; it needs a larger rate too, and
# a shift unless packets are sparse: there a value waits for many steps, but moves once by about the rate.
_FAST = _rate(0.01)
_SPLIT_BEST = [
    ("cpoadam", NONE),
    (f"cpoadam_ef,shift=0.1{_rate(0.008)}", SIGN),
    (f"cpoadam_ef{_rate(0.02)}", TOP_1),
]
_SPLIT_NEXT = [
    (f"dqgan_adam_split{_COMMON}", NONE),
    (f"dqgan_adam_split{_COMMON}", SIGN),
    ("dqgan_adam_split,half_step=corrected,shift=1", SIGN),
    (f"cpoadam_ef{_rate(0.02)}", SIGN),
    (f"cpoadam_ef,beta_2=0.99{_rate(0.012)}", TOP_1),
]
_SPLIT_TWICE = [("dqgan_adam_split", NONE), (f"cpoadam_ef{_rate(0.03)}", TOP_1)]
_SPLIT_ROWS = [
    *_rows(["dqgan_adam"], (NONE, SIGN)),
    *_rows(_SPLIT, (NONE, SIGN, TOP_1)),
    *_rows(["cpoadam_ef", "cpoadam_ef,shift=0.1"], (SIGN, TOP_1)),
    (f"cpoadam_ef,shift=0.1{_rate(0.008)}", TOP_1),
    (f"cpoadam_ef,beta_2=0.99{_rate(0.012)}", SIGN),
    *_rows([f"dqgan_adam_split{_COMMON}{_FAST}"], (NONE, SIGN, TOP_1)),
    (f"dqgan_adam_split,half_step=corrected,shift=1{_FAST}", SIGN),
]
_COVERAGE = (
    Figure("high_quality_fraction_3_sd", "samples within 3 sd of a mode, %", 100.0, 1, "points"),
    Figure("modes_3_sd", "modes at 3 sd", 1.0, 1),
    Figure("high_quality_fraction", "samples within the wide radius, %", 100.0, 1, "points"),
    Figure("mode_distance", "distance of the modes' shares", 1.0, 3),
    Figure("raw_high_quality_fraction_3_sd", "raw generator within 3 sd, %", 100.0, 1),
)
# A mean of the workers' own Adam directions is shorter than the direction of their mean gradient, so at equal rates
# DQGAN takes shorter steps than the central baselines; rows of other rates tell this from the method.
_SLOW, _SLOWER, _FASTER = _rate(0.0004), _rate(0.0002), _rate(0.0016)
_OTHER_RATES = [
    *_rows([f"dqgan_adam{rate}" for rate in (_SLOWER, _SLOW)], (NONE, FOUR_BIT)),
    *_rows([f"cpoadam{rate}" for rate in (_SLOWER, _SLOW)], (NONE,)),
]


def _at_rate(rate, rows):
    """Returns the rows with this setting of rates."""
    return [(method + rate, compressor) for method, compressor in rows]


def _distances(count):
    return (
        Figure("frechet_distance", f"Frechet distance, {count:,} samples", 1.0, 1, "percent"),
        Figure("raw_frechet_distance", f"raw generator: Frechet distance, {count:,} samples", 1.0, 1),
        Figure("precision", f"precision, {count:,} samples", 1.0, 3),
        Figure("recall", f"recall, {count:,} samples", 1.0, 3),
    )


# A quarter of the published width and few steps, so that a run on one thread takes about five minutes. In so few steps
# a large rate is better for every method.
_SHORT_IMAGES = {
    "network.width": 16,
    "loss.loss": "non_saturating",
    "loss.r1_gamma": 1.0,
    "optimizer.learning_rate_g": 8e-4,
    "optimizer.learning_rate_d": 8e-4,
    "train.steps": 2000,
    "train.ema_decay": 0.99,
}


def _local(name, steps, extra=""):
    """The method with every number of local steps; one step without a setting of it."""
    return [f"{name}{extra}" if count == 1 else f"{name},local_steps={count}{extra}" for count in steps]


_LOCAL_GAME = _rows(_local("dqgan", (1, 4, 16, 64)), (NONE, SIGN, TOP_5))
_LOCAL_GAME_ABLATIONS = _rows(_local("dqgan_residual_out", (1, 4, 16, 64)), (SIGN, TOP_5))
_LOCAL_GAME_ADAM = _rows(_local("dqgan_adam", (1, 4, 16, 64)), (NONE, SIGN, TOP_5))
_LOCAL_LONG = _rows(_local("dqgan", (1, 16, 64)), (NONE, SIGN, TOP_5))
_LOCAL_SHIFT = _rows(
    [
        *_local("dqgan", (1, 4, 16)),
        *_local("dqgan", (1, 4, 16), ",shift=0.1"),
        *_local("dqgan", (1, 4, 16), ",shift=0.1,half_step=corrected"),
    ],
    (NONE, SIGN, TOP_5),
)
_LOCAL = [("dqgan_adam", NONE), *_rows(_local("dqgan_adam", (8, 32)), (SIGN,))]
_LOCAL_MORE = [
    ("dqgan_adam,local_steps=8", NONE),
    ("dqgan_adam,local_steps=8", TOP_1),
    ("dqgan_adam_residual_out,local_steps=8", SIGN),
    ("dqgan_adam_no_error_feedback,local_steps=8", SIGN),
]
_LOCAL_RARE = _rows(_local("dqgan_adam", (128,)), (SIGN, TOP_1))  # thousands of times fewer bytes
_LOCAL_SPLIT = [
    *_rows(["dqgan_adam_split"], (NONE, SIGN)),
    ("cpoadam", NONE),
    ("cpoadam_ef,shift=0.1", SIGN),
    (f"cpoadam_ef{_rate(0.004)}", TOP_1),
]
_LOCAL_SPLIT_SLOW = [
    *_at_rate(_SLOWER, [*_rows(["dqgan_adam_split"], (NONE, SIGN)), ("cpoadam", NONE)]),
    (f"cpoadam_ef,shift=0.1{_SLOW}", SIGN),
]
_LOCAL_SPLIT_MORE = [
    *_rows(
        [
            f"dqgan_adam_split,local_steps=8{_SLOWER}",
            f"dqgan_adam_split,local_steps=8,shift=0.1{_SLOWER}",
            f"dqgan_adam_split,local_steps=8{_COMMON}{_SLOWER}",
            f"cpoadam_ef,shift=0.1{_SLOWER}",
        ],
        (SIGN,),
    ),
    (f"cpoadam_ef{_rate(0.001)}", TOP_1),
]
# The networks and the batch of `benchmarks.links`, which measures the steps on links.
_TIME = [*_rows(["dqgan_adam"], (NONE, SIGN)), ("dqgan_adam,local_steps=8", SIGN)]
_TIME_MORE = [
    *_rows(["dqgan_adam"], (EIGHT_BIT, FOUR_BIT)),
    ("dqgan_adam_no_error_feedback", HALF),  # a cast is not contractive where values overflow
]

SUITES = {
    "games": Suite(
        GAMES,
        "Do few bits reach the float32 figure on games whose field is known?",
        [
            Group("nonlinear", 8, "homogeneous", _NONLINEAR, seeds=5),
            Group("nonlinear", 8, "homogeneous", _NONLINEAR_BASELINES, seeds=3),
            Group("nonlinear", 8, "homogeneous", _NONLINEAR_ABLATIONS, seeds=2),
            Group("nonlinear", 8, "heterogeneous", _rows(["dqgan_adam_averaged"], (NONE, *_SHARP)), seeds=5),
            Group("nonlinear", 8, "heterogeneous", _rows(["dqgan", "dqgan,shift=0.1"], (NONE, *_SHARP)), seeds=3),
            Group("nonlinear", 8, "heterogeneous", _DIFFERENT, seeds=1),
            Group("affine", 8, "homogeneous", _AFFINE, seeds=2),
            Group("nonlinear_noise_free", 8, "heterogeneous", _AFFINE, seeds=2),
            Group("nonlinear_noise_free", 8, "heterogeneous", _rows(["dqgan,shift=0.1"], _SHARP), seeds=2),
            Group("bilinear_noise_free", 4, "homogeneous", _AFFINE, seeds=2),
            Group("nonlinear", 2, "homogeneous", _FEW, seeds=2),
            Group("nonlinear", 32, "homogeneous", _FEW, seeds=2),
        ],
        _FIELD,
        {},
    ),
    "mixture": Suite(
        DATA,
        "Do few bits cost modes or quality on mixtures of Gaussians?",
        [
            Group("mixture_ring", 4, "iid", _HEADLINE, seeds=5),
            Group("mixture_ring", 4, "iid", _ABLATIONS + _BASELINES, seeds=2),
            Group("mixture_grid", 4, "iid", _HEADLINE, seeds=4),
            Group("mixture_grid", 4, "iid", _rows(["dqgan_adam_no_error_feedback"], (SIGN, TOP_1)), seeds=2),
            Group("mixture_ring", 8, "iid", _SHORT, seeds=3),
        ],
        _COVERAGE,
        {},
        worker_batch=64,
        marks=15,
    ),
    "fashion_mnist": Suite(
        DATA,
        "What does compression cost on fashion_mnist?",
        [
            Group("fashion_mnist", 4, "iid", [*_HEADLINE, ("cpoadam", NONE)], seeds=3),
            Group("fashion_mnist", 4, "iid", _ABLATIONS + _OTHER_BASELINES, seeds=2),
            Group("fashion_mnist", 4, "iid", _OTHER_RATES, seeds=3),
            Group("fashion_mnist", 4, "iid", [(f"dqgan_adam{_FASTER}", NONE)], seeds=1),
            Group("fashion_mnist", 2, "iid", _at_rate(_SLOWER, [*_SHORT, _ABLATIONS[1]]), seeds=3),
        ],
        _distances(IMAGES),
        _SHORT_IMAGES,
        worker_batch=32,
        marks=4,
    ),
    "cifar10": Suite(
        DATA,
        "What does compression cost on cifar10?",
        [
            Group("cifar10", 4, "iid", [*_HEADLINE, ("cpoadam", NONE)], seeds=3),
            Group("cifar10", 4, "iid", [*_ABLATIONS[1:], *_OTHER_BASELINES[2:]], seeds=1),
            Group("cifar10", 2, "iid", _SHORT, seeds=1),
        ],
        _distances(IMAGES),
        _SHORT_IMAGES,
        worker_batch=32,
        marks=4,
    ),
    "speedup": Suite(
        GAMES,
        "Does the error fall with the square root of the number of workers?",
        [Group("nonlinear_near", workers, "homogeneous", _SPEEDUP, seeds=3) for workers in (1, 2, 4, 8, 16, 32)],
        _FIELD,
        {},
    ),
    "time": Suite(
        DATA,
        "How long does a quality take on slow links?",
        [
            Group("fashion_mnist", 2, "iid", _TIME, seeds=2),
            Group("fashion_mnist", 2, "iid", _TIME_MORE, seeds=1),
        ],
        _distances(IMAGES),
        {"train.steps": 2048, "train.steps_per_call": 8, "train.ema_decay": 0.99},
        worker_batch=32,
        marks=8,
    ),
    "local/games": Suite(
        GAMES,
        "Do local steps and a learned shift reach the float32 figure on games whose field is known?",
        [
            Group("nonlinear", 8, "homogeneous", _LOCAL_GAME, seeds=3),
            Group("nonlinear", 8, "homogeneous", _LOCAL_GAME_ABLATIONS, seeds=2),
            Group("nonlinear", 8, "homogeneous", _LOCAL_GAME_ADAM, seeds=1),
            Group("nonlinear", 8, "heterogeneous", _LOCAL_SHIFT, seeds=2),
            Group("nonlinear_long", 8, "homogeneous", _LOCAL_LONG, seeds=2),
        ],
        (*_FIELD, _SPREAD),
        {},
        marks=32,
    ),
    "local/mixture": Suite(
        DATA,
        "Do local steps cost modes or quality on mixtures of Gaussians, and do modes split among workers?",
        [
            Group("mixture_ring", 4, "iid", _LOCAL, seeds=5),
            Group("mixture_ring", 4, "iid", _LOCAL_MORE, seeds=2),
            Group("mixture_ring", 4, "by_class", _SPLIT_BEST, seeds=5),
            Group("mixture_ring", 4, "by_class", _SPLIT_NEXT, seeds=3),
            Group("mixture_ring", 4, "by_class", _SPLIT_TWICE, seeds=2),
            Group("mixture_ring", 4, "by_class", _SPLIT_ROWS, seeds=1),
            Group("mixture_grid", 4, "iid", _LOCAL, seeds=5),
            Group("mixture_ring", 8, "iid", _LOCAL, seeds=5),
        ],
        (*_COVERAGE, _SPREAD),
        {"train.steps": 3072, "train.steps_per_call": 64},
        worker_batch=64,
        marks=12,
    ),
    "local/fashion_mnist": Suite(
        DATA,
        "What do local steps cost on fashion_mnist?",
        [
            Group("fashion_mnist", 4, "iid", _LOCAL + _LOCAL_RARE, seeds=3),
            Group("fashion_mnist", 4, "iid", _LOCAL_MORE, seeds=1),
            Group("fashion_mnist", 4, "by_class", _LOCAL_SPLIT, seeds=3),
            Group("fashion_mnist", 4, "iid", _at_rate(_SLOWER, _LOCAL + _LOCAL_RARE[:1]), seeds=3),
            Group("fashion_mnist", 4, "iid", _at_rate(_SLOWER, _LOCAL_RARE[1:] + _LOCAL_MORE[:1]), seeds=1),
            Group("fashion_mnist", 4, "by_class", _LOCAL_SPLIT_SLOW, seeds=3),
            Group("fashion_mnist", 4, "by_class", _LOCAL_SPLIT_MORE, seeds=1),
        ],
        (*_distances(IMAGES), _SPREAD),
        _SHORT_IMAGES | {"train.steps": 2048, "train.steps_per_call": 64},
        worker_batch=32,
        marks=4,
    ),
}
"""Every suite is a whole number of rounds of local steps between two marks."""


def get(name: str, small: bool) -> Suite:
    """Returns a suite; the small form has few rows, steps and seeds, and is a test of the whole way."""
    suite = SUITES[name]
    if not small:
        return suite
    first, settings = suite.groups[0], suite.settings | {"train.steps": 32}
    rows = [first.rows[0], next(row for row in first.rows if row[1] == SIGN)]
    figures = _distances(SMALL_IMAGES) if suite.figures == _distances(IMAGES) else suite.figures
    seeds = 2 if suite.kind == GAMES else 1
    groups = [first._replace(workers=min(first.workers, 2), rows=rows, seeds=seeds)]
    return suite._replace(groups=groups, figures=figures, settings=settings, marks=2)


def run(
    name: str,
    folder: str | os.PathLike,
    *,
    threads: int,
    small: bool,
    tell: Callable[[str], None],
    options: Sequence[str] = (),
    only: str = "",
) -> None:
    """Runs the cells of a suite that `folder`/runs.jsonl does not hold, and appends a row for each.

    Args:
      name: of the suite.
      folder: of runs.jsonl, and of samples/ with the pictures of seed 0.
      threads: of each run.
      small: see `get`.
      tell: takes lines of progress.
      options: flags of `benchmarks.suites_run` that name files of this machine.
      only: regular expression; cells whose name it does not match anywhere are left for another call.

    Raises:
      TrainingError: a run failed; its own output has the reason. Later calls continue with it.
      UsageError: `only` is no regular expression, or matches no cell.
    """
    suite, path = get(name, small), pathlib.Path(folder) / "runs.jsonl"
    cells = select(suite, only)
    path.parent.mkdir(parents=True, exist_ok=True)
    recorded = {row["cell"] for row in json_lines.read(path)}
    missing = [cell for cell in cells if cell.name not in recorded]
    tell(f"{name}: {len(cells) - len(missing)} of {len(cells)} runs are in {path}.")
    figure = suite.figures[0]
    started, spent, left = time.monotonic(), 0, sum(cell.workers for cell in missing)
    with tempfile.TemporaryDirectory() as cache:
        for number, cell in enumerate(missing, 1):
            row = _run_cell(name, cell, threads, small, cache, [*options, *_picture(suite, cell, path.parent)])
            with json_lines.JsonLinesWriter(path, resume_step=None) as writer:
                writer.write(row["steps"], row)
            spent, left = spent + cell.workers, left - cell.workers
            rest = format_duration((time.monotonic() - started) * left / spent)
            value = row[figure.key]
            text = "diverged" if value is None else f"{figure.title} {figure.scale * value:.{figure.digits}f}"
            tell(f"[{number}/{len(missing)}] {cell.name}  {text}  {rest} left")


def select(suite: Suite, only: str) -> list[Cell]:
    """Returns the cells of a suite whose name the regular expression `only` matches anywhere.

    Raises:
      UsageError: `only` is no regular expression, or matches no cell.
    """
    try:
        pattern = re.compile(only)
    except re.error as error:
        raise UsageError(f"--only must be a regular expression, such as M=4. Received: {only!r} ({error})") from None
    cells = [cell for cell in suite.cells() if pattern.search(cell.name)]
    if not cells:
        raise UsageError(f"--only must match a cell, such as {suite.cells()[0].name}. Received: {only!r}")
    return cells


def picture(cell: Cell) -> str:
    """Returns the name of the picture of a cell in the folder of its suite."""
    return "samples/" + re.sub("[^A-Za-z0-9=.]+", "_", cell.name) + ".png"


def _picture(suite, cell, folder):
    return [f"--picture={folder / picture(cell)}"] if suite.kind == DATA and cell.seed == 0 else []


def _run_cell(name, cell, threads, small, cache, options):
    """Returns the row of a run, made by a process of its own: XLA keeps what it has compiled as long as one lives.

    The folder `cache` keeps it for the next runs and for the other replicas of this one: XLA compiles for each logical
    CPU. That halves the time of short runs (TensorFlow 2.21.0) and changes no bit.
    """
    started = time.monotonic()
    arguments = ["-m", "benchmarks.suites_run", f"--suite={name}", f"--cell={cell.name}", *["--small"] * small]
    flags = f"--tf_xla_persistent_cache_directory={cache} --tf_xla_persistent_cache_device_types=CPU"
    environment = {"TF_XLA_FLAGS": flags} | os.environ
    environment |= {
        "TF_NUM_INTRAOP_THREADS": str(threads),
        # With one, TensorFlow 2.21.0 destroys the iterator of several replicas after up to minutes of waiting.
        "TF_NUM_INTEROP_THREADS": str(max(2, threads)),
        "OMP_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    environment.pop("TF_CONFIG", None)
    lines = [""]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments, *options], env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            for line in process.stdout or ():
                lines.append(line)
                if sys.stderr.isatty():
                    print(f"\r{cell.name}  {line.strip()[:20]:20}", end="\r", file=sys.stderr, flush=True)
        except BaseException:
            process.kill()
            raise
        if process.wait():
            errors.seek(0)
            last = " ".join(errors.read().splitlines()[-5:])
            raise TrainingError(f"{cell.name} ended with code {process.returncode}: {last}")
    row = json.loads(lines[-1])
    command = shlex.join(["python", *arguments])
    row["wall_seconds"] = round(time.monotonic() - started, 1)
    return {"cell": cell.name, **cell._asdict(), **provenance(command, threads=threads, seeds=[cell.seed]), **row}


def preset(name: str) -> dict[str, Any]:
    """Returns the settings of flags/experiments/NAME.flags by key, such as {"data.dataset": "gaussian_ring"}."""
    settings = {}
    for line in (ROOT / "flags" / "experiments" / f"{name}.flags").read_text().splitlines():
        if line.startswith("--"):
            flag, is_given, text = line.removeprefix("--").partition("=")
            if not is_given:
                flag, text = flag.removeprefix("no"), str(not flag.startswith("no"))
            settings |= dict([_setting(flag, text)])
    return settings


def spread(model: Any) -> float:
    """Returns the root mean square distance of the replicas' residuals to their mean since the last call."""
    figures = model.drain_metrics()
    return math.hypot(figures["spread/generator"], figures["spread/discriminator"])


def train_command(config: config_lib.RunConfig) -> str:
    """Returns the command by which `trainers.train` makes the same run: all settings that are not the defaults."""
    defaults, parts = config_lib.RunConfig().flat(), ["python", "-m", "trainers.train", "--model_dir=FOLDER"]
    for key, value in config.flat().items():
        name = key.rpartition(".")[2]
        if value != defaults[key] and name != "data_dir":
            parts.append(f"--{'' if value else 'no'}{name}" if isinstance(value, bool) else f"--{name}={value}")
    return shlex.join(parts)


def run_config(suite: Suite, cell: Cell, settings: dict[str, Any]) -> config_lib.RunConfig:
    """Returns the settings of a cell: its problem's own, then the suite's, the method's, the cell's. The last one wins.

    Raises:
      UsageError: a value that a setting refuses.
    """
    spec, _, topology = cell.compressor.partition("@")
    own = {"compression.compressor": spec, "compression.topology": topology or "auto"}
    own |= {"train.replicas_per_worker": cell.workers, "train.seed": cell.seed}
    if suite.kind == DATA:
        own |= {"data.shards": cell.shards, "train.batch_size": suite.worker_batch * cell.workers}
    return config_lib.from_flat(settings | suite.settings | method(cell.method).settings | own)
