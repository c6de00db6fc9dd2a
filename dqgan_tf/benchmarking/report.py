"""What stands in the repository about the benchmark: tables and figures made from its recorded runs."""

import json
import os
import pathlib

from dqgan_tf.benchmarking import break_even, figures, torch_baselines, volume
from dqgan_tf.benchmarking.rates import bits_per_second
from dqgan_tf.benchmarking.run import EXCHANGE
from dqgan_tf.benchmarking.table import group, markdown, table

_NEEDED = {"kind", "rate", "variant", "workers", "values", "milliseconds_median", "declared_bytes"}


def append(path: str | os.PathLike, entries: list[dict]) -> None:
    """Appends the entries to a file of JSON lines; its folder is made."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def read(path: str | os.PathLike) -> list[dict]:
    """Returns the recorded entries; of several for the same variant, link, workers and size the last one. Sorted by
    kind, size, workers, rate; variants stay in the order in which they were recorded first.

    Raises:
      OSError: the file cannot be read.
      ValueError: a line is no entry of the benchmark.
    """
    latest = {}
    for number, line in enumerate(pathlib.Path(path).read_text(encoding="utf-8").splitlines(), 1):
        entry = _parsed(line)
        if entry is None:
            raise ValueError(f"Line {number} of {path} is no entry of the benchmark; mend or remove it.")
        latest[*group(entry), entry["variant"]] = entry
    return sorted(latest.values(), key=_place)


def write(entries: list[dict], folder: str | os.PathLike) -> str:
    """Writes tables.md, time_against_rate and volume_against_workers (SVG and PNG) into `folder`; returns the tables.

    The curves are those of the payload and number of workers that were measured at most rates.

    Raises:
      ValueError: no exchange is among the entries.
      ImportError: Matplotlib is not installed.
    """
    folder = pathlib.Path(folder)
    exchanges = [entry for entry in entries if entry["kind"] == EXCHANGE]
    if not exchanges:
        raise ValueError("There is no exchange among the recorded runs: python -m trainers.benchmark --output=FILE")
    chosen = _most_rates(exchanges)
    values = chosen[0]["values"]
    names = dict.fromkeys(entry["variant"] for entry in chosen)
    curves = volume.curves([name for name in names if name not in torch_baselines.DENSE], values)
    text = "\n\n".join(
        ["# Measured", table(entries), "# Break-even", _break_even_table(chosen), "# Volume", _volume_table(curves)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    figures.time_against_rate(chosen, folder / "time_against_rate")
    measured = [entry for entry in exchanges if entry["values"] == values]
    figures.volume_against_workers(curves, measured, folder / "volume_against_workers")
    text += "\n\n" + _source(entries) + "\n"
    (folder / "tables.md").write_text(text, encoding="utf-8")
    return text


def _parsed(line):
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and entry.keys() >= _NEEDED else None


def _place(entry):
    return entry["kind"], entry["values"], entry["workers"], bits_per_second(entry["rate"])


def _most_rates(entries):
    """The entries of the (values, workers) with most rates; of several the first."""
    rates = {}
    for entry in entries:
        rates.setdefault((entry["values"], entry["workers"]), set()).add(entry["rate"])
    best = max(rates, key=lambda key: len(rates[key]))
    return [entry for entry in entries if (entry["values"], entry["workers"]) == best]


def _break_even_table(entries):
    """One row a compressor: the rate below which it beats each dense all-reduce."""
    dense = {name: break_even.median_by_rate(entries, name) for name in (*volume.DENSE, *torch_baselines.DENSE)}
    dense = {name: totals for name, totals in dense.items() if totals}
    compressed = [entry for entry in entries if "encode_milliseconds_median" in entry]
    rows = []
    for name in dict.fromkeys(entry["variant"] for entry in compressed):
        fastest = max((entry for entry in compressed if entry["variant"] == name), key=_rate)
        codec = [break_even.by_codec(_first(entries, base), fastest) for base in volume.DENSE if base in dense]
        totals = break_even.median_by_rate(entries, name)
        crossings = [break_even.by_totals(of_base, totals) for of_base in dense.values()]
        rows.append([name, *map(break_even.in_words, codec + crossings)])
    header = [f"{base}, by codec" for base in volume.DENSE if base in dense]
    return markdown(["beats", *header, *(f"{base}, by totals" for base in dense)], rows)


def _volume_table(curves):
    header = ["MB sent per worker, workers:", *map(str, volume.WORKERS)]
    return markdown(header, [[name, *(f"{sent / 1e6:.3f}" for sent in curve)] for name, curve in curves.items()])


def _first(entries, name):
    return next(entry for entry in entries if entry["variant"] == name)


def _rate(entry):
    return bits_per_second(entry["rate"])


def _source(entries):
    hardware, commits = (
        "; ".join(sorted({entry.get(key, "unknown") for entry in entries})) for key in ("hardware", "commit")
    )
    commands = sorted({entry["command"] for entry in entries if "command" in entry})
    return "\n".join([f"{hardware}; commit {commits}:", "", *(f"    {command}" for command in commands)])
