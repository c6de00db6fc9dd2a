"""The figure of quality against bytes: what it draws is what the tables of results hold."""

import json
import pathlib
import sys

import pytest

from benchmarks import figures, quality
from dqgan_tf.errors import UsageError

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def folder(tmp_path):
    plan = {"title": "A game", "seeds": [0, 1], "variants": {"sign": [], "lost": ["--noerror_feedback"], "later": []}}
    runs = [
        {"step": 5000, "variant": variant, "seed": seed, "sent_bytes_per_step": sent, "high_quality_fraction": share}
        | {"commit": "abc", "hardware": "2 cores of X"}
        for variant, seed, sent, share in [("sign", 0, 9000, 0.75), ("sign", 1, 9000, 0.875), ("lost", 0, 3000, 0.125)]
    ]
    (tmp_path / "variants.json").write_text(json.dumps(plan))
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
    return tmp_path


def test_a_point_holds_all_seeds_of_a_variant(folder):
    sign, lost = quality.points([folder])  # nothing is recorded of the third variant
    assert sign == quality.Point(f"{folder}, seeds 0 and 1", "sign", 9000, (75.0, 87.5), False)
    assert sign.share == 81.25
    assert (lost.shares, lost.is_ablation) == ((12.5,), True)


def test_the_caption_and_the_sources_say_where_the_points_come_from(folder):
    assert quality.caption([folder]).endswith(f": `{folder}` (seeds 0 and 1).")
    row = f"| `{folder}`, seeds 0 and 1 | A game | abc | 2 cores of X |"
    assert quality.sources([folder]).splitlines()[2:] == [row]


def test_the_documents_have_the_caption_and_the_sources():
    """If this fails: `python -m benchmarks.quality`, and what it prints replaces both texts."""
    page = (ROOT / "docs" / "images" / "README.md").read_text()
    assert quality.caption() in page and quality.sources() in page


def test_the_sentence_under_the_figure_holds():
    points = quality.points()
    assert {point.variant for point in points if point.share < 80} == {"top 1 %, no error feedback"}
    assert min(point.sent_bytes for point in points) == 1616
    spreads = [max(point.shares) - min(point.shares) for point in points if len(point.shares) > 1]
    assert round(max(spreads), 1) == 5.1


def test_equal_points_give_equal_bytes(tmp_path):
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed")
    for name in ("one", "two"):
        figures.quality_against_bytes(quality.points(), tmp_path / f"{name}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_the_figure_says_that_it_needs_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="benchmark"):
        figures.quality_against_bytes(quality.points(), tmp_path / "a.png")
