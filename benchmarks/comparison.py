"""Runs one job with several settings and seeds, records each run with its provenance, and makes a table of the runs."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.provenance import provenance
from dqgan_tf.errors import UsageError
from dqgan_tf.telemetry import json_lines
from dqgan_tf.training import launcher

_FIGURES = (
    "modes",
    "num_modes",
    "high_quality_fraction",
    "raw_high_quality_fraction",
    "wire_bytes_per_step",
    "dense_bytes_per_step",
    "sent_bytes_per_step",
    "milliseconds_per_step",
    "peak_memory_mib",
    "skipped",
    "weights_sha256",
)


def run(folder: str | os.PathLike) -> Iterator[str]:
    """Runs the variants of `folder`/variants.json that `folder`/runs.jsonl does not hold; yields a line after each run.

    variants.json: {"base": flags, "num_workers": M, "seeds": [...], "variants": {name: flags}}. Every line of
    runs.jsonl holds the variant, the seed, figures of the run's summary, and `provenance`.

    Raises:
      subprocess.CalledProcessError: a run failed.
    """
    folder = pathlib.Path(folder)
    plan = json.loads((folder / "variants.json").read_text())
    num_workers = plan["num_workers"]
    threads = int(launcher.worker_environment([0] * num_workers, 0)["TF_NUM_INTRAOP_THREADS"])
    recorded = {(entry["variant"], entry["seed"]) for entry in json_lines.read(folder / "runs.jsonl")}
    for seed in plan["seeds"]:
        for variant, flags in plan["variants"].items():
            if (variant, seed) in recorded:
                continue
            arguments = [*plan["base"], *flags, f"--seed={seed}"]
            summary = _train(arguments, num_workers)
            command = f"python -m trainers.launch --num_workers={num_workers} -- {' '.join(arguments)}"
            entry = {"variant": variant, "seed": seed, **provenance(command, threads=threads, seeds=[seed])}
            entry |= {key: summary[key] for key in _FIGURES if key in summary}
            with json_lines.JsonLinesWriter(folder / "runs.jsonl", resume_step=None) as writer:
                writer.write(summary["steps"], entry)
            yield f"{variant}, seed {seed}: {entry.get('modes')} modes, {entry.get('high_quality_fraction')}"


def table(folder: str | os.PathLike) -> str:
    """Returns the runs as a Markdown table, one row per variant: means over seeds, and the range
    of the share of high-quality samples."""
    folder = pathlib.Path(folder)
    plan = json.loads((folder / "variants.json").read_text())
    runs = json_lines.read(folder / "runs.jsonl")
    rows = [_row(name, [run for run in runs if run["variant"] == name]) for name in plan["variants"]]
    hardware = sorted({run["hardware"] for run in runs})
    commits = sorted({run["commit"] for run in runs})
    source = (
        f"{plan['title']}, seeds {plan['seeds']}; `python -m trainers.compare --results={folder.as_posix()}`; "
        f"{'; '.join(hardware)}; commit {', '.join(commits)}."
    )
    header = "| update | bytes per step and worker | modes | high-quality samples |\n|---|---|---|---|"
    return "\n".join([header, *rows, "", source])


def render(document: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Replaces the text between `<!-- results:NAME -->` and `<!-- /results:NAME -->` in a document with the table.

    Raises:
      UsageError: the document has no such comments.
    """
    fill(document, pathlib.Path(folder).name, table(folder))


def fill(document: str | os.PathLike, name: str, text: str) -> None:
    """Replaces what stands between `<!-- results:NAME -->` and `<!-- /results:NAME -->` in a document with a text.

    Raises:
      UsageError: the document has no such comments.
    """
    path = pathlib.Path(document)
    start, end = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
    whole = path.read_text()
    if start not in whole or end not in whole:
        raise UsageError(f"--document={path} has no place {start} ... {end} for the table; add both lines to it.")
    before, rest = whole.split(start, 1)
    path.write_text(f"{before}{start}\n{text}\n{end}{rest.split(end, 1)[1]}")


def _train(arguments, num_workers):
    with tempfile.TemporaryDirectory() as model_dir:
        command = [sys.executable, "-m", "trainers.launch", f"--num_workers={num_workers}", "--", *arguments]
        subprocess.run([*command, f"--model_dir={model_dir}"], check=True, stdout=subprocess.DEVNULL)
        return json.loads((pathlib.Path(model_dir) / "summary.json").read_text())


def _row(name, runs):
    if not runs:
        return f"| {name} | not run | | |"
    share = [100 * run["high_quality_fraction"] for run in runs]
    modes = " and ".join(f"{run['modes']} of {run['num_modes']}" for run in runs)
    sent = round(statistics.mean(run["sent_bytes_per_step"] for run in runs))
    spread = f" ({min(share):.1f} to {max(share):.1f})" if len(share) > 1 else ""
    return f"| {name} | {sent:,} | {modes} | {statistics.mean(share):.1f} %{spread} |"
