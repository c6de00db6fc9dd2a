"""Suites: their order and their file by hand, tables and intervals by hand, gradients of the games against fields."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import cells, games, suite_parts, suites, suites_processes, suites_report
from benchmarks.provenance import ROOT
from dqgan_tf import config as config_lib
from dqgan_tf.data import catalogue
from dqgan_tf.errors import TrainingError, UsageError
from dqgan_tf.gan.gradients import simultaneous_gradients
from dqgan_tf.telemetry import json_lines, pictures

SUITE = suites.SUITES["games"]


class TestCells:
    def test_seed_by_seed(self):
        ordered = SUITE.cells()
        assert [cell.seed for cell in ordered] == sorted(cell.seed for cell in ordered)
        assert len(set(ordered)) == len(ordered)

    def test_a_row_of_two_groups_has_the_larger_number_of_seeds(self):
        groups = [cells.Group("affine", 2, "homogeneous", [("dqgan", "none")], seeds) for seeds in (1, 3)]
        assert [cell.seed for cell in SUITE._replace(groups=groups).cells()] == [0, 1, 2]

    @pytest.mark.parametrize("name", suites.SUITES)
    def test_a_name_is_read_back(self, name):
        assert all(cells.parse(cell.name) == cell for cell in suites.SUITES[name].cells())

    @pytest.mark.parametrize(
        "name", ["", "nonlinear/dqgan/none/M=x/iid/seed=0", "nonlinear/unknown/none/M=2/iid/seed=0"]
    )
    def test_another_name_is_refused(self, name):
        with pytest.raises(UsageError, match="cell.*Received: "):
            cells.parse(name)

    @pytest.mark.parametrize("name", suites.SUITES)
    def test_every_cell_has_settings_and_a_reference(self, name):
        suite = suites.SUITES[name]
        compared = {
            (cell.problem, cell.workers, cell.shards, cell.method)
            for cell in suite.cells()
            if cell.compressor == "none"
        }
        for cell in suite.cells():
            cells.run_config(suite, cell, {})
            reference = suites_report.reference_of(cell._asdict())
            assert (cell.problem, cell.workers, cell.shards, reference) in compared

    def test_published_networks(self):
        """The suite leaves network, loss, rates and steps to the preset; a suite without images has no such form."""
        cell = suites.get("cifar10", small=False, published=True).cells()[0]
        config = cells.run_config(suites.get("cifar10", False, True), cell, cells.preset("cifar10"))
        assert (config.loss.loss, config.network.width, config.train.steps) == ("wgan_gp", 64, 500_000)
        assert config.train.batch_size == 64
        with pytest.raises(
            UsageError, match="--published is for --suite=fashion_mnist or cifar10. Received: --suite=games"
        ):
            suites.get("games", small=False, published=True)

    @pytest.mark.parametrize("name", suites.SUITES)
    def test_the_small_form_is_short(self, name):
        suite = suites.get(name, small=True)
        for cell in suite.cells():
            assert steps_of(suite, cell) == 32 and cell.workers <= 2

    def test_a_method_with_changes(self):
        method = cells.method("dqgan_adam_residual_out,local_steps=4,half_step=common")
        settings = cells.METHODS["dqgan_adam_residual_out"].settings
        changes = {"compression.local_steps": 4, "optimizer.half_step": "common"}
        assert method == cells.Method(settings | changes, "dqgan_adam")
        kept = cells.method("dqgan_residual_out,local_steps=4,shift=0.1", keep=["local_steps"])
        assert kept.reference == "dqgan,local_steps=4"

    @pytest.mark.parametrize(
        ("shards", "reference"),
        [
            ("iid", "dqgan_adam,learning_rate_g=0.0004"),
            ("homogeneous", "dqgan_adam,local_steps=8,learning_rate_g=0.0004"),
            ("by_class", "dqgan_adam"),
        ],
    )
    def test_the_reference_has_the_same_rate_for_equal_data(self, shards, reference):
        row = {"method": "dqgan_adam_residual_out,local_steps=8,learning_rate_g=0.0004", "shards": shards}
        assert suites_report.reference_of(row) == reference

    def test_the_reference_is_as_long(self):
        """With different data too: of float32 runs with equal data, .2 is that of twice the steps."""
        row_of = {"method": "cpoadam_ef,steps=6144,shift=0.1", "shards": "by_class"}
        assert suites_report.reference_of(row_of) == "cpoadam,steps=6144"
        equal = [row("dqgan_adam", "none", 0, 0.1), row("dqgan_adam,steps=4", "none", 0, 0.2)]
        rows = [
            row("cpoadam_ef,steps=4,learning_rate_g=0.5", "sign", 0, 0.3),
            row("cpoadam_ef,steps=5", "sign", 0, 0.3),
        ]
        lines = suites_report.table(SUITE, rows, suites_report._exact(equal)).splitlines()[2:]
        assert [line.split("|")[-2].strip() for line in lines] == ["+50.0", ""]

    def test_a_change_of_no_setting_is_refused(self):
        with pytest.raises(UsageError, match="flag of trainers.train.*Received: steps_local=4"):
            cells.method("dqgan,steps_local=4")

    def test_a_preset_is_what_the_flags_say(self):
        """Text, whole number, number, choice, switch."""
        preset = cells.preset("ring") | cells.preset("no_half_step") | cells.preset("no_error_feedback")
        assert preset["data.dataset"] == "gaussian_ring" and preset["train.steps"] == 5000
        assert preset["optimizer.learning_rate_g"] == 0.001 and preset["optimizer.half_step"] == "none"
        assert preset["compression.error_feedback"] is False

    def test_a_train_command_has_what_differs_from_the_defaults(self):
        config = config_lib.from_flat({"compression.error_feedback": False, "train.seed": 3, "data.dataset": "mnist"})
        assert cells.train_command(config) == (
            "python -m trainers.train --model_dir=FOLDER --dataset=mnist --noerror_feedback --seed=3"
        )
        assert cells.train_command(config, processes=3).startswith("python -m trainers.launch --num_workers=3 -- --mod")

    def test_processes_do_not_share_the_gpus_of_published_networks(self):
        command = [sys.executable, "-m", "trainers.compare", "--suite=cifar10", "--published", "--processes"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 2 and "Received: --published --processes" in done.stderr

    def test_workers_as_processes_have_a_replica_each(self):
        cell = cells.parse("mixture_ring/dqgan_adam/none/M=4/iid/seed=0")
        replicas, processes = (cells.run_config(suites.SUITES["mixture"], cell, {}, form) for form in (False, True))
        assert (replicas.train.replicas_per_worker, processes.train.replicas_per_worker) == (4, 1)
        assert replicas.train.batch_size == processes.train.batch_size == 256

    def test_a_cell_is_settings(self):
        cell = cells.parse("nonlinear/dqgan_residual_out/sign:bucket=512@two_step/M=3/homogeneous/seed=7")
        config = cells.run_config(SUITE, cell, {"optimizer.learning_rate_g": 0.5})
        assert (config.compression.compressor, config.compression.topology) == ("sign:bucket=512", "two_step")
        assert (config.optimizer.direction, config.optimizer.learning_rate_g) == ("sgd", 0.5)
        assert not config.compression.residual_in_half_step and config.compression.error_feedback
        assert (config.train.replicas_per_worker, config.train.seed) == (3, 7)


class TestRun:
    """With the process of a run replaced."""

    @pytest.fixture
    def made(self, monkeypatch):
        made = []

        def run_cell(name, cell, threads, small, cache, options):
            if len(made) == 2:
                raise TrainingError("stopped")
            made.append(cell.name)
            return {"cell": cell.name, "steps": 5, "field": 0.25}

        monkeypatch.setattr(suites_processes, "_run_cell", run_cell)
        return made

    def test_a_stopped_suite_continues_after_its_last_run(self, made, tmp_path):
        lines = []
        with pytest.raises(TrainingError, match="stopped"):
            suites_processes.run("games", tmp_path, threads=1, small=True, tell=lines.append)
        first = list(made)
        assert [row["cell"] for row in json_lines.read(tmp_path / "runs.jsonl")] == first and len(first) == 2
        expected = [cell.name for cell in suites.get("games", small=True).cells()]
        assert first == expected[:2] and len(expected) == 4
        made.clear()
        for more in (expected[2:], []):
            suites_processes.run("games", tmp_path, threads=1, small=True, tell=lines.append)
            assert made == more
            made.clear()
        assert lines[0] == f"games: 0 of {len(expected)} runs are in {tmp_path}/runs.jsonl."
        assert "norm of the field 0.2500" in lines[1] and lines[1].endswith("left")

    def test_only_the_cells_that_a_pattern_matches_run(self, made, tmp_path):
        suites_processes.run("games", tmp_path, threads=1, small=True, tell=print, only="sign.*seed=[0-1]$")
        expected = [
            cell.name for cell in suites.get("games", small=True).cells() if cell.compressor == suite_parts.SIGN
        ]
        assert made == expected and len(expected) == 2

    @pytest.mark.parametrize("only", ["M=9999", "("])
    def test_a_pattern_without_a_cell_is_refused(self, only):
        with pytest.raises(UsageError, match=r"--only must .*Received: '.*"):
            suites.select(suites.SUITES["games"], only)

    @pytest.mark.parametrize("suite", ["games", "mixture", "cifar10"])
    def test_pictures_are_those_of_seed_0_of_data(self, suite):
        """The child's flag names the file that the page looks for."""
        cell = suites.SUITES[suite].cells()[0]
        drawn = suites_processes._picture(suites.SUITES[suite], cell, pathlib.Path("f"))
        assert drawn == ([] if suite == "games" else [f"--picture=f/{cells.picture(cell)}"])
        assert suites_processes._picture(suites.SUITES[suite], cell._replace(seed=1), pathlib.Path("f")) == []


