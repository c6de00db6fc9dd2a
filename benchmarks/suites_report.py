"""The page of a suite: tables with means, spreads and paired differences, and figures, from its recorded runs."""

import collections
import math
import os
import pathlib
import shlex
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import cells, figures, suite_parts, suites
from benchmarks.crew import bits_per_second
from benchmarks.provenance import ROOT
from benchmarks.report import markdown
from dqgan_tf.errors import UsageError
from dqgan_tf.telemetry import json_lines

Rows = list[dict[str, Any]]
_NAMES = {suite_parts.NONE: "float32"}
_EXACT = "dqgan_adam"  # its float32 runs with equal data are the reference of workers with different data
_EQUAL = ("iid", "homogeneous")  # shards of workers with equal data
LINKS = tuple(ROOT / "results" / folder / "links.jsonl" for folder in ("local", "speedup"))
"""What `benchmarks.links` has measured: steps of the networks and the batch of the suite `time`. A rate that several
files have is taken from the first of them."""
_MOST_CURVES, _MOST_METHODS = 12, 20
"""A figure of more curves, and one against bytes of more methods, is not readable."""
_KNOWN = "feature_network_accuracy"
_WEIGHTS = "feature_network_sha256"
_NEAR = 1.05
"""A distance of at most so many times that of float32 at the end counts as its quality."""


def write(name: str, folder: str | os.PathLike) -> str:
    """Writes `folder`/README.md and its figures from `folder`/runs.jsonl; returns the text.

    Raises:
      UsageError: no run is recorded, or Matplotlib or SciPy is not installed.
    """
    suite, folder = suites.SUITES[name], pathlib.Path(folder)
    rows = _recorded(name, folder)
    parts = [
        f"# {suite.question}",
        f"`python -m trainers.compare --suite={name} --report` makes this page from `runs.jsonl`.",
    ]
    if name == "speedup":
        parts.append(_speedup(rows, folder))
    if name == "time":
        parts.append(_time(suite, rows, folder))
    for (problem, workers, shards, rates), of_section in _sections(rows).items():
        parts.append(f"## {', '.join([problem, f'M = {workers}', shards, *rates])}")
        equal = [row for row in rows if (row["problem"], row["workers"], row["shards"]) == (problem, workers, "iid")]
        parts.append(table(suite, of_section, [] if shards in _EQUAL else _exact(equal)))
        scale = "log" if suite.figures[0].difference == "percent" else "linear"
        values = dict.fromkeys(change.partition("=")[2] for change in rates)
        stem = "_".join([problem, str(workers), shards.replace(":", "_"), *values])  # Windows allows no colon
        title = _title(suite, of_section)
        if suite.kind == cells.DATA:
            for family, lines in _families(of_section).items():
                path = folder / f"{'_'.join([stem, 'bytes', *family])}.png"
                figures.end_against_bytes(_ends(suite, lines), title, path, scale)
                parts.append(f"![{' '.join([title, 'against bytes', *family])}]({path.name})")
        for page, lines in _pages(of_section).items():
            name_of_figure = f"{stem}_{page.replace(',', '_')}"
            parts += _pictures(lines, folder, f"{name_of_figure}_samples.png")
            path = folder / f"{name_of_figure}.png"
            if name != "speedup" and len(_by_variant(lines)) > 1:
                figures.curves(_curves(suite, lines), title, path, scale)
                parts.append(f"![{title} of {page}]({path.name})")
    parts.append(_source(rows))
    text = "\n\n".join(parts) + "\n"
    json_lines.write_atomically(folder / "README.md", text)
    return text


def _recorded(name, folder):
    """The rows of a suite in its own order; those of variants that it no longer has come last."""
    rows = json_lines.read(folder / "runs.jsonl")
    if not rows:
        raise UsageError(f"{folder} holds no runs: `python -m trainers.compare --suite={name}` makes them.")
    order = list(dict.fromkeys(cell[:-1] for cell in suites.SUITES[name].cells()))
    index = {variant: number for number, variant in enumerate(order)}
    return sorted(rows, key=lambda row: (index.get(cells.parse(row["cell"])[:-1], len(index)), row["seed"]))


def _sections(rows):
    """Returns {(problem, workers, shards, rates): rows}.

    With equal data, runs at other rates than the suite's have sections of their own; the names of their methods are
    without the rates there. Elsewhere `rates` is empty.
    """
    sections = collections.defaultdict(list)
    for row in rows:
        rates = _rates(row["method"]) if row["shards"] in _EQUAL else ()
        name = ",".join(change for change in row["method"].split(",") if change not in rates)
        sections[row["problem"], row["workers"], row["shards"], rates].append(row | {"method": name})
    return sections


