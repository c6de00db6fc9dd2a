"""System: the plan of the runs, and one run on small data. By hand and against scipy: the report."""

import gzip
import json

import numpy as np
import pytest
import scipy.stats

import dqgan_tf
from benchmarks import figures, keras_quality
from benchmarks.keras_quality import GRID, GRID_SEED, SEEDS, Run
from dqgan_tf.errors import UsageError


def row(run, loss=1.0):
    figures_ = {"validation_accuracy": 1 - loss if loss else 0.1, "training_losses": [9.0, 0.5], "sent_bytes": 1234.0}
    texts = {"command": "python -m x", "commit": "abc", "hardware": "2 cores of X"}
    return run._asdict() | {"step": 1, "validation_loss": loss} | figures_ | texts


def test_first_the_grid_of_learning_rates_then_seed_by_seed():
    grid = keras_quality.plan([])
    assert {run.seed for run in grid} == {GRID_SEED} and len(grid) == sum(map(len, GRID.values()))
    losses = {0.03: 0.5, 0.1: None, 0.003: 0.25}  # None: the loss was not finite
    rows = [row(run, losses.get(run.rate, 0.75)) for run in grid]
    assert keras_quality.plan(rows[:-1]) == grid  # the last one decides, too
    runs = keras_quality.plan(rows)[len(grid) :]
    assert {run.optimizer: run.rate for run in runs} == {"sgd": 0.03, "adam": 0.003}
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert len(set(runs)) == len(runs) == len(SEEDS) * 2 * 19
    assert Run("adam", "topk:fraction=0.01", "update", True, "all_gather", 0.003, 1) in runs
    assert Run("sgd", "sign:bucket=512", "update", True, "two_step@linear:bits=4,bucket=512", 0.03, 0) in runs
    assert Run("adam", "sign:bucket=512", "gradient", False, "auto", 0.003, 2) in runs


def test_a_row_names_its_run():
    run = Run("sgd", "sign:bucket=512", "update", True, "all_gather", 0.1, 2)
    assert keras_quality.key(row(run)) == run
    first_rows = {name: value for name, value in row(run).items() if name != "topology"}
    assert keras_quality.key(first_rows) == run._replace(topology="auto")


