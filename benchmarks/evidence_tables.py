"""The tables of README.md and docs/evidence.md, from the recorded runs under results/.

    python -m benchmarks.evidence_tables docs/evidence.md

fills the places between `<!-- results:NAME -->` and `<!-- /results:NAME -->`, for every NAME of `TABLES` in the file.
A figure is mean ± standard deviation over the seeds, with their number in brackets; of fewer than three seeds, the
figures of all. A difference has the 95 % interval of Student's t in the place of the standard deviation.
"""

import argparse
import collections
import functools
import itertools
import os
import pathlib
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import cells as cells_lib
from benchmarks import comparison, report, run, suite_parts, suites
from benchmarks.crew import bits_per_second
from benchmarks.provenance import ROOT
from benchmarks.report import markdown
from benchmarks.suites_report import paired_differences, paired_interval
from dqgan_tf.errors import UsageError
from dqgan_tf.telemetry import json_lines
from dqgan_tf.training import command

Rows = list[dict[str, Any]]
_TIMES = 900
_LOST = 1e6  # residuals above this have diverged
_FEW = 3  # fewer seeds than these have no mean
_COMPRESSORS = {
    "float32": suite_parts.NONE,
    "4 bits": suite_parts.FOUR_BIT,
    "ternary": suite_parts.TERNARY,
    "sign": suite_parts.SIGN,
    "top 5 %": suite_parts.TOP_5,
    "top 1 %": suite_parts.TOP_1,
}
_GAME_COMPRESSORS = ("float32", "4 bits", "ternary", "sign", "top 5 %")
# Columns beside DQGAN with Adam.
_COMPARED = {
    "without error feedback": "dqgan_adam_no_error_feedback",
    "residual outside of the half step": "dqgan_adam_residual_out",
    "CPOAdam": "cpoadam",
    "CPOAdam, gradients quantized": "cpoadam_gq",
    "CPOAdam with error feedback": "cpoadam_ef",
}


@functools.cache
def _recorded(suite):
    """Returns {(problem, method, compressor, workers, shards): rows by seed} of a suite."""
    cells = collections.defaultdict(list)
    for row in json_lines.read(ROOT / "results" / suite / "runs.jsonl"):
        cells[tuple(row[key] for key in ("problem", "method", "compressor", "workers", "shards"))].append(row)
    return {cell: sorted(rows, key=lambda row: row["seed"]) for cell, rows in cells.items()}


def _runs(suite, problem, method, compressor, workers, shards):
    return _recorded(suite).get((problem, method, _COMPRESSORS.get(compressor, compressor), workers, shards), [])


def figure(rows: Rows, key: str, *, digits: int = 1, scale: float = 1.0) -> str:
    """Returns mean ± standard deviation and the number of seeds; the seeds' own figures where they are few or apart.

    A run that diverged has none: of one such run and more, the text has all seeds.
    """
    values = [row[key] for row in rows]
    if _are_few_or_apart(values):
        return ", ".join("diverges" if value is None else _number(scale * value, digits) for value in values)
    scaled = [scale * value for value in values]
    spread = _number(statistics.stdev(scaled), digits)
    return f"{_number(statistics.mean(scaled), digits)} ± {spread} ({len(values)})"


def difference(rows: Rows, reference: Rows, key: str, *, percent: bool = True, scale: float = 1.0) -> str:
    """Returns the paired difference to the runs of the same seeds, mean and 95 % interval, in percent of their mean or
    in points. Where the seeds are few or apart, it is that of each, in percent of the run of its own seed. Percentages
    above `_TIMES` are multiples."""
    differences = paired_differences(rows, reference, key, None if percent else scale)
    if not differences:
        return ""
    unit = " %" if percent else ""
    if _are_few_or_apart([row[key] for row in rows]) or len(differences) < _FEW:
        alone = [paired_differences([row], reference, key, None if percent else scale) for row in rows]
        values = [value for of_run in alone for value in of_run]
        if percent and max(values) > _TIMES:
            return ", ".join(_times(value) if value > _TIMES else f"{value:+.1f}{unit}" for value in values)
        return ", ".join(f"{value:+.1f}" for value in values) + unit
    if percent and min(differences) > _TIMES:
        return _times(statistics.mean(differences))
    mean, half = paired_interval(differences)
    return f"{mean:+.1f} ± {half:.1f}{unit}"


def _times(percent):
    return f"{1 + percent / 100:,.0f} times"