def _exact(rows):
    """The float32 runs of DQGAN with Adam, exchanged at every step, at any rate and of any length."""
    return [
        row
        for row in rows
        if row["compressor"] == suite_parts.NONE
        and row["method"] == _at(_EXACT, (*_length(row["method"]), *_rates(row["method"])))
    ]


def _rates(method):
    """The changes of learning rates and their schedule in the name of a method."""
    return tuple(change for change in method.split(",") if change.startswith("learning_rate_"))


def _length(method):
    """The change of the number of steps in the name of a method."""
    return tuple(change for change in method.split(",") if change.startswith("steps="))


def _at(method, changes):
    return ",".join([method, *changes])


def table(suite: cells.Suite, rows: Rows, equal: Sequence[dict[str, Any]] = ()) -> str:
    """Returns the Markdown table of the runs of one problem, number of workers and shards.

    Every figure has its mean and standard deviation over the seeds. A difference is that of runs with the same seed,
    this row minus the float32 runs of the reference; its 95 % interval is that of Student's t with n - 1 degrees of
    freedom. A variant of which a run diverged has no mean.

    Args:
      suite: of the runs.
      rows: the runs.
      equal: float32 runs of workers with equal data, which are the reference if there are any: those at the rates of a
        row, or at the suite's if there are none, and as long as the row's.
    """
    variants, by_equal = _by_variant(rows), _by_variant(equal)
    header = ["method", "compressor", "bytes per step and worker", "n"]
    for figure in suite.figures:
        header.append(f"{figure.title}, mean ± sd")
        if figure.difference:
            unit = "%" if figure.difference == "percent" else "points"
            header.append(f"difference to float32{' with equal data' if equal else ''}, {unit} (95 %)")
    lines = []
    for (method, compressor), of_variant in variants.items():
        sent = round(statistics.mean(row["sent_bytes_per_step"] for row in of_variant))
        texts = [method, _NAMES.get(compressor, compressor), f"{sent:,}", str(len(of_variant))]
        if equal:
            same_length = _at(_EXACT, _length(method))
            same_rates = _at(same_length, _rates(method))
            reference = by_equal.get((same_rates, suite_parts.NONE)) or by_equal[same_length, suite_parts.NONE]
        else:
            reference = variants.get((reference_of(of_variant[0]), suite_parts.NONE), [])
        for figure in suite.figures:
            texts.append(_mean(figure, of_variant))
            if figure.difference:
                same = of_variant is reference
                texts.append("" if same else _difference(figure, of_variant, reference))
        lines.append(texts)
    return markdown(header, lines)


def paired_differences(rows: Rows, reference: Sequence[dict[str, Any]], key: str, scale: float | None) -> list[float]:
    """Returns a figure's differences to the runs of the same seeds, times `scale`, or in percent of the mean of those
    runs if it is None; empty where a run diverged or no seed is in both. Runs that different feature networks judge are
    not compared."""
    exact = {(row["seed"], row.get(_WEIGHTS)): row[key] for row in reference}
    keys = [(row["seed"], row.get(_WEIGHTS)) for row in rows]
    pairs = [(row[key], exact[pair]) for row, pair in zip(rows, keys, strict=True) if exact.get(pair) is not None]
    if not pairs or any(value is None for value, _ in pairs):
        return []
    factor = 100 / statistics.mean(base for _, base in pairs) if scale is None else scale
    return [factor * (value - base) for value, base in pairs]


def paired_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Returns mean and half the width of the 95 % interval of Student's t, sd t_{.975, n-1} / sqrt(n); n >= 2.

    Raises:
      UsageError: SciPy is not installed.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise UsageError(f"Intervals need SciPy: pip install '.[benchmark]' ({error})") from error

    count = len(differences)
    half = statistics.stdev(differences) * stats.t.ppf(0.975, count - 1) / math.sqrt(count)
    return statistics.mean(differences), float(half)


def slope(rows: Rows, key: str) -> tuple[float, ...]:
    """Returns mean and half the 95 % interval over seeds of the least-squares slope of log(figure) in log M.

    Only seeds whose runs have more than one M count; fewer than two seeds give the mean alone, none give ().
    """
    by_seed = collections.defaultdict(list)
    for row in rows:
        if row[key]:
            by_seed[row["seed"]].append((math.log(row["workers"]), math.log(row[key])))
    slopes = [float(np.polyfit(*zip(*points, strict=True), 1)[0]) for points in by_seed.values() if len(points) > 1]
    if len(slopes) < 2:
        return tuple(slopes)
    return paired_interval(slopes)


