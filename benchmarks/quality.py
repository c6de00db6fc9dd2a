"""Draws README's figure of quality against bytes from the tables of results.

    python -m benchmarks.quality [--figure=docs/images/quality_against_bytes.png]

It prints the caption for README.
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
        series = f"{folder}, seed{'s' if len(plan['seeds']) > 1 else ''} {' and '.join(map(str, plan['seeds']))}"
        for variant, flags in plan["variants"].items():
            own = [run for run in runs if run["variant"] == variant]
            if own:
                shares = tuple(100 * run["high_quality_fraction"] for run in own)
                made.append(
                    Point(series, variant, own[0]["sent_bytes_per_step"], shares, not set(_ABLATIONS).isdisjoint(flags))
                )
    return made


def caption(folders: Sequence[str | os.PathLike] = FOLDERS) -> str:
    """Returns the caption of the figure: titles, seeds, commits, hardware and the command that draws it."""
    sources, hardware = [], set()
    for folder in folders:
        plan, runs = _read(folder)
        commits = ", ".join(sorted({run["commit"] for run in runs}))
        sources.append(f"`{folder}`: {plan['title']}, seeds {plan['seeds']}, commit {commits}")
        hardware |= {run["hardware"] for run in runs}
    return "; ".join([*sources, *sorted(hardware), "drawn by `python -m benchmarks.quality`"]) + "."


def _read(folder):
    folder = ROOT / folder
    return json.loads((folder / "variants.json").read_text()), json_lines.read(folder / "runs.jsonl")


def main(arguments):
    del arguments
    figures.quality_against_bytes(points(), pathlib.Path(_FIGURE.value))
    print(caption())


if __name__ == "__main__":
    command.run(main)