def steps_of(suite, cell):
    """The number of steps of a run whose problem has 99."""
    return cells.run_config(suite, cell, {"train.steps": 99}).train.steps


@pytest.fixture(scope="module")
def fashion_mnist(data_dir, tmp_path_factory):
    """Flags: the prepared data set, and a folder that keeps the trained judge for the next test."""
    folder = tmp_path_factory.mktemp("fashion_mnist")
    catalogue.prepare("fashion_mnist", str(folder), str(data_dir / "fashion_mnist"))
    return [f"--data_dir={folder}", f"--cache_dir={folder / 'judge'}"]


@pytest.mark.slow
class TestSmall:
    """Processes, compiled steps, rows and page of the small form of a suite."""

    def rows(self, name, tmp_path, *options, published=False):
        suites_processes.run(name, tmp_path, threads=1, small=True, published=published, tell=print, options=options)
        rows = json_lines.read(tmp_path / "runs.jsonl")
        assert [row["cell"] for row in rows] == [cell.name for cell in suites.get(name, small=True).cells()]
        assert {"commit", "hardware", "command", "threads", "seeds", "wall_seconds"} <= rows[0].keys()
        return rows

    def check_page(self, name, tmp_path):
        """Last in a test: where Matplotlib is not installed, the rows are checked all the same."""
        pytest.importorskip("matplotlib", reason="the rows are right; no page, since Matplotlib is not installed")
        method, _ = suites.get(name, small=True).groups[0].rows[0]
        assert f"| {method} | float32 | " in suites_report.write(name, tmp_path)

    def test_games(self, tmp_path):
        """After 32 of 2048 steps sign still follows float32 within the noise of one residual, 5 %."""
        rows = self.rows("games", tmp_path)
        dense, sign = rows[0]["field"], rows[1]["field"]
        assert sign == pytest.approx(dense, rel=0.05) and 0.1 < dense < 2
        assert (len(rows[0]["curve"]["field"]), rows[0]["steps"], rows[0]["sent_bytes_per_step"]) == (2, 32, 800)
        self.check_page("games", tmp_path)

    def test_one_worker_and_two(self, tmp_path):
        """A worker alone sends nothing; after 32 steps from near the zero sign follows float32 within 5 %."""
        rows = self.rows("speedup", tmp_path)
        for dense, sign in (rows[:2], rows[2:4]):
            assert sign["field"] == pytest.approx(dense["field"], rel=0.05)
        assert [row["sent_bytes_per_step"] > 0 for row in rows] == [row["workers"] == 2 for row in rows]
        self.check_page("speedup", tmp_path)
        page = (tmp_path / "README.md").read_text()
        assert "| variant | M = 1 | M = 2 |" in page and "slope of log error in log M" in page

    @pytest.mark.parametrize("name", ["local/games", "local/mixture"])
    def test_local_steps(self, name, tmp_path):
        rows = self.rows(name, tmp_path)
        assert [row["steps"] for row in rows] == [32] * len(rows)
        assert all(0 < row["sent_bytes_per_step"] < rows[0]["sent_bytes_per_step"] for row in rows[1::2])
        assert all(row["spread"] > 0 for row in rows[1::2]) and rows[0]["spread"] == 0
        self.check_page(name, tmp_path)

    def test_mixture(self, tmp_path):
        rows = self.rows("mixture", tmp_path)
        assert "--learning_rate_schedule=linear" in rows[0]["train_command"]
        assert rows[0]["curve"]["step"] == [16, 32]
        assert 0 <= rows[0]["high_quality_fraction_3_sd"] <= rows[0]["high_quality_fraction"] <= 1
        assert len({row["weights_sha256"] for row in rows}) == len(rows)
        assert (tmp_path / cells.picture(cells.parse(rows[0]["cell"]))).stat().st_size > 1000
        self.check_page("mixture", tmp_path)

    @pytest.mark.parametrize("name", ["games", "mixture"])
    def test_processes_have_the_bits_of_replicas(self, name, tmp_path):
        found = []
        for processes in (False, True):
            folder = tmp_path / str(processes)
            suites_processes.run(
                name, folder, threads=1, small=True, processes=processes, only="sign.*seed=0", tell=print
            )
            (row,) = json_lines.read(folder / "runs.jsonl")
            curve = {key: values for key, values in row["curve"].items() if key != "seconds"}
            found.append({"curve": curve} | {key: row.get(key) for key in ("sent_bytes_per_step", "weights_sha256")})
        assert found[0] == found[1] and "--processes" in row["command"].split()

    @pytest.mark.parametrize("name", ["fashion_mnist", "time", "local/fashion_mnist"])
    def test_fashion_mnist(self, name, tmp_path, fashion_mnist):
        """The judge is the small classifier of the data set, trained once; a worker takes 32 images a step."""
        rows = self.rows(name, tmp_path, *fashion_mnist)
        assert rows[0]["num_samples"] == 200 and 0 < rows[1]["frechet_distance"] < 1000
        assert (
            rows[0]["feature_network"] == "small_classifier(fashion_mnist)"
            and rows[0]["feature_network_accuracy"] > 0.85
        )
        assert (
            rows[0]["curve"]["step"] == [16, 32]
            and f"--batch_size={32 * rows[0]['workers']}" in rows[0]["train_command"]
        )
        assert rows[1]["sent_bytes_per_step"] < rows[0]["sent_bytes_per_step"] / 20
        self.check_page(name, tmp_path)

    @pytest.mark.parametrize("name", ["cifar10", "local/cifar10"])
    def test_cifar10(self, name, tmp_path, data_dir):
        network = data_dir / "cifar10_resnet" / "resnet20-12fca82f.npz"
        rows = self.rows(name, tmp_path, f"--data_dir={data_dir / 'tfds'}", f"--feature_network={network}")
        assert rows[0]["feature_network"] == "resnet20" and rows[0]["num_samples"] == 200
        assert rows[0]["frechet_distance"] > 0 and 0 <= rows[0]["precision"] <= 1
        self.check_page(name, tmp_path)

    def test_published_networks(self, tmp_path, data_dir):
        """Loss, width and rates are those of the preset; the rows of 64 channels send 16 times those of 16 and more."""
        network = data_dir / "cifar10_resnet" / "resnet20-12fca82f.npz"
        options = [f"--data_dir={data_dir / 'tfds'}", f"--feature_network={network}"]
        rows = self.rows("cifar10", tmp_path, *options, published=True)
        assert {"--published", "--small"} < set(rows[0]["command"].split())
        assert "--loss=wgan_gp" in rows[0]["train_command"] and "--learning_rate_g=0.0001" in rows[0]["train_command"]
        assert rows[0]["sent_bytes_per_step"] > 4 * 1e6


