"""Tables of docs/evidence.md: those of the recorded runs; figures and differences by hand."""

import pytest

from benchmarks import evidence_tables
from benchmarks.provenance import ROOT
from dqgan_tf.errors import UsageError

DOCUMENTS = [(ROOT / name).read_text() for name in ("README.md", "docs/evidence.md")]


def rows(*values):
    return [{"seed": seed, "distance": value} for seed, value in enumerate(values)]


@pytest.mark.parametrize("name", evidence_tables.TABLES)
def test_a_table_of_a_document_is_that_of_the_recorded_runs(name):
    shown = [text for text in DOCUMENTS if f"<!-- results:{name} -->" in text]
    assert shown
    for text in shown:
        table = text.split(f"<!-- results:{name} -->\n")[1].split(f"\n<!-- /results:{name} -->")[0]
        assert table == evidence_tables.TABLES[name]()


def test_a_figure_has_the_mean_of_three_seeds_and_all_of_fewer():
    """The standard deviation of 1, 2, 3 is 1."""
    assert evidence_tables.figure(rows(1.0, 2.0, 3.0), "distance") == "2.0 ± 1.0 (3)"
    assert evidence_tables.figure(rows(0.01, 0.02), "distance", scale=100.0) == "1.0, 2.0"
    assert evidence_tables.figure(rows(0.0123, None, 43.21), "distance", digits=4) == "0.0123, diverges, 43.2"
    assert evidence_tables.figure([], "distance") == ""


def test_a_difference_is_that_of_equal_seeds():
    """Differences 1, 2, 3 of a mean of 10: 20 % +- 4.303 * 10 % / sqrt(3). 101, 120, 139 of 10: 13 times."""
    reference = rows(9.0, 10.0, 11.0, None)
    assert evidence_tables.difference(rows(10.0, 12.0, 14.0), reference, "distance") == "+20.0 ± 24.8 %"
    points = evidence_tables.difference(rows(0.5, 0.75), rows(0.25, 0.25), "distance", percent=False, scale=100.0)
    assert points == "+25.0, +50.0"
    assert evidence_tables.difference(rows(110.0, 130.0, 150.0), reference, "distance") == "13 times"
    assert evidence_tables.difference(rows(108.0, 130.0), reference, "distance") == "12 times, 13 times"
    apart = evidence_tables.difference(rows(18.0, 300.0), reference, "distance")
    assert apart == "+100.0 %, 30 times"
    assert evidence_tables.difference(rows(None, 10.0), reference, "distance") == ""
    assert evidence_tables.difference([{"seed": 3, "distance": 1.0}], reference, "distance") == ""


def test_a_table_of_images_names_its_measure_and_every_judge():
    def run(weights):
        return {"feature_network": "resnet", "feature_network_sha256": 64 * weights, "num_samples": 10000}

    table = evidence_tables._image_table(["", "n"], [["sign", "3"]], [[run("b")], [], [run("a"), run("b")]])
    assert table.splitlines() == [
        "Frechet distance of 10,000 images of the averaged generator; judge: `resnet`, weights aaaaaaaa; `resnet`, "
        "weights bbbbbbbb.",
        "",
        "|  | n |",
        "| --- | --- |",
        "| sign | 3 |",
    ]
    assert evidence_tables._image_table(["", "n"], [], [[]]) == "No run is recorded yet."


def test_a_mean_leaves_no_lost_run_in():
    assert evidence_tables._at_a_mark([1.0, 3.0], [{"spread": 0.0}, {"spread": 2.5}]) == "2.0"
    assert evidence_tables._at_a_mark([94.0, 9.0], [{"spread": None}, {"spread": 2.5}]) == "94.0, 9.0"


def test_a_method_is_written_as_flags():
    method = "cpoadam_ef,shift=0.1,learning_rate_g=0.008,learning_rate_d=0.008"
    assert evidence_tables._setting(method) == "`cpoadam_ef`, `shift=0.1`, rate 0.008"


def test_a_document_without_the_places_is_refused(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("# Nothing\n")
    with pytest.raises(UsageError, match="has no place of a table, such as <!-- results:games -->"):
        evidence_tables.fill(document)
    with pytest.raises(UsageError, match="must be a Markdown file, .* Received: .*nowhere.md"):
        evidence_tables.fill(tmp_path / "nowhere.md")


def test_the_spread_of_diverged_runs_is_said_once():
    """Where some runs hold, each has its own."""
    spreads = lambda *values: [{"seed": seed, "spread": value} for seed, value in enumerate(values)]  # noqa: E731
    assert evidence_tables._spread(spreads(None, 1e7), False) == "; spread without bound"
    assert evidence_tables._spread(spreads(0.25, None), False) == "; spread 0.25, without bound"
    assert evidence_tables._spread(spreads(1.0, 2.0, 3.0), False) == "; spread 2.00 ± 1.00 (3)"
    assert evidence_tables._spread(spreads(1.0, 2.0, 3.0), True) == ""
