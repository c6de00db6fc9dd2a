"""The cells of a suite of `trainers.compare`: what a run is, its name, its settings, and the command that repeats it.

A cell is one run, of a problem by a method with a compressor, a number of workers, shards and a seed. This file imports
no TensorFlow.
"""

import math
import re
import shlex
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from benchmarks.provenance import ROOT
from dqgan_tf import config as config_lib
from dqgan_tf.errors import UsageError
from dqgan_tf.fields import value_type

GAMES, DATA = "games", "data"


class Method(NamedTuple):
    """settings: by their key in `config.settings()`. reference: the method whose float32 runs a table compares with."""

    settings: dict[str, Any]
    reference: str


_REFERENCES = {"cpoadam_gq": "cpoadam", "cpoadam_ef": "cpoadam"} | {
    f"{method}_{ablation}": method
    for method in ("dqgan", "dqgan_adam")
    for ablation in ("residual_out", "no_error_feedback", "no_half_step")
}
# Variants for workers with different data: beta_2 = .999, with the guarded or the averaged second moment.
METHODS: dict[str, Method] = {
    name: Method(settings, _REFERENCES.get(name, name)) for name, settings in config_lib.ALGORITHMS.items()
} | {
    "dqgan_adam_split": Method(
        config_lib.ALGORITHMS["dqgan_adam_guarded"] | {"optimizer.beta_2": 0.999}, "dqgan_adam_split"
    ),
    "dqgan_adam_averaged_split": Method(
        config_lib.ALGORITHMS["dqgan_adam_averaged"] | {"optimizer.beta_2": 0.999}, "cpoadam"
    ),
}
"""The methods of `--algorithm`, and two for workers with different data."""


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
    behind it unless the topology is `auto`, and `@SPEC` of the compressor of the mean if there is one."""

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


def train_command(config: config_lib.RunConfig, processes: int = 1) -> str:
    """Returns the command by which `trainers.train` makes the same run: all settings that are not the defaults.

    Args:
      config: settings of a process.
      processes: of the job; several are started by `trainers.launch`.
    """
    start = ["trainers.train"] if processes == 1 else ["trainers.launch", f"--num_workers={processes}", "--"]
    defaults, parts = config_lib.RunConfig().flat(), ["python", "-m", *start, "--model_dir=FOLDER"]
    for key, value in config.flat().items():
        name = key.rpartition(".")[2]
        if value != defaults[key] and name != "data_dir":
            parts.append(f"--{'' if value else 'no'}{name}" if isinstance(value, bool) else f"--{name}={value}")
    return shlex.join(parts)


def run_config(
    suite: Suite, cell: Cell, settings: dict[str, Any], workers_are_processes: bool = False
) -> config_lib.RunConfig:
    """Returns the settings of a cell: its problem's own, then the suite's, the method's, the cell's. The last one wins.

    Args:
      suite: of the cell.
      cell: the run.
      settings: of its problem.
      workers_are_processes: a worker of the cell is a process with one replica, not a replica of one process.

    Raises:
      UsageError: a value that a setting refuses.
    """
    spec, *exchange = cell.compressor.split("@")
    topology, of_mean = [*exchange, *("auto", "")[len(exchange) :]]
    own = {"compression.compressor": spec, "compression.topology": topology, "compression.mean_compressor": of_mean}
    own |= {"train.replicas_per_worker": 1 if workers_are_processes else cell.workers, "train.seed": cell.seed}
    if suite.kind == DATA:
        own |= {"data.shards": cell.shards, "train.batch_size": suite.worker_batch * cell.workers}
    return config_lib.from_flat(settings | suite.settings | method(cell.method).settings | own)


def picture(cell: Cell) -> str:
    """Returns the name of the picture of a cell in the folder of its suite."""
    return "samples/" + re.sub("[^A-Za-z0-9=.]+", "_", cell.name) + ".png"


def spread(model: Any) -> float:
    """Returns the root mean square distance of the replicas' residuals to their mean since the last call."""
    figures = model.drain_metrics()
    return math.hypot(figures["spread/generator"], figures["spread/discriminator"])