@pytest.fixture
def folder(tmp_path):
    """Rows of the grid, of float32 and of two compressors; `update` is worse by .25, .5 and .75 or not finite."""
    rows = [row(run, 0.5) for run in keras_quality.plan([])]
    for run in keras_quality.plan(rows)[len(rows) :]:
        place = 0.25 * (run.seed + 1) if run.where == "update" else 0.0
        if run.topology != "auto":
            continue
        if run.compressor in ("none", "sign:bucket=512") and run.error_feedback:
            rows.append(row(run, 0.125 + place))
        elif run.compressor == "topk:fraction=0.01":
            rows.append(row(run, None if place else 0.25))
    (tmp_path / "cifar10.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_the_interval_is_that_of_student(folder):
    by_seed = lambda losses: {seed: {"loss": loss} for seed, loss in enumerate(losses)}  # noqa: E731
    random = np.random.default_rng(1)
    for n in (2, 3, 4, 5, 6):
        a, b = random.standard_normal((2, n))
        ours = keras_quality.difference(by_seed(a), by_seed(b), "loss")
        interval = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
        np.testing.assert_allclose(ours.mean, np.mean(a - b))
        np.testing.assert_allclose([ours.mean - ours.half_width, ours.mean + ours.half_width], interval, rtol=1e-3)
    assert keras_quality.difference(by_seed([2.0]), by_seed([1.5]), "loss").text() == "+0.5000"
    assert keras_quality.difference(by_seed([2.0, None]), by_seed([1.5, 1.5]), "loss") is None


def test_the_tables(folder):
    lines = keras_quality.tables(folder).splitlines()
    assert "300 steps of 4 replicas x 16 samples; runs: 12 of seed 0, 12 of seed 1, 12 of seed 2;" in lines[2]
    loss, accuracy = "+0.5000 ± 0.6210", "-50.00 ± 62.10"  # 4.30265 * .25 / sqrt(3)
    assert lines.count(f"| sign:bucket=512 | {loss} | {accuracy} |") == len(GRID)
    assert lines.count("| topk:fraction=0.01 | diverged | -65.00 ± 0.00 |") == len(GRID)
    update = "| sign:bucket=512 | update | 1,234 | 0.6250 (0.3750 to 0.8750) | 37.50 (12.50 to 62.50) "
    assert lines.count(f"{update}| 0.5000 (0.5000 to 0.5000) | 3 | {loss} | {accuracy} |") == len(GRID)


def test_the_figure_is_drawn(folder):
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed")
    figures.loss_by_place(keras_quality.points(folder), folder / "a.png")
    assert (folder / "a.png").stat().st_size > 10_000


def test_a_folder_without_rows_is_refused(tmp_path):
    with pytest.raises(UsageError, match="fashion_mnist.jsonl or cifar10.jsonl"):
        keras_quality.tables(tmp_path)


def test_the_files_of_fashion_mnist(tmp_path):
    folder = tmp_path / "fashion_mnist"
    folder.mkdir()
    images, labels = np.arange(3 * 784, dtype=np.uint8).reshape(3, 28, 28), np.array([7, 0, 9], np.uint8)
    for split in ("train", "t10k"):  # big-endian heads: magic number, sizes
        for name, head, array in (("images-idx3", [2051, 3, 28, 28], images), ("labels-idx1", [2049, 3], labels)):
            with gzip.open(folder / f"{split}-{name}-ubyte.gz", "wb") as file:
                file.write(np.array(head, ">i4").tobytes() + array.tobytes())
    for read, expected in zip(keras_quality.load_fashion_mnist(tmp_path), [images, labels] * 2, strict=True):
        np.testing.assert_array_equal(read, expected)


def test_resnet_20_has_20_layers_and_the_weights_of_the_paper():
    network = keras_quality.resnet20()
    counted = [layer for layer in network.layers if "conv" in layer.name or "dense" in layer.name]
    assert len(counted) == 20 + 2  # two projections beside the 20
    # He et al. 2015 state 0.27 M: 16 * 27, then per stage its 3 x 3 kernels, projections, 10 classes, batch norms.
    kernels = 16 * 27 + 6 * 16 * 16 * 9 + (16 * 32 + 5 * 32 * 32) * 9 + (32 * 64 + 5 * 64 * 64) * 9
    others = 16 * 32 + 32 * 64 + 650 + 2 * (7 * 16 + 7 * 32 + 7 * 64)
    assert sum(np.prod(w.shape) for w in network.trainable_weights) == kernels + others == 272_474


@pytest.fixture(scope="module")
def trained():
    strategy = dqgan_tf.CompressedStrategy(replicas_per_worker=4)
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 1280 + 1000)
    x = random.integers(0, 64, (len(y), 28, 28)).astype(np.uint8)
    x[y == 1, :14] += 128  # class 1 has a bright upper half, class 0 a bright lower half
    x[y == 0, 14:] += 128
    arrays = (x[:1280], y[:1280], x[1280:], y[1280:])
    task = keras_quality.TASKS["fashion_mnist"]._replace(steps=10)
    run = Run("adam", "sign:bucket=512", "update", True, "auto", 0.003, 0)
    yield [keras_quality.train(strategy, task, arrays, r) for r in (run, run._replace(compressor="none"))]
    strategy.close()


@pytest.mark.slow
def test_a_run_trains_and_its_row_tells_which_run_it_was(trained):
    sign, _ = trained
    assert keras_quality.key(sign) == Run("adam", "sign:bucket=512", "update", True, "auto", 0.003, 0)
    assert sign["validation_accuracy"] > 0.9 and len(sign["training_losses"]) == 10 and sign["skipped"] == 0
    assert sign["training_losses"][-1] < sign["training_losses"][0]


@pytest.mark.slow
def test_the_bytes_and_the_error_are_those_of_the_compressor(trained):
    sign, none = trained
    weights = 784 * 512 + 512 + 512 * 256 + 256 + 2570
    assert sign["weights"] == weights == 535_818
    assert none["wire_bytes"] == 4 * weights and none["compression_error"] == 0
    buckets = 4 * -(-weights // 2048)  # two-step exchange: each of 4 owners averages equally many
    assert sign["wire_bytes"] == buckets * (64 + 4) and 0.2 < sign["compression_error"] < 1