def steps_to(rows: Rows, key: str, value: float) -> str:
    """Returns the mean over the runs of the first step at which a figure is at most a value; empty without runs."""
    firsts = []
    for row in rows:
        curve = zip(row["curve"]["step"], row["curve"][key], strict=True)
        firsts.append(next((step for step, found in curve if found is not None and found <= value), math.inf))
    if math.inf in firsts:
        return "not reached"
    return f"{statistics.mean(firsts):.0f}" if firsts else ""


def _speedup(rows, folder):
    """The slopes of all variants, the steps to the error of one worker, and the figure."""
    lines, series, key = [], {}, suites.SUITES["speedup"].figures[0].key
    counts = sorted({row["workers"] for row in rows})
    ends = [row[key] for row in rows if row["workers"] == counts[0] and row[key] is not None]
    error, steps = statistics.mean(ends or [0.0]), []
    for (method, compressor), of_variant in _by_variant(rows).items():
        label = f"{method}, {_NAMES.get(compressor, compressor)}"
        fitted = slope(of_variant, key)
        lines.append([label, " ± ".join(f"{value:.3f}" for value in fitted)])
        of_count = [[row for row in of_variant if row["workers"] == count] for count in counts]
        steps.append([label, *(steps_to(runs, key, error) for runs in of_count)])
        by_workers = collections.defaultdict(list)
        for row in of_variant:
            by_workers[row["workers"]].append(row[key])
        series[label] = {workers: values for workers, values in sorted(by_workers.items()) if None not in values}
    figures.error_against_workers(
        series, suites.SUITES["speedup"].figures[0].title, folder / "error_against_workers.png"
    )
    return "\n\n".join(
        [
            markdown(["variant", "slope of log error in log M (95 %)"], lines),
            f"Steps to an error of {error:.4f}, the mean at the end with M = {counts[0]}; means over the seeds:",
            markdown(["variant", *(f"M = {count}" for count in counts)], steps),
            "![Error](error_against_workers.png)",
        ]
    )


def _time(suite, rows, folder):
    """The time to float32's quality on every link of `LINKS`, and the figure."""
    measured = _measured_links()
    lines, panels, curves = [], {}, _curves(suite, rows)
    reference = curves.get(("dqgan_adam", _NAMES[suite_parts.NONE]))
    if reference is None:
        return "The runs of float32 are not recorded yet, so there is no quality to reach."
    exact = reference["value"][-1]
    for rate in sorted({row["rate"] for row in measured}, key=bits_per_second):
        seconds, panels[rate] = step_seconds(measured, rate), {}
        base = _first_hours(reference, seconds[_NAMES[suite_parts.NONE]], _NEAR * exact)
        for (method, compressor), curve in curves.items():
            label = ", ".join([compressor, *method.split(",")[1:]])
            if label not in seconds:
                continue
            hours = [step * seconds[label] / 3600 for step in curve["step"]]
            panels[rate][label] = hours, curve["value"]
            reached = _first_hours(curve, seconds[label], _NEAR * exact)
            times = ["not reached", ""] if reached is None else [f"{reached:.3f}", f"{base / reached:.1f}"]
            lines.append([rate, label, f"{1e3 * seconds[label]:.1f}", f"{hours[-1]:.3f}", *times])
    title = _title(suite, rows)
    figures.value_against_time(panels, title, folder / "quality_against_time.png")
    header = ["link", "compressor", "ms per step", "hours of the run", "hours to float32's quality", "times faster"]
    words = (
        f"Steps of `runs.jsonl` times the median time of a step in `results/local/links.jsonl` (1 Gbit/s: "
        f"`results/speedup/links.jsonl`), where two processes train the same networks over the link. float32's quality "
        f"is its mean distance at the end, {exact:.1f}, and "
        f"5 % more, the tolerance for images at few bits; a run has it at the first evaluation whose mean over the "
        f"seeds is not above."
    )
    return f"{words}\n\n{markdown(header, lines)}\n\n![{title} against hours](quality_against_time.png)"


def _measured_links():
    """The rows of two workers in `LINKS`."""
    rows = []
    for path in LINKS:
        known = {row["rate"] for row in rows}
        rows += [row for row in json_lines.read(path) if row["workers"] == 2 and row["rate"] not in known]
    return rows


def _first_hours(curve, seconds, value):
    """The hours at the first evaluation that is not above a value; None if there is none."""
    steps = [step for step, found in zip(curve["step"], curve["value"], strict=True) if found <= value]
    return steps[0] * seconds / 3600 if steps else None


