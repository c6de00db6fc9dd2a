"""The table of a job under several settings: rendered from its records, and the jobs that are still to run."""

import json
import os
import pathlib

import pytest

from benchmarks import comparison
from dqgan_tf.errors import UsageError
from dqgan_tf.telemetry import json_lines

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PLAN = {
    "title": "A game",
    "base": ["--dataset=gaussian_ring", "--steps=2", "--batch_size=8", "--steps_per_call=1"],
    "num_workers": 1,
    "seeds": [0, 1],
    "variants": {"exact": ["--compressor=none"], "sign": ["--compressor=sign:bucket=512"]},
}


def entry(variant, seed, modes, share, sent):
    return {
        "step": 2,
        "variant": variant,
        "seed": seed,
        "commit": "abc1234",
        "hardware": "2 cores of X",
        "modes": modes,
        "num_modes": 8,
        "high_quality_fraction": share,
        "sent_bytes_per_step": sent,
    }


@pytest.fixture
def folder(tmp_path):
    """A folder with a plan and the runs of its first variant."""
    (tmp_path / "variants.json").write_text(json.dumps(PLAN))
    runs = [entry("exact", 0, 8, 0.875, 12000), entry("exact", 1, 7, 0.75, 12001)]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
    return tmp_path


def test_a_row_holds_means_and_the_range_over_seeds(folder):
    # mean(.875, .75) = .8125; 12000.5 rounds half to even
    assert comparison.table(folder).splitlines()[2:4] == [
        "| exact | 12,000 | 8 of 8 and 7 of 8 | 81.2 % (75.0 to 87.5) |",
        "| sign | not run | | |",
    ]


def test_the_line_below_says_where_the_figures_come_from(folder):
    source = comparison.table(folder).splitlines()[-1].split("; ")
    command = f"`python -m trainers.compare --results={folder.as_posix()}`"
    assert source == ["A game, seeds [0, 1]", command, "2 cores of X", "commit abc1234."]


def test_a_document_keeps_all_but_the_place(folder, tmp_path):
    name, path = folder.name, tmp_path / "page.md"
    path.write_text(f"before\n<!-- results:{name} -->\nold\n<!-- /results:{name} -->\nafter\n")
    for _ in range(2):  # a second time changes nothing
        comparison.render(path, folder)
        table = comparison.table(folder)
        assert path.read_text() == f"before\n<!-- results:{name} -->\n{table}\n<!-- /results:{name} -->\nafter\n"


def test_a_document_without_the_place_is_refused(folder, tmp_path):
    path = tmp_path / "page.md"
    path.write_text("nothing here")
    with pytest.raises(UsageError, match=f"has no place <!-- results:{folder.name} -->"):
        comparison.render(path, folder)


def test_the_page_of_pictures_holds_what_its_records_say(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert comparison.table("results/ring") in pathlib.Path("docs/images/README.md").read_text()


@pytest.mark.slow
def test_what_is_recorded_is_not_run_again(folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    one_more = PLAN | {"variants": {"exact": [], "sign": PLAN["variants"]["sign"]}, "seeds": [0]}
    (folder / "variants.json").write_text(json.dumps(one_more))
    assert [line.split(":")[0] for line in comparison.run(folder)] == ["sign, seed 0"]
    last = json_lines.read(folder / "runs.jsonl")[-1]
    assert (last["variant"], last["seed"], last["step"]) == ("sign", 0, 2)
    assert last["command"].endswith(
        f"--num_workers=1 -- {' '.join(PLAN['base'])} --compressor=sign:bucket=512 --seed=0"
    )
    assert (last["seeds"], last["threads"]) == ([0], len(os.sched_getaffinity(0)))
    assert {"hardware", "processor", "versions", "commit"} <= last.keys()
    assert list(comparison.run(folder)) == []