def row(method, compressor, seed, field, workers=8):
    cell = cells.Cell("nonlinear", method, compressor, workers, "homogeneous", seed)
    curve = {"step": [1, 2], "field": [1.0, field], "seconds": [0.0, 0.5]}
    source = {"commit": "abc", "hardware": "2 cores of X", "threads": 1, "wall_seconds": 3600.0}
    return {
        "step": 2,
        "cell": cell.name,
        "steps": 2,
        **cell._asdict(),
        "field": field,
        "sent_bytes_per_step": 1400,
        "curve": curve,
        "command": f"python -m benchmarks.suites_run --suite=games '--cell={cell.name}'",
        **source,
    }


class TestTables:
    def test_figures_of_images_name_the_network_that_judges(self):
        """Two networks in one figure are both named: their distances are not comparable."""
        rows = [row("dqgan", "none", seed, 0.1) for seed in (0, 1, 2)]
        assert suites_report._title(SUITE, rows) == "norm of the field"
        judged = [one | {"feature_network": name} for one, name in zip(rows, ("b", "a", "b"), strict=True)]
        assert suites_report._title(SUITE, judged) == "norm of the field, a, b"

    def test_means_spreads_and_paired_differences(self):
        """By hand: differences -.01, +.01, +.03 of a mean .2: -5, +5, +15 %; mean 5, sd 10, t_.975,2 = 4.30265."""
        rows = [row("dqgan", "none", seed, value) for seed, value in enumerate([0.1, 0.2, 0.3])]
        rows += [row("dqgan", "sign", seed, value) for seed, value in enumerate([0.09, 0.21, 0.33])]
        rows += [row("dqgan_no_error_feedback", "sign", 0, None), row("dqgan_no_error_feedback", "sign", 1, 0.5)]
        assert suites_report.table(SUITE, rows).splitlines()[2:] == [
            "| dqgan | float32 | 1,400 | 3 | 0.2000 ± 0.1000 |  |",
            "| dqgan | sign | 1,400 | 3 | 0.2100 ± 0.1200 | +5.0 ± 24.8 |",
            "| dqgan_no_error_feedback | sign | 1,400 | 2 | diverges (1 of 2) |  |",
        ]

    def test_many_variants_have_a_figure_for_each_kind_of_compressor(self):
        """Twelve variants share a figure. Of more, each kind has one with float32, or one for each method."""
        rates = [f",learning_rate_g={number}" for number in range(1, 10)]
        rows = [row(f"dqgan{rate}", "sign:bucket=512", 0, 0.1) for rate in rates]
        rows += [row("dqgan", "none", seed, 0.1) for seed in (0, 1)]
        rows += [row("dqgan", "topk:fraction=0.1", 0, 0.1), row("dqgan", "topk:fraction=0.2", 0, 0.1)]
        assert suites_report._pages(rows) == {"dqgan": rows}
        rows += [row("dqgan_residual_out", f"sign:bucket={size}", 0, 0.1) for size in (64, 128, 256)]
        pages = suites_report._pages(rows)
        sizes = {name: len(page) for name, page in pages.items()}
        assert sizes == {"dqgan,sign": 2 + 9 + 3, "dqgan,none": 2, "dqgan,topk": 2 + 2}
        rows.append(row("dqgan_residual_out", "sign:bucket=32", 0, 0.1))
        pages = suites_report._pages(rows)
        sizes = {name: len(page) for name, page in pages.items()}
        assert sizes == {"dqgan,sign": 2 + 9, "dqgan_residual_out,sign": 2 + 4, "dqgan,none": 2, "dqgan,topk": 2 + 2}
        assert all(rows[9] in page and rows[10] in page for page in pages.values())

    def test_many_methods_have_a_figure_against_bytes_for_each_family(self):
        """Twenty methods share a figure. Of more, each has one with all its changes and the float32 reference; the
        reference of another length, alone, has none.
        """
        rows = [row("dqgan", "none", seed, 0.1) for seed in (0, 1)]
        rows += [row(f"dqgan,learning_rate_g={number}", "sign:bucket=512", 0, 0.1) for number in range(1, 19)]
        rows += [row("dqgan_residual_out", name, 0, 0.1) for name in ("none", "sign:bucket=512")]
        assert suites_report._families(rows) == {(): rows}
        rows.append(row("dqgan_residual_out,steps=2000", "sign:bucket=512", 0, 0.1))
        rows.append(row("dqgan,steps=2000", "none", 0, 0.1))
        assert suites_report._families(rows) == {
            ("dqgan",): rows[:20],
            ("dqgan_residual_out",): rows[:2] + rows[20:22],
            ("dqgan_residual_out", "steps=2000"): [rows[23], rows[22]],
        }

    def test_seeds_are_paired(self):
        """Rows of other seeds than the reference's do not count."""
        rows = [row("dqgan", "none", 1, 0.2), row("dqgan", "sign", 0, 9.0), row("dqgan", "sign", 1, 0.3)]
        assert suites_report.table(SUITE, rows).splitlines()[3].endswith("| +50.0 |")

    def test_runs_that_other_weights_judge_are_not_compared(self):
        """The small classifier has other weights on another processor: its distances are others."""
        weights = [{"feature_network_sha256": text} for text in ("a" * 64, "b" * 64)]
        rows = [row("dqgan", "none", 0, 0.2) | weights[0], row("dqgan", "none", 1, 0.2) | weights[1]]
        rows += [row("dqgan", "sign", 0, 9.0) | weights[1], row("dqgan", "sign", 1, 0.3) | weights[1]]
        assert suites_report.table(SUITE, rows).splitlines()[3].endswith("| +50.0 |")
        judge = {"feature_network": "small", "feature_network_accuracy": 0.9114}
        assert suites_report._judge("small", [one | judge for one in rows]) == (
            "small (91.1% of held-out images named right), weights bbbbbbbb for 3 runs, aaaaaaaa for 1 runs; a "
            "difference is of runs that the same weights judge, a mean is of all"
        )

    def test_different_data_are_compared_with_equal_data_at_the_same_rate(self):
        """Where there is no such run, with that at the rates of the suite: .3 against .2 and .1, .3 against .1."""
        fast, other = (f",learning_rate_g={value}" for value in (0.5, 0.7))
        equal = [row("dqgan_adam", "none", 0, 0.1), row(f"dqgan_adam{fast}", "none", 0, 0.2)]
        rows = [row(f"cpoadam{rates}", "sign", 0, 0.3) for rates in ("", fast, other)]
        lines = suites_report.table(SUITE, rows, suites_report._exact(equal + [row("dqgan_adam", "sign", 0, 9)]))
        assert [line.split("|")[-2].strip() for line in lines.splitlines()[2:]] == ["+200.0", "+50.0", "+200.0"]

    def test_the_interval_is_that_of_student(self):
        """Tabulated t_.975,4 = 2.776445; sd of 1..5 is sqrt(2.5)."""
        mean, half = suites_report.paired_interval([1, 2, 3, 4, 5])
        assert mean == 3 and half == pytest.approx(2.776445 * np.sqrt(2.5 / 5), rel=1e-4)

    def test_a_slope(self):
        """.4 / sqrt(M) in one seed, .4 / M in the other: -1/2 and -1; half width 12.706 sd / sqrt(2)."""
        rows = [row("dqgan", "none", 0, 0.4 / m**0.5, m) for m in (1, 4, 16)]
        assert suites_report.slope(rows, "field") == pytest.approx((-0.5,))
        rows += [row("dqgan", "none", 1, 0.4 / m, m) for m in (1, 4, 16)]
        sd = 0.5 / np.sqrt(2)
        assert suites_report.slope(rows, "field") == pytest.approx((-0.75, 12.7062 * sd / np.sqrt(2)), rel=1e-4)

    def test_steps_to_an_error(self):
        """By hand: runs are there at step 2, 1 or 4, so means are 1.5 and 3; one that diverged never is."""
        runs = [row("dqgan", "none", seed, value) for seed, value in enumerate([0.3, 0.2, None])]
        assert suites_report.steps_to(runs[:1], "field", 0.3) == "2"
        early = runs[1] | {"curve": {"step": [1, 2], "field": [0.25, 0.2]}}
        assert suites_report.steps_to([runs[0], early], "field", 0.3) == "2"
        assert suites_report.steps_to([runs[0], early | {"curve": {"step": [4], "field": [0.1]}}], "field", 0.3) == "3"
        assert suites_report.steps_to(runs, "field", 0.3) == "not reached"
        assert suites_report.steps_to([], "field", 0.3) == ""

    def test_the_time_to_a_quality(self, tmp_path, monkeypatch):
        """By hand: 1024 steps of 1.8 s are .512 hours; sign has float32's 20 at 512 steps of .18 s, 20 times sooner."""
        pytest.importorskip("matplotlib", reason="Matplotlib is not installed")
        suite = suites.SUITES["time"]
        curves = {
            ("dqgan_adam", "none"): [30, 20],
            ("dqgan_adam", suite_parts.SIGN): [20.9, 19],
            ("dqgan_adam,local_steps=8", suite_parts.SIGN): [40, 21.5],
            ("dqgan_adam", "fp16"): [1, 1],
        }
        rows = []
        for (method, spec), values in curves.items():
            curve = {"step": [512, 1024], "seconds": [0, 1], suite.figures[0].key: values}
            rows.append(row(method, spec, 0, 0) | {"curve": curve})
        times = {"none@auto@4": [1800, 1900, 10], "sign:bucket=512@auto@4": [180], "sign:bucket=512@auto@4/K=8": [90]}
        times |= {"float32": [5000], "alone": [1]}
        fixed = {"step": 2, "rate": "20mbit", "workers": 2}
        first = [fixed | {"variant": name, "samples": samples} for name, samples in times.items()]
        slow = {"variant": "none@auto@4", "samples": [9e5]}
        second = [fixed | slow, fixed | slow | {"workers": 4}, fixed | slow | {"rate": "1gbit", "samples": [900]}]
        monkeypatch.setattr(suites_report, "LINKS", (tmp_path / "first.jsonl", tmp_path / "second.jsonl"))
        for path, links in zip(suites_report.LINKS, (first, second), strict=True):
            path.write_text("".join(json.dumps(one) + "\n" for one in links))
        lines = suites_report._time(suite, rows, tmp_path).splitlines()
        assert lines[4:8] == [
            "| 20mbit | float32 | 1800.0 | 0.512 | 0.512 | 1.0 |",
            f"| 20mbit | {suite_parts.SIGN} | 180.0 | 0.051 | 0.026 | 20.0 |",
            f"| 20mbit | {suite_parts.SIGN}, local_steps=8 | 90.0 | 0.026 | not reached |  |",
            "| 1gbit | float32 | 900.0 | 0.256 | 0.256 | 1.0 |",
        ]
        assert (tmp_path / "quality_against_time.png").stat().st_size > 1000

    def test_a_page(self, tmp_path):
        pytest.importorskip("matplotlib", reason="Matplotlib is not installed")
        rows = [row("dqgan", spec, seed, 0.1 + seed) for spec in ("none", "sign") for seed in (0, 1)]
        (tmp_path / "runs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
        text = suites_report.write("games", tmp_path)
        assert text == (tmp_path / "README.md").read_text()
        assert "4 runs, seeds 0, 1, 4.0 hours; 2 cores of X, threads of a run: 1; commit abc." in text
        picture = tmp_path / "nonlinear_8_homogeneous_dqgan.png"
        before = picture.read_bytes()
        suites_report.write("games", tmp_path)
        assert f"]({picture.name})" in text and picture.read_bytes() == before

    def test_the_source_of_runs(self):
        """The judge has its accuracy; a command that names another cell is explained."""
        judge = {"feature_network": "small", "feature_network_accuracy": 0.9114}
        first, second = row("dqgan", "none", 0, 0.1) | judge, row("dqgan", "none", 1, 0.1)
        text = suites_report._source([first, second])
        assert text.endswith(
            "own command. Feature network of the image figures: small (91.1% of held-out images named right)."
        )
        other = suites_report._source([first, second | {"command": first["command"]}])
        assert "Where the command names a cell without rates" in other

    def test_sections(self):
        """With equal data, another rate is another section; with different data it stays in the name."""
        fast = ",learning_rate_g=0.5,learning_rate_d=0.7"
        rows = [row("dqgan_adam,local_steps=4" + fast, "none", 0, 0.1), row("cpoadam" + fast, "none", 0, 0.1)]
        rows[1] |= {"shards": "by_class"}
        rate = ("learning_rate_g=0.5", "learning_rate_d=0.7")
        found = {place: [one["method"] for one in of] for place, of in suites_report._sections(rows).items()}
        assert found == {
            ("nonlinear", 8, "homogeneous", rate): ["dqgan_adam,local_steps=4"],
            ("nonlinear", 8, "by_class", ()): ["cpoadam" + fast],
        }

    def test_rows_have_the_order_of_the_suite(self, tmp_path):
        """By variant, then by seed; what the suite no longer has comes last."""
        rows = [row(*one, 0.1) for one in (("dqgan", "unknown", 0), ("cpoadam", "none", 0), ("dqgan", "none", 4))]
        rows.append(row("dqgan", "none", 0, 0.1))
        (tmp_path / "runs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
        assert suites_report._recorded("games", tmp_path) == [rows[3], rows[2], rows[1], rows[0]]

    def test_ends_leave_out_what_diverged(self):
        """The names of compressors without their buckets; percent of a share; all seeds."""
        end = {"high_quality_fraction_3_sd": 0.5, "sent_bytes_per_step": 10}
        rows = [row("dqgan_adam", suite_parts.NONE, 0, 0) | end, row("dqgan_adam", suite_parts.FOUR_BIT, 0, 0) | end]
        rows += [row("dqgan_adam", suite_parts.FOUR_BIT, 1, 0) | end | {"high_quality_fraction_3_sd": 0.25}]
        rows += [row("cpoadam", suite_parts.NONE, 0, 0) | end | {"high_quality_fraction_3_sd": None}]
        assert suites_report._ends(suites.SUITES["mixture"], rows) == {
            "dqgan_adam": [("float32", 10, [50.0]), ("linear:bits=4", 10, [50.0, 25.0])]
        }

    def test_pictures_of_seed_0_stand_side_by_side(self, tmp_path):
        pytest.importorskip("matplotlib", reason="Matplotlib is not installed")
        rows = [row("dqgan", spec, seed, 0.1) for spec in ("none", "sign", "ternary") for seed in (0, 1)]
        (tmp_path / "samples").mkdir()
        for one in rows[:4]:
            cell = cells.parse(one["cell"])
            pictures.write_png(tmp_path / cells.picture(cell), np.full((8, 8, 3), 255 * cell.seed, np.uint8))
        assert len(suites_report._pictures(rows, tmp_path, "all.png")) == 1
        first = (tmp_path / "all.png").read_bytes()
        assert suites_report._pictures(rows[:1], tmp_path, "all.png") and (tmp_path / "all.png").read_bytes() != first
        assert suites_report._pictures(rows[4:], tmp_path, "all.png") == []

    def test_no_runs(self, tmp_path):
        with pytest.raises(UsageError, match="holds no runs: `python -m trainers.compare --suite=speedup` makes them"):
            suites_report.write("speedup", tmp_path)


class TestGames:
    @pytest.mark.parametrize("name", games.GAMES)
    @pytest.mark.parametrize("shards", games.SHARDS)
    def test_gradients_are_the_field_with_noise_and_constants(self, name, shards):
        """float32 sums of at most 100 products: relative error far below 1e-4."""
        game = games.GAMES[name]
        instance, d = games.Instance(game, "sgd", 3, shards, seed=4), game.dimension
        layers = [games._Strategies(instance, is_generator) for is_generator in (True, False)]
        for layer in layers:
            layer.build(None)
        latent = np.random.default_rng(5).standard_normal((1, 2 * d)).astype(np.float32)
        point = np.random.default_rng(6).standard_normal(2 * d).astype(np.float32)
        evaluation = simultaneous_gradients(
            *layers,
            games._ZERO_SUM,
            ([tf.constant(point[:d])], [tf.constant(point[d:])]),
            ([], []),
            tf.zeros([1, 2 * d + 1]),
            tf.constant(latent),
            None,
        )
        gradient = np.concatenate([gradients[0].numpy() for gradients in evaluation.gradients])
        expected = instance.field(point) + game.noise * latent[0] + instance.constants[0]
        np.testing.assert_allclose(gradient, expected, atol=1e-4)
        assert np.any(instance.constants) == (shards == "heterogeneous")
        np.testing.assert_allclose(instance.constants.mean(axis=0), 0, atol=1e-12)

    def test_the_field_by_hand(self):
        """d = 1 with A = [[a]]: F = (a y + .2 sin 3x, -a x + .2 sin 3y)."""
        game = games.Game(1, 0.2, 0.0, 0.0, {"sgd": 1.0}, 1, {})
        instance = games.Instance(game, "sgd", 1, "homogeneous", 0)
        a, x, y = instance.matrix[0, 0], 0.3, -0.7
        np.testing.assert_allclose(
            instance.field([x, y]), [a * y + 0.2 * np.sin(0.9), -a * x + 0.2 * np.sin(-2.1)], rtol=1e-12
        )


@pytest.mark.parametrize("name", [name for name in suites.SUITES if suites.SUITES[name].kind == cells.DATA])
def test_the_name_of_a_recorded_run_says_what_ran(name):
    """A setting in the name of a cell wins over that of the suite: the recorded command has it."""
    path = ROOT / "results" / name / "runs.jsonl"
    if not path.exists():
        pytest.skip(f"{path.relative_to(ROOT)} is not recorded")
    for row in json_lines.read(path):
        cell = cells.parse(row["cell"])
        config = cells.run_config(suites.SUITES[name], cell, cells.preset(cell.problem))
        assert cells.train_command(config) == row["train_command"], row["cell"]


def test_a_setting_of_a_method_wins_over_that_of_the_suite():
    cell = cells.parse("fashion_mnist/dqgan_adam,learning_rate_g=0.0007/none/M=2/iid/seed=0")
    suite = suites.SUITES["fashion_mnist"]
    optimizer = cells.run_config(suite, cell, cells.preset(cell.problem)).optimizer
    assert (optimizer.learning_rate_g, optimizer.learning_rate_d) == (0.0007, 8e-4)