def step_seconds(measured: Rows, rate: str) -> dict[str, float]:
    """Returns the median seconds of a step on the links of a rate, by the label of `_time`, such as `float32` or
    `sign:bucket=512, local_steps=8`.

    Args:
      measured: entries of `benchmarks.links`. Its `none` is float32 over the library's sockets.
      rate: such as `100mbit`.
    """
    samples = collections.defaultdict(list)
    for row in measured:
        variant, _, count = row["variant"].partition("/K=")
        spec, is_compressed, _ = variant.partition("@")
        if row["rate"] == rate and is_compressed:
            label = ", ".join([_NAMES.get(spec, spec), *([f"local_steps={count}"] if count else [])])
            samples[label] += row["samples"]
    return {label: statistics.median(times) / 1e3 for label, times in samples.items()}


def _ends(suite, rows):
    """Returns by method the points of `figures.end_against_bytes`; a variant of which a run diverged has none."""
    figure, series = suite.figures[0], collections.defaultdict(list)
    for (method, compressor), of_variant in _by_variant(rows).items():
        values = [row[figure.key] for row in of_variant]
        if None not in values:
            label = _NAMES.get(compressor, compressor).partition(",")[0].partition(":bucket")[0]
            sent = statistics.mean(row["sent_bytes_per_step"] for row in of_variant)
            series[method].append((label, sent, [figure.scale * value for value in values]))
    return series


def _pictures(rows, folder, name):
    """Draws the pictures that the runs of seed 0 have made from equal latents side by side; returns what shows them."""
    files = {}
    for row in rows:
        file = folder / cells.picture(cells.parse(row["cell"]))
        if row["seed"] == 0 and file.exists():
            lines = [*row["method"].split(","), *_NAMES.get(row["compressor"], row["compressor"]).split("@")]
            files["\n".join(lines)] = file
    if not files:
        return []
    figures.pictures(files, folder / name)
    return [f"Samples of the runs of seed 0, from equal latents:\n\n![Samples]({name})"]


def _mean(figure, rows):
    values = [row[figure.key] for row in rows]
    lost = values.count(None)
    if lost:
        return f"diverges ({lost} of {len(values)})"
    scaled = [figure.scale * value for value in values]
    spread = f" ± {statistics.stdev(scaled):.{figure.digits}f}" if len(scaled) > 1 else ""
    return f"{statistics.mean(scaled):.{figure.digits}f}{spread}"


def _difference(figure, rows, reference):
    """The paired difference to the reference's runs of the same seeds as text; empty if there is none to tell."""
    differences = paired_differences(
        rows, reference, figure.key, None if figure.difference == "percent" else figure.scale
    )
    if not differences:
        return ""
    if len(differences) < 2:
        return f"{differences[0]:+.1f}"
    mean, half = paired_interval(differences)
    return f"{mean:+.1f} ± {half:.1f}"


def _by_variant(rows):
    variants = collections.defaultdict(list)
    for row in rows:
        variants[row["method"], row["compressor"]].append(row)
    return variants


def reference_of(row):
    """Returns the method whose float32 runs the row of a run is compared with.

    On homogeneous games it has as many local steps: the question there is what bits cost. Elsewhere it is exchanged at
    every step. It is as long. For equal data it has the same learning rates and schedule. Tables of workers
    with different data have another reference where there is one: see `table`.
    """
    rates = ("learning_rate_g", "learning_rate_d", "learning_rate_schedule") if row["shards"] in _EQUAL else ()
    return cells.method(row["method"], ("steps", *_steps_kept(row), *rates)).reference


def _pages(rows):
    """Returns {name: rows}: the runs that one figure shows.

    They are those that are compared with one method, at any rate. More than `_MOST_CURVES` variants have a figure for
    each kind of compressor, with the float32 runs of that one method; a kind of more variants has one for each method.
    """
    by_reference = _grouped(rows, _page_reference)
    pages = {}
    for reference, lines in by_reference.items():
        if len(_by_variant(lines)) <= _MOST_CURVES:
            pages[reference] = lines
            continue
        exact = [row for row in lines if (row["method"], row["compressor"]) == (reference, suite_parts.NONE)]
        for kind, of_kind in _grouped(lines, lambda row: row["compressor"].partition(":")[0]).items():
            parts = {reference: of_kind}
            if len(_by_variant(of_kind)) > _MOST_CURVES:
                parts = _grouped(of_kind, _without_changes)
            for method, part in parts.items():
                pages[f"{method},{kind}"] = part if kind == suite_parts.NONE else exact + part
    return pages