def _are_few_or_apart(values):
    """Whether a mean would say little of figures: fewer than three, a run that diverged, or a spread above the mean."""
    if len(values) < _FEW or None in values:
        return True
    return statistics.stdev(values) > abs(statistics.mean(values))


def _number(value, digits):
    """From 10 on, one digit behind the point at most."""
    return f"{value:.{digits if abs(value) < 10 else min(digits, 1)}f}"


def _fewer(rows, reference):
    """The bytes of the reference divided by those of the runs."""
    if not rows or not reference:
        return ""
    times = reference[0]["sent_bytes_per_step"] / rows[0]["sent_bytes_per_step"]
    return f"{times:,.0f}" if times >= 100 else f"{times:.1f}".removesuffix(".0")


# --- tables ---


def games(problem: str, workers: int, shards: str) -> str:
    """The field at the end by method and compressor, and the difference to float32 of the method that it changes."""
    variants = [
        cell for cell in suites.SUITES["games"].cells() if cell[0] == problem and cell[3:5] == (workers, shards)
    ]
    runs = functools.partial(_runs, "games", problem, workers=workers, shards=shards)
    lines = []
    for method in dict.fromkeys(cell.method for cell in variants):
        line, reference = [_setting(method)], runs(cells_lib.method(method).reference, "float32")
        for compressor in _GAME_COMPRESSORS:
            own = runs(method, compressor)
            change = difference(own, reference, "field") if own is not reference else ""
            line.append(", ".join(filter(None, [figure(own, "field", digits=4), change])))
        lines.append(line)
    return _table(["method", *_GAME_COMPRESSORS], [line for line in lines if any(line[1:])])


def images(suite: str, problem: str, workers: int, rates: str = "") -> str:
    """Frechet distances at the end by compressor, of DQGAN with Adam, of its ablations and of CPOAdam."""
    runs = functools.partial(_runs, suite, problem, workers=workers, shards="iid")
    reference = runs(f"dqgan_adam{rates}", "float32")
    lines, shown = [], []
    for compressor in ("float32", "4 bits", "ternary", "sign", "top 1 %"):
        own = runs(f"dqgan_adam{rates}", compressor)
        others = [runs(f"{name}{rates}", compressor) for name in _COMPARED.values()]
        shown += [own, *others]
        change = difference(own, reference, "frechet_distance") if own is not reference else ""
        if own:
            fewer = _fewer(own, reference)
            distances = [figure(rows, "frechet_distance") for rows in others]
            lines.append([compressor, fewer, figure(own, "frechet_distance"), change, *distances])
    header = ["", "times fewer bytes", "DQGAN with Adam", "difference to float32", *_COMPARED]
    return _image_table(header, lines, shown)


def rates_of_images() -> str:
    """Frechet distances at the end by learning rate, DQGAN and CPOAdam."""
    rates = {".0002": suite_parts.SLOWER, ".0004": suite_parts.SLOW, ".0008": "", ".0016": suite_parts.FASTER}
    methods = [
        ("DQGAN with Adam, float32", "dqgan_adam", "float32"),
        ("DQGAN with Adam, 4 bits", "dqgan_adam", "4 bits"),
        ("CPOAdam, float32", "cpoadam", "float32"),
    ]
    runs = functools.partial(_runs, "fashion_mnist", "fashion_mnist", workers=4, shards="iid")
    lines, shown = [], []
    for label, method, compressor in methods:
        of_rates = [runs(method + rate, compressor) for rate in rates.values()]
        lines.append([label, *(figure(own, "frechet_distance") for own in of_rates)])
        shown += of_rates
    changes = [
        difference(runs(f"dqgan_adam{rate}", "4 bits"), runs(f"cpoadam{rate}", "float32"), "frechet_distance")
        for rate in rates.values()
    ]
    lines.append(["DQGAN at 4 bits against CPOAdam in float32", *changes])
    return _image_table(["method", *rates], lines, shown)


