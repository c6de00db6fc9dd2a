"""Runs whole jobs in this checkout and in another one, in turn: start-up, peak memory, and the final weights.

    python -m benchmarks.jobs --against=00c0494 --data_dir=DIR --output=results/house/jobs.jsonl
    python -m benchmarks.jobs --report=results/house/jobs.jsonl

`trainers.launch` starts two workers with the same flags in both checkouts. The flags name compressor and direction,
because defaults differ between revisions. A recorded run has:

| figure | definition |
|---|---|
| start_seconds | from the start of the launcher to the first line of progress, which comes after one call of the step |
| processor_seconds | user and system time of the job, all processes |
| peak_memory_mib | largest resident memory of worker 0, as the job reports it |
| weights_sha256 | digest of the final weights, as the job reports it |

The jobs `start/...` are short and run --rounds times; the jobs `weights/...` run once. A run that the output holds is
not repeated.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.provenance import ROOT, checkout, command_line, git, provenance
from dqgan_tf.errors import UsageError
from dqgan_tf.telemetry import json_lines
from dqgan_tf.training import command

FOUR_BIT = "linear:bits=4,bucket=512"
_RING = {"flagfile": "flags/experiments/ring.flags", "direction": "adam", "compressor": FOUR_BIT}
_DCGAN = _RING | {"flagfile": "flags/experiments/fashion_mnist.flags", "steps": 5, "log_every": 5}
_SHORT = _RING | {"steps": 1000}
_RULES = {"compressor_rules": "bias=none;discriminator/=sign:bucket=512", "topology": "two_step", "steps": 300}
JOBS: dict[str, dict[str, Any]] = {
    "start/default job": _RING | {"steps": 50, "log_every": 50},
    "start/DCGAN, 28 pixels": _DCGAN,
    "weights/default job": _RING,
    "weights/sign, all_gather": _SHORT | {"compressor": "sign:bucket=512", "topology": "all_gather"},
    "weights/sign, two_step": _SHORT | {"compressor": "sign:bucket=512", "topology": "two_step"},
    "weights/top-1 %, all_gather": _SHORT | {"compressor": "topk:fraction=0.01", "topology": "all_gather"},
    "weights/top-1 %, two_step": _SHORT | {"compressor": "topk:fraction=0.01", "topology": "two_step"},
    "weights/4 bit, two_step, rules": _RING | _RULES,
}
"""Flags of `trainers.train` by job. `ring` stands for the default job; `fashion_mnist` needs --data_dir."""

_FIGURES = ("start_seconds", "processor_seconds", "peak_memory_mib")
_EXPLAINED = f"Medians of {{}}, smallest and largest in brackets; definitions: `benchmarks/jobs.py`. {FOUR_BIT}."


def run_job(settings: dict[str, Any], tree: pathlib.Path) -> dict[str, Any]:
    """Runs two workers with these flags in a checkout; returns the figures of the module's table.

    Raises:
      RuntimeError: the job failed or printed no line of progress, with the end of what it printed.
    """
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"--{name}={value}" for name, value in (settings | {"model_dir": folder}).items()]
        program = [sys.executable, "-m", "trainers.launch", "--num_workers=2", "--", *arguments]
        begin, before = time.monotonic(), _processor_seconds()
        process = subprocess.Popen(
            program, cwd=tree, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        seconds, lines = None, []
        for line in process.stdout:
            if seconds is None and line.startswith("step "):
                seconds = time.monotonic() - begin
            lines.append(line)
        if process.wait() or seconds is None:
            raise RuntimeError(f"{' '.join(program)} in {tree} ended with code {process.returncode}:\n{lines[-5:]}")
        summary = json.loads((pathlib.Path(folder) / "summary.json").read_text())
    return {
        "start_seconds": round(seconds, 3),
        "processor_seconds": round(_processor_seconds() - before, 2),
        "peak_memory_mib": summary["peak_memory_mib"],
        "weights_sha256": summary["weights_sha256"],
        "steps": summary["steps"],
    }


def plan(rounds: int, trees: Sequence[str], with_images: bool) -> Iterator[tuple[str, int, str]]:
    """Yields (job, round, tree) in the order of the runs: the checkouts take turns within a round, first one and then
    the other of them at the head."""
    for name in JOBS:
        if with_images or not _has_images(name):
            for index in range(rounds if name.startswith("start/") else 1):
                for tree in trees if index % 2 == 0 else reversed(trees):
                    yield name, index, tree


def tables(entries: Sequence[dict[str, Any]]) -> str:
    """Returns the tables of start-up and of final weights as Markdown, one column for each commit."""
    from benchmarks.report import markdown

    commits = list(dict.fromkeys(entry["commit"] for entry in entries))
    jobs = list(dict.fromkeys(entry["job"] for entry in entries))
    found = {(job, commit): [] for job in jobs for commit in commits}
    for entry in entries:
        found[entry["job"], entry["commit"]].append(entry)
    started, ended = [], []
    for job in jobs:
        kind, _, name = job.partition("/")
        runs = [found[job, commit] for commit in commits]
        if kind == "start":
            for figure in _FIGURES:
                started.append([name, figure, *(_spread([run[figure] for run in of_commit]) for of_commit in runs)])
        if all(runs):
            digests = [" ".join(sorted({run["weights_sha256"][:12] for run in of_commit})) for of_commit in runs]
            equal = "equal" if len(set(digests)) == 1 and len(runs) > 1 else "different" if len(runs) > 1 else ""
            steps = " ".join(sorted({f"{run['steps']:,}" for of_commit in runs for run in of_commit}))
            ended.append([name, steps, *digests, equal])
    count = max(len(runs) for (job, _), runs in found.items() if job.startswith("start/")) if started else 0
    parts = [_EXPLAINED.format(f"{count} runs"), markdown(["job", "figure", *commits], started)] if started else []
    return "\n\n".join([*parts, *([markdown(["job", "steps", *commits, "weights_sha256"], ended)] if ended else [])])


def _has_images(name):
    return "fashion_mnist" in JOBS[name]["flagfile"]


def _spread(values):
    if not values:
        return ""
    return f"{statistics.median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})"


def _processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", help="revision or folder of another checkout that runs the same jobs")
    parser.add_argument("--data_dir", help="prepared TensorFlow Datasets directory with fashion_mnist, for the DCGAN")
    parser.add_argument(
        "--rounds", type=command.positive, default=5, help="runs of every job start/... in each checkout"
    )
    parser.add_argument("--output", help="file to which JSON lines are appended")
    parser.add_argument("--report", help="run nothing: print the tables of this file")
    return parser


def main(arguments: argparse.Namespace) -> None:
    if arguments.report:
        if arguments.output or arguments.against or arguments.data_dir:
            raise UsageError("--report runs nothing: give it alone, such as --report=runs/jobs.jsonl")
        if not (rows := json_lines.read(arguments.report)):
            raise UsageError(
                f"--report must name a file of recorded jobs, such as results/house/jobs.jsonl. Received: "
                f"{arguments.report}"
            )
        print(tables(rows))
        return
    if not arguments.output or not arguments.against:
        raise UsageError("Name another checkout and a file, such as --against=HEAD~1 --output=runs/jobs.jsonl")
    recorded = {(entry["job"], entry["round"], entry["commit"]) for entry in json_lines.read(arguments.output)}
    pathlib.Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    with checkout(arguments.against) as other, json_lines.JsonLinesWriter(arguments.output, None) as writer:
        trees = {git(tree, "describe", "--always", "--dirty").stdout.strip(): tree for tree in (other, ROOT)}
        for name, index, commit in plan(arguments.rounds, list(trees), bool(arguments.data_dir)):
            if (name, index, commit) not in recorded:
                local = {"data_dir": arguments.data_dir} if _has_images(name) else {}
                figures = run_job(JOBS[name] | local, trees[commit])
                origin = provenance(command_line("benchmarks.jobs"), threads=0, seeds=[0], tree=trees[commit])
                writer.write(figures["steps"], {"job": name, "round": index} | origin | figures)
                print(f"{name}, round {index}, {commit}: {figures['start_seconds']} s", flush=True)
    print(tables(json_lines.read(arguments.output)))


if __name__ == "__main__":
    command.run_parsed(main, make_parser())