def _families(rows):
    """Returns {names: rows}: the runs that one figure against bytes shows; `names` is empty for all of them.

    More than `_MOST_METHODS` methods have a figure for each method without changes, with its float32 reference; one
    variant alone has none.
    """
    if len({row["method"] for row in rows}) <= _MOST_METHODS:
        return {(): rows}
    families = {}
    for name, lines in _grouped(rows, _without_changes).items():
        others = {_page_reference(row) for row in lines} - {row["method"] for row in lines}
        exact = [row for row in rows if row["method"] in others and row["compressor"] == suite_parts.NONE]
        if exact or len(_by_variant(lines)) > 1:
            families[tuple(name.split(","))] = exact + lines
    return families


def _page_reference(row):
    return cells.method(row["method"], ("steps", *_steps_kept(row))).reference


def _grouped(rows, key):
    groups = collections.defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def _without_changes(row):
    """The method of a run with no other change than that of its length."""
    return _at(row["method"].partition(",")[0], _length(row["method"]))


def _steps_kept(row):
    return ("local_steps",) if row["shards"] == "homogeneous" else ()


def _curves(suite, rows):
    """Returns {label: {step, bytes, seconds, value: lists}}, means over the seeds as far as all of them go.

    `raw` is there too where the generator without averaging was evaluated.
    """
    key, curves = suite.figures[0].key, {}
    for (method, compressor), of_variant in _by_variant(rows).items():
        length = min(len(row["curve"][key]) for row in of_variant)
        steps = of_variant[0]["curve"]["step"][:length]
        values = [[v if v is not None else math.nan for v in row["curve"][key][:length]] for row in of_variant]
        curves[method, _NAMES.get(compressor, compressor)] = {
            "step": steps,
            "bytes": [step * of_variant[0]["sent_bytes_per_step"] for step in steps],
            "seconds": list(np.mean([row["curve"]["seconds"][:length] for row in of_variant], axis=0)),
            "value": list(suite.figures[0].scale * np.mean(values, axis=0)),
        }
        if f"raw_{key}" in of_variant[0]["curve"]:
            raw = [row["curve"][f"raw_{key}"][:length] for row in of_variant]
            curves[method, _NAMES.get(compressor, compressor)]["raw"] = list(
                suite.figures[0].scale * np.mean(np.array(raw, float), axis=0)
            )
    return curves


def _source(rows):
    """Where the runs come from."""
    texts = {key: ", ".join(sorted({str(row[key]) for row in rows})) for key in ("commit", "hardware", "threads")}
    seeds = sorted({row["seed"] for row in rows})
    judged = [row for row in rows if "feature_network" in row]
    networks = sorted({_judge(row["feature_network"], judged) for row in judged})
    renamed = any(f"--cell={row['cell']}" not in shlex.split(row["command"]) for row in rows)
    older = (
        " Where the command names a cell without rates, the suite had these rates at that commit; `train_command` has "
        "all settings."
    )
    network = f" Feature network of the image figures: {', '.join(networks)}." if networks else ""
    hours = sum(row.get("wall_seconds", 0.0) for row in rows) / 3600
    return (
        f"{len(rows)} runs, seeds {', '.join(map(str, seeds))}, {hours:.1f} hours; {texts['hardware']}, threads of a "
        f"run: {texts['threads']}; commit {texts['commit']}. Every row of `runs.jsonl` has its own command."
        f"{older * renamed}{network}"
    )


def _title(suite, rows):
    """What the figures of a suite show, with the networks that judge its images."""
    networks = sorted({row["feature_network"] for row in rows if "feature_network" in row})
    return ", ".join([suite.figures[0].title, *networks])


def _judge(name, rows):
    """A feature network, with the share of held-out images that it names right, where a row has it.

    The small classifier has other weights on another kind of processor, which rounds differently when it is trained.
    """
    rows = [row for row in rows if row["feature_network"] == name]
    known = {f"{row[_KNOWN]:.1%}" for row in rows if _KNOWN in row}
    text = name + "".join(f" ({accuracy} of held-out images named right)" for accuracy in sorted(known))
    counts = collections.Counter(row[_WEIGHTS][:8] for row in rows if _WEIGHTS in row)
    if len(counts) < 2:
        return text
    of_weights = ", ".join(f"{weights} for {count} runs" for weights, count in counts.most_common())
    return f"{text}, weights {of_weights}; a difference is of runs that the same weights judge, a mean is of all"