def mixture(problem: str, workers: int, steps: str) -> str:
    """Samples within 3 standard deviations of a mode, in percent, and the modes of every run.

    steps: `,steps=N`, or empty for those of the preset.
    """
    key, wide, percent = "high_quality_fraction_3_sd", "high_quality_fraction", {"scale": 100.0}
    runs = functools.partial(_runs, "mixture", problem, workers=workers, shards="iid")
    reference, lines = runs(f"dqgan_adam{steps}", "float32"), []
    for compressor in ("float32", "4 bits", "ternary", "sign", "top 1 %"):
        own = runs(f"dqgan_adam{steps}", compressor)
        if not own:
            continue
        others = [figure(runs(f"{name}{steps}", compressor), key, **percent) for name in _COMPARED.values()]
        changes = [
            difference(own, reference, name, percent=False, **percent) if own is not reference else ""
            for name in (key, wide)
        ]
        lines.append([compressor, figure(own, key, **percent), _modes(own), *changes, *others])
    header = ["", "DQGAN with Adam", "modes", "difference to float32, points", "the same, wide radius", *_COMPARED]
    return _table(header, lines)


def _name(compressor):
    """`sign, two_step` for `sign:bucket=512@two_step`; with a compressor of the mean `..., mean 4 bits`."""
    spec, *exchange = compressor.split("@")
    names = {known: name for name, known in _COMPRESSORS.items()} | {suite_parts.LARGE_SIGN: "sign, buckets of 2240"}
    return ", ".join([names[spec], *exchange[:1], *(f"mean {names[of_mean]}" for of_mean in exchange[1:])])


def _modes(rows):
    """The number of modes at 3 standard deviations of every run."""
    return ", ".join(str(round(row["modes_3_sd"])) for row in rows)


def local_games(problem: str) -> str:
    """Field at the end with equal data by number of local steps."""
    runs = functools.partial(_runs, "local/games", problem, workers=8, shards="homogeneous")
    lines = []
    for count in (1, 4, 16, 64):
        steps = "" if count == 1 else f",local_steps={count}"
        exact = runs(f"dqgan{steps}", "float32")
        if not exact:
            continue
        line = [str(count), _fewer(runs(f"dqgan{steps}", "sign"), runs("dqgan", "float32"))]
        line.append(figure(exact, "field", digits=4))
        for compressor in ("sign", "top 5 %"):
            own = runs(f"dqgan{steps}", compressor)
            seeds = ", ".join("diverges" if row["field"] is None else f"{row['field']:.4f}" for row in own)
            line += [seeds, difference(own, exact, "field"), figure(own, "spread", digits=2)]
        line.append(figure(runs(f"dqgan_residual_out{steps}", "sign"), "field"))
        lines.append(line)
    header = ["K", "times fewer bytes at sign", "float32"]
    for name in ("sign", "top 5 %"):
        header += [f"{name}, every seed", "difference", "spread of the residuals"]
    return _table([*header, "sign, residual outside of the start"], lines)


def local_games_different() -> str:
    """Field at the end with different data by number of local steps, without and with the shift."""
    runs = functools.partial(_runs, "local/games", "nonlinear", workers=8, shards="heterogeneous")
    lines = []
    for count in (1, 4, 16):
        steps = "" if count == 1 else f",local_steps={count}"
        shift, corrected = f"{steps},shift=0.1", f"{steps},shift=0.1,half_step=corrected"
        columns = [
            (steps, "float32"),
            (steps, "sign"),
            (shift, "sign"),
            (corrected, "sign"),
            (steps, "top 5 %"),
            (shift, "top 5 %"),
            (corrected, "top 5 %"),
        ]
        line = [figure(runs(f"dqgan{change}", compressor), "field", digits=4) for change, compressor in columns]
        spreads = [figure(runs(f"dqgan{change}", "sign"), "spread") for change in (steps, shift)]
        lines.append([str(count), *line, *spreads])
    header = ["K", "float32"]
    for name in ("sign", "top 5 %"):
        header += [name, f"{name}, shift .1", f"{name}, shift .1, corrected"]
    return _table([*header, "spread of the residuals at sign", "the same, shift .1"], lines)


def split_modes() -> str:
    """Samples within 3 standard deviations of a mode, their difference in points to float32 with equal data, modes of
    every run and spread of the residuals, with modes split among four workers."""
    runs = functools.partial(_runs, "local/mixture", "mixture_ring", workers=4, shards="by_class")
    methods = {}
    for problem, method, _, workers, shards in _recorded("local/mixture"):
        if (problem, workers, shards) == ("mixture_ring", 4, "by_class"):
            methods[method] = None
    order = [cell.method for cell in suites.SUITES["local/mixture"].cells() if cell.shards == "by_class"]
    lines = []
    for method in sorted(methods, key=order.index):
        line, key, percent = [_setting(method)], "high_quality_fraction_3_sd", {"scale": 100.0}
        reference = _runs("local/mixture", "mixture_ring", _as_long("dqgan_adam", method), "float32", 4, "iid")
        for compressor in ("float32", "sign", "top 1 %"):
            own = runs(method, compressor)
            change = difference(own, reference, key, percent=False, **percent)
            spread = "" if compressor == "float32" else _spread(own, _is_in_gradients(method))
            line.append(f"{figure(own, key, **percent)}; {change}; modes {_modes(own)}{spread}" if own else "")
        lines.append(line)
    return _table(["setting", "float32", "sign", "top 1 %"], lines)


