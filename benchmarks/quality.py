"""Draws the figure of quality against bytes from the tables of results.

    python -m benchmarks.quality [--figure=docs/images/quality_against_bytes.png]

It prints the caption and the sources, which stand in docs/images/README.md.
"""

import json
import os
import pathlib
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import figures
from benchmarks.provenance import ROOT
from dqgan_tf.telemetry import json_lines
from dqgan_tf.training import command

FOLDERS = ("results/ring", "results/two_step")
_ABLATIONS = ("--noerror_feedback", "--noresidual_in_half_step")
_FIGURE = command.define_path(
    "figure", "File of the picture, PNG.", str(ROOT / "docs/images/quality_against_bytes.png")
)


class Point(NamedTuple):
    """One variant of one table.

    series: the folder and its seeds, for the legend.
    variant: name of the variant.
    sent_bytes: bytes per step and worker.
    shares: percent of samples of high quality, one per seed.
    is_ablation: whether the variant is an ablation of the method.
    """

    series: str
    variant: str
    sent_bytes: int
    shares: tuple[float, ...]
    is_ablation: bool

    @property
    def share(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(self.shares)


def points(folders: Sequence[str | os.PathLike] = FOLDERS) -> list[Point]:
    """Returns every variant that the runs.jsonl of the folders hold."""
    made = []
    for folder in folders:
        plan, runs = _read(folder)
        series = f"{folder}, {_seeds(plan)}"
        for variant, flags in plan["variants"].items():
            own = [run for run in runs if run["variant"] == variant]
            if own:
                shares = tuple(100 * run["high_quality_fraction"] for run in own)
                made.append(
                    Point(series, variant, own[0]["sent_bytes_per_step"], shares, not set(_ABLATIONS).isdisjoint(flags))
                )
    return made


def caption(folders: Sequence[str | os.PathLike] = FOLDERS) -> str:
    """Returns what the figure shows: its game, folders and seeds."""
    runs = " and ".join(f"`{folder}` ({_seeds(_read(folder)[0])})" for folder in folders)
    return f"Each point is one compressor on the ring of 8 Gaussians after 5000 steps of two workers: {runs}."


def sources(folders: Sequence[str | os.PathLike] = FOLDERS) -> str:
    """Returns a table of where the points come from: title, seeds, commits and hardware of each folder."""
    rows = ["| runs | title | commit | hardware |", "|---|---|---|---|"]
    for folder in folders:
        plan, runs = _read(folder)
        commits, hardware = (", ".join(sorted({run[key] for run in runs})) for key in ("commit", "hardware"))
        rows.append(f"| `{folder}`, {_seeds(plan)} | {plan['title']} | {commits} | {hardware} |")
    return "\n".join(rows)


def _seeds(plan):
    return f"seed{'s' if len(plan['seeds']) > 1 else ''} {' and '.join(map(str, plan['seeds']))}"


def _read(folder):
    folder = ROOT / folder
    return json.loads((folder / "variants.json").read_text()), json_lines.read(folder / "runs.jsonl")


def main(arguments):
    del arguments
    figures.quality_against_bytes(points(), pathlib.Path(_FIGURE.value))
    print(caption(), sources(), sep="\n\n")


if __name__ == "__main__":
    command.run(main)
