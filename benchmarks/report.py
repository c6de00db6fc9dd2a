"""The output of the benchmarks: recorded rows, tables, break-even rates, tables of profiles."""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import figures, torch_baselines, variants
from benchmarks.crew import LOOPBACK, bits_per_second, wire_milliseconds
from benchmarks.run import CODEC, EXCHANGE, PHASES, WHOLE_STEP
from dqgan_tf.errors import UsageError
from dqgan_tf.telemetry.json_lines import JsonLinesWriter
from dqgan_tf.telemetry.json_lines import read as read_json_lines
from dqgan_tf.telemetry.throughput import break_even_bandwidth

_REQUIRED = {"kind", "rate", "variant", "tree", "workers", "threads", "values", "milliseconds_median", "declared_bytes"}
LEAST_MILLISECONDS = 0.3
_COMPILED = "CpuExecutable::ExecuteAsyncOnStream"

# --- recorded rows ---


def append(path: str | os.PathLike, entries: Sequence[dict[str, Any]]) -> None:
    """Appends the entries to a file of JSON lines and creates its folder. `step` is the number of timed steps."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with JsonLinesWriter(path, resume_step=None) as writer:
        for entry in entries:
            writer.write(entry["step"], entry)


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the recorded entries; for each variant and conditions only the last one.

    They are sorted by kind, size, workers, threads, rate; variants stay in the order in which they were recorded first.

    Raises:
      UsageError: the file does not exist, or a line is no entry of the benchmark.
    """
    if not pathlib.Path(path).is_file():
        raise UsageError(f"--report must name a file that `trainers.benchmark --output=FILE` wrote. Received: {path}")
    latest = {}
    for number, entry in enumerate(read_json_lines(path), 1):
        if not entry.keys() >= _REQUIRED:
            raise UsageError(f"Line {number} of {path} is no entry of the benchmark; repair or remove it.")
        latest[*conditions(entry), label(entry)] = entry
    return sorted(latest.values(), key=_place)


def conditions(entry: dict[str, Any]) -> tuple:
    """Returns the fields that must be equal in entries that are compared: kind, rate, workers, threads, sizes."""
    names = ("kind", "rate", "workers", "threads", "values", "batch_size", "steps_per_call")
    return tuple(entry.get(name) for name in names)


def label(entry: dict[str, Any]) -> str:
    """Returns the variant's name, with the checkout in brackets if it is another one."""
    return f"{entry['variant']} ({entry['tree']})" if entry["tree"] else entry["variant"]


def _place(entry):
    return entry["kind"], entry["values"], entry["workers"], entry["threads"], bits_per_second(entry["rate"])


# --- tables ---