def _is_lost(row):
    return row["spread"] is None or row["spread"] > _LOST


def _spread(rows, is_in_gradients):
    """`; spread S` of residuals in weights, which are about 1; `; spread without bound` of what has diverged."""
    lost = [_is_lost(row) for row in rows]
    if all(lost):
        return "; spread without bound"
    if any(lost):
        pairs = zip(rows, lost, strict=True)
        return "; spread " + ", ".join("without bound" if is_lost else f"{row['spread']:.2f}" for row, is_lost in pairs)
    return "" if is_in_gradients else f"; spread {figure(rows, 'spread', digits=2)}"


def _as_long(base, method):
    """The base method with the number of steps of a method."""
    return ",".join([base, *(change for change in method.split(",") if change.startswith("steps="))])


def _setting(method):
    """The name of a method as flags, with one flag for both learning rates, which are equal here."""
    base, *changes = method.split(",")
    rates = [change.partition("=")[2] for change in changes if change.startswith("learning_rate_g=")]
    words = [f"`{base}`", *(f"`{change}`" for change in changes if not change.startswith("learning_rate_"))]
    return ", ".join([*words, *(f"rate {rate}" for rate in rates)])


def local_mixture() -> str:
    """Samples within 3 standard deviations of a mode with local steps and equal data."""
    percent, key, wide, lines = {"scale": 100.0}, "high_quality_fraction_3_sd", "high_quality_fraction", []
    variants = {
        (cell.problem, cell.workers, cell.method, cell.compressor): None
        for cell in suites.SUITES["local/mixture"].cells()
        if cell.shards == "iid"
    }
    for problem, workers, method, compressor in variants:
        runs = functools.partial(_runs, "local/mixture", problem, workers=workers, shards="iid")
        own, reference = runs(method, compressor), runs(_as_long("dqgan_adam", method), "float32")
        if not own:
            continue
        changes = ["", ""]
        if own is not reference:
            changes = [difference(own, reference, name, percent=False, **percent) for name in (key, wide)]
        line = [problem.removeprefix("mixture_"), str(workers), _setting(method), _name(compressor)]
        line.append(_fewer(own, reference))
        spread = "" if reference is own or _is_in_gradients(method) else figure(own, "spread", digits=2)
        lines.append([*line, figure(own, key, **percent), _modes(own), *changes, spread])
    header = ["problem", "workers", "method", "compressor", "times fewer bytes", "samples within 3 sd, %", "modes"]
    header += ["difference to float32 at every step, points", "the same, wide radius", "spread of the residuals"]
    return _table(header, lines)


def _is_in_gradients(method):
    """Whether the residuals of a method are gradients: their spread is no distance between points."""
    return cells_lib.method(method).settings.get("optimizer.exchange") == "gradient"


def local_images(rates: str, data: tuple[str, ...] = ("iid", "by_class"), images: str = "fashion_mnist") -> str:
    """Frechet distances over training, every variant of `local/IMAGES` at these rates that has runs."""
    lines, shown, suite = [], [], f"local/{images}"
    variants = dict.fromkeys(cell[:-1] for cell in suites.SUITES[suite].cells())
    reference = _runs(suite, images, f"dqgan_adam{rates}", "float32", 4, "iid")
    if not reference:
        return _table([], [])
    marks = reference[0]["curve"]["step"]
    for problem, method, compressor, workers, shards in variants:
        own = _runs(suite, problem, method, compressor, workers, shards)
        at_rates = method.endswith(rates) if rates else suite_parts.FALLING not in method
        if not own or shards not in data or not at_rates:
            continue
        shown.append(own)
        name = _name(compressor)
        curve = [dict(zip(row["curve"]["step"], row["curve"]["frechet_distance"], strict=True)) for row in own]
        means = [_at_a_mark([steps[mark] for steps in curve], own) for mark in marks[:-1]]
        change = difference(own, reference, "frechet_distance") if own is not reference else ""
        dealt = "equal" if shards == "iid" else "split"
        line = [_setting(method.removesuffix(rates)), name, dealt, _fewer(own, reference), *means]
        spread = "" if compressor == "none" or _is_in_gradients(method) else figure(own, "spread", digits=2)
        lines.append([*line, figure(own, "frechet_distance"), change, spread])
    header = ["method", "compressor", "data", "times fewer bytes", *(f"at {mark}" for mark in marks[:-1])]
    header += [f"at {marks[-1]}", "difference to float32 with equal data", "spread of the residuals"]
    return _image_table(header, lines, shown)


def _at_a_mark(values, rows):
    """The mean over the seeds; the figure of each if a run of them is lost."""
    if any(map(_is_lost, rows)):
        return ", ".join(f"{value:.1f}" for value in values)
    return f"{statistics.mean(values):.1f}"


def links() -> str:
    """Speed-up of real processes: workers divided by the ratio of a step to that of as many unconnected processes."""
    names = {
        "float32": "none@auto@4",
        "float16": "fp16@auto@4",
        "8 bits": "linear:bits=8,bucket=512@auto@4",
        "4 bits": "linear:bits=4,bucket=512@auto@4",
        "sign": "sign:bucket=512@auto@4",
        "sign, K = 8": "sign:bucket=512@auto@4/K=8",
    }
    longer, rows = (json_lines.read(ROOT / "results" / folder / "links.jsonl") for folder in ("local", "speedup"))
    measured = {(row["rate"], row["workers"]) for row in longer}
    # The file of two workers has more rounds, and its reference was not disturbed.
    rows = longer + [row for row in rows if (row["rate"], row["workers"]) not in measured]
    lines = []
    for rate in sorted({row["rate"] for row in rows}, key=bits_per_second):
        for workers in sorted({row["workers"] for row in rows}):
            line = [rate, str(workers)]
            for name in names.values():
                own = [row for row in rows if (row["rate"], row["workers"], row["variant"]) == (rate, workers, name)]
                ratios = [
                    sample / alone
                    for row in own
                    for sample, alone in zip(row["samples"], row["alone_samples"], strict=True)
                ]
                line.append(f"{workers / np.median(ratios):.2f}" if ratios else "")
            if any(line[2:]):
                lines.append(line)
    return _table(["link", "workers", *names], lines)


def exchange() -> str:
    """Median milliseconds of one exchange between two workers of one thread, by link."""
    names = {
        "float32": "float32",
        "float16": "float16",
        "8 bit": suite_parts.EIGHT_BIT,
        "4 bit": suite_parts.FOUR_BIT,
        "sign": suite_parts.SIGN,
        "top 1 %, values of 8 bits": f"{suite_parts.TOP_1}+{suite_parts.EIGHT_BIT}",
        "gloo float32": "torch_float32",
    }
    places = {"loopback": "loopback", "10gbit": "10 Gbit/s", "1gbit": "1 Gbit/s", "100mbit": "100 Mbit/s"}
    medians = {
        (row["rate"], row["variant"]): f"{row['milliseconds_median']:.0f}"
        for row in report.read(ROOT / "results" / "exchange" / "runs.jsonl")
        if (row["kind"], row["workers"], row["threads"], row["tree"]) == (run.EXCHANGE, 2, 1, "")
    }
    lines = [[place, *(medians[rate, name] for name in names.values())] for rate, place in places.items()]
    return _table(["link", *names], lines)


def slow_links() -> str:
    """Gradient steps per second of two workers that train over a slow link, medians over rounds."""
    names = {
        "float32 (TensorFlow)": "float32",
        "float32": "none@auto@4",
        "float16": "fp16@auto@4",
        "8 bit": f"{suite_parts.EIGHT_BIT}@auto@4",
        "4 bit": f"{suite_parts.FOUR_BIT}@auto@4",
        "sign": f"{suite_parts.SIGN}@auto@4",
        "sign, K = 8": f"{suite_parts.SIGN}@auto@4/K=8",
        "sign, K = 32": f"{suite_parts.SIGN}@auto@4/K=32",
        "no exchange, K = 8": "alone/K=8",
    }
    milliseconds = collections.defaultdict(list)
    for row in json_lines.read(ROOT / "results" / "local" / "links.jsonl"):
        milliseconds[row["rate"], row["variant"]] += row["samples"]
    places = {"100mbit": "100 Mbit/s", "20mbit": "20 Mbit/s"}
    lines = [
        [place, *(f"{1e3 / np.median(milliseconds[rate, name]):.1f}" for name in names.values())]
        for rate, place in places.items()
    ]
    return _table(["link", *names], lines)