def table(entries: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table for each kind of benchmark among the entries.

    All: threads per worker, median and minimum milliseconds, medians of the phases. If another checkout was measured,
    "ms / other checkout" is the median and the quartiles over rounds of this checkout's time divided by the other's.

    Exchange: megabytes that one worker sends, as declared and at the interface; "wire", the milliseconds that the
    declared bytes alone take at the link's rate; "ms / wire"; the time of float32 and float16 divided by this one's.

    Whole step: the bytes; "alone", the step without any exchange; "wire"; "ms / bound", the time divided by max(alone,
    wire); "ms / plain", median and quartiles over rounds of the time divided by a plain Keras step's.

    Codec: the time of a copy of the vector divided by that of encode and of decode; "encode, gain by threads", the time
    of encode with the least number of threads divided by this one's.
    """
    kinds = ((EXCHANGE, _exchange_columns), (WHOLE_STEP, _whole_step_columns), (CODEC, _codec_columns))
    tables = []
    for kind, columns in kinds:
        rows = [_common_columns(entry) | columns(entry, entries) for entry in entries if entry["kind"] == kind]
        if rows:
            header = list(dict.fromkeys(name for row in rows for name in row))
            tables.append(markdown(header, [[row.get(name, "") for name in header] for row in rows]))
    return "\n\n".join(tables)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _common_columns(entry):
    milliseconds = f"{entry['milliseconds_median']:.1f} / {entry['milliseconds_minimum']:.1f}"
    columns = {"link": entry["rate"], "workers": str(entry["workers"]), "threads": str(entry["threads"])}
    columns |= {"variant": label(entry), "ms, median / min": milliseconds}
    if "against_ratio" in entry:
        columns["ms / other checkout"] = _ratio(entry["against_ratio"])
    return columns


def _exchange_columns(entry, entries):
    wire, time = wire_milliseconds(entry["declared_bytes"], entry["rate"]), entry["milliseconds_median"]
    columns = _phases(entry, PHASES) | _sent(entry)
    columns |= {"wire": f"{wire:.1f}", "ms / wire": f"{time / wire:.2f}"} if wire else {"wire": "", "ms / wire": ""}
    comparable = [
        other for other in entries if (conditions(other), other["tree"]) == (conditions(entry), entry["tree"])
    ]
    medians = {other["variant"]: other["milliseconds_median"] for other in comparable}
    for name in variants.DENSE:
        columns[f"{name} takes"] = f"{medians[name] / time:.2f}x" if name in medians else ""
    return columns


def _whole_step_columns(entry, entries):
    columns = _phases(entry, ("compute", *PHASES)) | _sent(entry)
    if "alone_milliseconds_median" in entry:
        alone = entry["alone_milliseconds_median"]
        wire = wire_milliseconds(entry["declared_bytes"], entry["rate"])
        columns |= {"alone": f"{alone:.1f}", "wire": f"{wire:.1f}" if wire else ""}
        columns["ms / bound"] = f"{entry['milliseconds_median'] / max(alone, wire):.2f}"
    if "plain_ratio" in entry:
        columns |= {"plain": f"{entry['plain_milliseconds_median']:.1f}", "ms / plain": _ratio(entry["plain_ratio"])}
    return columns


def _codec_columns(entry, entries):
    columns = _phases(entry, ("encode", "decode"))
    comparable = [other for other in entries if (other["kind"], other["tree"]) == (CODEC, entry["tree"])]
    for other in comparable:
        if other["variant"] == "copy" and conditions(other) == conditions(entry):
            for phase in ("encode", "decode"):
                if entry.get(f"{phase}_milliseconds_median"):  # absent for the copy, 0 below the clock's resolution
                    share = other["milliseconds_median"] / entry[f"{phase}_milliseconds_median"]
                    columns[f"{phase}, of copy's speed"] = f"{share:.0%}"
    same = [other for other in comparable if (other["variant"], other["values"]) == (entry["variant"], entry["values"])]
    first = min(same, key=lambda other: other["threads"])
    if first["threads"] < entry["threads"] and entry.get("encode_milliseconds_median"):
        gain = first["encode_milliseconds_median"] / entry["encode_milliseconds_median"]
        columns["encode, gain by threads"] = f"{gain:.2f}x of {first['threads']}"
    return columns


def _ratio(quartiles):
    low, median, high = quartiles
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def _phases(entry, phases):
    medians = {phase: entry.get(f"{phase}_milliseconds_median") for phase in phases}
    return {phase: "" if median is None else f"{median:.1f}" for phase, median in medians.items()}


def _sent(entry):
    sent = f"{entry['declared_bytes'] / 1e6:.3f} / {entry['interface_bytes'] / 1e6:.3f}"
    return {"MB sent, declared / measured": sent}


# --- break-even ---


def break_even_by_codec(dense: dict[str, Any], entry: dict[str, Any]) -> float:
    """Returns the link rate in bits per second below which a compressor beats a dense all-reduce:
    8 (dense bytes - bytes) / (seconds of encode and decode); see `telemetry.throughput.break_even_bandwidth`.

    Args:
      dense: entry of the dense all-reduce.
      entry: of the compressor, measured on any link: its codec does not depend on the link.
    """
    seconds = 1e-3 * (entry["encode_milliseconds_median"] + entry["decode_milliseconds_median"])
    return break_even_bandwidth(dense["declared_bytes"], entry["declared_bytes"], seconds)


def break_even_by_totals(dense: Mapping[str, float], totals: Mapping[str, float]) -> float:
    """Returns the highest rate in bits per second at which the measured totals cross.

    Between two rates the logarithm of the totals' ratio is taken as linear in the logarithm of the rate. Loopback is
    faster than every rate but has none: for a crossing before it the highest rate is returned, a lower bound.

    Args:
      dense: milliseconds by rate.
      totals: the same of the compressor.

    Returns:
      0 if the compressor is slower everywhere, infinity if it is faster everywhere.
    """
    common = sorted(set(dense) & set(totals), key=bits_per_second)
    faster = [totals[rate] < dense[rate] for rate in common]
    if not any(faster):
        return 0.0
    if faster[-1]:
        return math.inf
    last = max(index for index, is_faster in enumerate(faster) if is_faster)
    below, above = common[last], common[last + 1]
    if above == LOOPBACK:
        return bits_per_second(below)
    gains = [math.log(dense[rate] / totals[rate]) for rate in (below, above)]
    share = gains[0] / (gains[0] - gains[1])
    low, high = (math.log(bits_per_second(rate)) for rate in (below, above))
    return math.exp(low + share * (high - low))


def rate_in_words(rate: float) -> str:
    """Returns `no link`, `every link`, or the rate in Gbit/s."""
    if rate in (0.0, math.inf):
        return "every link" if rate else "no link"
    return f"{1e-9 * rate:.2f} Gbit/s"


def _break_even_table(entries):
    """One row per compressor: the rate below which it beats each dense all-reduce."""
    dense = {name: _median_by_rate(entries, name) for name in (*variants.DENSE, *torch_baselines.DENSE)}
    dense = {name: totals for name, totals in dense.items() if totals}
    coded = [name for name in variants.DENSE if name in dense]
    compressed = [entry for entry in entries if "encode_milliseconds_median" in entry]
    rows = []
    for name in dict.fromkeys(entry["variant"] for entry in compressed):
        of_name = [entry for entry in compressed if entry["variant"] == name]
        fastest = max(of_name, key=lambda entry: bits_per_second(entry["rate"]))
        bases = [next(entry for entry in entries if entry["variant"] == base) for base in coded]
        rates = [break_even_by_codec(base, fastest) for base in bases]
        totals = _median_by_rate(entries, name)
        rates += [break_even_by_totals(of_base, totals) for of_base in dense.values()]
        rows.append([name, *map(rate_in_words, rates)])
    return markdown(
        ["beats", *(f"{base}, by codec" for base in coded), *(f"{base}, by totals" for base in dense)], rows
    )


def _median_by_rate(entries, variant):
    return {entry["rate"]: entry["milliseconds_median"] for entry in entries if entry["variant"] == variant}


# --- the folder of results ---


def write(entries: Sequence[dict[str, Any]], folder: str | os.PathLike) -> str:
    """Writes tables.md, time_against_rate and volume_against_workers (SVG and PNG) into `folder`; returns the tables.

    Raises:
      UsageError: no exchange is among the entries, or Matplotlib is not installed.
    """
    folder = pathlib.Path(folder)
    chosen, curves, text = _most_rates(entries), _curves(entries), summary(entries)
    measured = [entry for entry in _exchanges(entries) if entry["values"] == chosen[0]["values"]]
    folder.mkdir(parents=True, exist_ok=True)
    figures.time_against_rate(chosen, folder / "time_against_rate")
    figures.volume_against_workers(curves, measured, folder / "volume_against_workers")
    (folder / "tables.md").write_text(text, encoding="utf-8")
    return text


def summary(entries: Sequence[dict[str, Any]]) -> str:
    """Returns tables.md: measurements, break-even rates, volumes and the provenance of the rows.

    Break-even and volumes are those of the payload, workers and threads that this checkout measured at most rates.

    Raises:
      UsageError: no exchange is among the entries.
    """
    volume = [[name, *(f"{sent / 1e6:.3f}" for sent in curve)] for name, curve in _curves(entries).items()]
    parts = ["# Measured", table(entries), "# Break-even", _break_even_table(_most_rates(entries))]
    parts += ["# Volume", markdown(["MB sent per worker, workers:", *map(str, variants.WORKERS)], volume)]
    hardware, commits = (
        "; ".join(sorted({entry.get(key, "unknown") for entry in entries})) for key in ("hardware", "commit")
    )
    commands = sorted({entry["command"] for entry in entries if "command" in entry})
    source = "\n".join([f"{hardware}; commit {commits}:", "", *(f"    {command}" for command in commands)])
    return "\n\n".join([*parts, source]) + "\n"


def _curves(entries):
    chosen = _most_rates(entries)
    names = dict.fromkeys(entry["variant"] for entry in chosen)
    return variants.curves([name for name in names if name not in torch_baselines.DENSE], chosen[0]["values"])


def _exchanges(entries):
    """The exchanges of this checkout."""
    exchanges = [entry for entry in entries if entry["kind"] == EXCHANGE and not entry["tree"]]
    if not exchanges:
        raise UsageError("The recorded runs hold no exchange: python -m trainers.benchmark --output=FILE makes them.")
    return exchanges


def _most_rates(entries):
    """The exchanges of the (values, workers, threads) with most rates; of several the first."""
    rates, entries = {}, _exchanges(entries)
    for entry in entries:
        rates.setdefault((entry["values"], entry["workers"], entry["threads"]), set()).add(entry["rate"])
    best = max(rates, key=lambda key: len(rates[key]))
    return [entry for entry in entries if (entry["values"], entry["workers"], entry["threads"]) == best]


# --- profiles ---


class Event(NamedTuple):
    """start, end: milliseconds since the step began. name: of the operation, or what XLA has compiled."""

    start: float
    end: float
    name: str


def timeline(folder: str | os.PathLike) -> str:
    """Returns one table per profile under the folder of `trainers.benchmark --profile`.

    Raises:
      UsageError: there is none.
    """
    paths = sorted(pathlib.Path(folder).rglob("*.xplane.pb"))
    if not paths:
        raise UsageError(
            f"No profile (*.xplane.pb) is under {folder!r}: trainers.benchmark --profile={folder} makes them."
        )
    parts = []
    for path in paths:
        rows = [[f"{e.start:.1f}", f"{e.end:.1f}", f"{e.end - e.start:.1f}", e.name] for e in events(path)]
        parts += [f"## {path.relative_to(folder).parts[0]}", markdown(["from, ms", "to, ms", "ms", "what"], rows)]
    return "\n\n".join(parts)


def events(path: pathlib.Path) -> list[Event]:
    """Returns the operations of at least `LEAST_MILLISECONDS` in a profile (`*.xplane.pb`), by their start.

    Operations of TensorFlow read `NAME:TYPE`; a Python function that waits for a packet waits in its `PyFunc`.
    """
    from dqgan_tf.private_tensorflow import XSpace

    space = XSpace()
    space.ParseFromString(path.read_bytes())
    spans = [
        (
            line.timestamp_ns / 1e6 + event.offset_ps / 1e9,
            event.duration_ps / 1e9,
            plane.event_metadata[event.metadata_id].name,
        )
        for plane in space.planes
        for line in plane.lines
        for event in line.events
    ]
    first = min((start for start, _, _ in spans), default=0.0)
    return sorted(
        Event(start - first, start - first + duration, "compiled by XLA" if name == _COMPILED else name)
        for start, duration, name in spans
        if duration >= LEAST_MILLISECONDS and _is_operation(name)
    )


def _is_operation(name):
    return name == _COMPILED or (":" in name and "::" not in name and ": " not in name)