def _image_table(header, lines, cells):
    """A table below the line that names the distance, its number of samples, and the networks that judge."""
    rows = list(itertools.chain(*cells))
    if not rows:
        return _table(header, [])
    judges = sorted({f"`{row['feature_network']}`, weights {row['feature_network_sha256'][:8]}" for row in rows})
    counts = sorted({f"{row['num_samples']:,}" for row in rows})
    measure = (
        f"Frechet distance of {' and '.join(counts)} images of the averaged generator; judge: {'; '.join(judges)}."
    )
    return f"{measure}\n\n{_table(header, lines)}"


def _table(header, lines):
    """A Markdown table without the columns that no line fills."""
    if not lines:
        return "No run is recorded yet."
    filled = [column for column in range(len(header)) if any(line[column] for line in lines)]
    return markdown([header[column] for column in filled], [[line[column] for column in filled] for line in lines])


TABLES: dict[str, Callable[[], str]] = {
    "games": functools.partial(games, "nonlinear", 8, "homogeneous"),
    "games_different": functools.partial(games, "nonlinear", 8, "heterogeneous"),
    "games_affine": functools.partial(games, "affine", 8, "homogeneous"),
    "games_bilinear": functools.partial(games, "bilinear_noise_free", 4, "homogeneous"),
    "games_noise_free": functools.partial(games, "nonlinear_noise_free", 8, "heterogeneous"),
    "games_of_32": functools.partial(games, "nonlinear", 32, "homogeneous"),
    "games_of_two": functools.partial(games, "nonlinear", 2, "homogeneous"),
    "exchange": exchange,
    "links": links,
    "slow_links": slow_links,
    "mixture_ring": functools.partial(mixture, "mixture_ring", 4, suite_parts.LONG),
    "mixture_ring_short": functools.partial(mixture, "mixture_ring", 4, ""),
    "mixture_ring_of_eight": functools.partial(mixture, "mixture_ring", 8, suite_parts.LONG),
    "mixture_grid": functools.partial(mixture, "mixture_grid", 4, suite_parts.LONG),
    "mixture_grid_of_eight": functools.partial(mixture, "mixture_grid", 8, suite_parts.LONG),
    "fashion_mnist": functools.partial(images, "fashion_mnist", "fashion_mnist", 4),
    "fashion_mnist_falling": functools.partial(images, "fashion_mnist", "fashion_mnist", 4, suite_parts.FALLING),
    "fashion_mnist_of_two": functools.partial(images, "fashion_mnist", "fashion_mnist", 2),
    "fashion_mnist_of_two_slow": functools.partial(images, "fashion_mnist", "fashion_mnist", 2, suite_parts.SLOWER),
    "cifar10": functools.partial(images, "cifar10", "cifar10", 4),
    "cifar10_of_two": functools.partial(images, "cifar10", "cifar10", 2),
    "rates": rates_of_images,
    "local_games": functools.partial(local_games, "nonlinear"),
    "local_games_long": functools.partial(local_games, "nonlinear_long"),
    "local_games_different": local_games_different,
    "local_mixture": local_mixture,
    "split_modes": split_modes,
    "local_images": functools.partial(local_images, "", ("iid",)),
    "local_images_split": functools.partial(local_images, "", ("by_class",)),
    "local_images_falling": functools.partial(local_images, suite_parts.FALLING),
    "local_cifar10": functools.partial(local_images, "", images="cifar10"),
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Fills the tables of a document from the recorded runs.")
    parser.add_argument("document", help="Markdown file with the marked places")
    return parser


def main(arguments: argparse.Namespace) -> None:
    fill(arguments.document)


def fill(document: str | os.PathLike) -> None:
    """Fills the marked places of a document.

    Raises:
      UsageError: there is no such file, it has no place of a table, or it lacks the end of one.
    """
    if not pathlib.Path(document).is_file():
        raise UsageError(f"The document must be a Markdown file, such as docs/evidence.md. Received: {document}")
    text = pathlib.Path(document).read_text()
    names = [name for name in TABLES if f"<!-- results:{name} -->" in text]
    if not names:
        raise UsageError(f"{document} has no place of a table, such as <!-- results:{next(iter(TABLES))} -->")
    for name in names:
        comparison.fill(document, name, TABLES[name]())


if __name__ == "__main__":
    command.run_parsed(main, make_parser())
