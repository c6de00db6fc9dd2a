"""The chief's files: on a full disk nothing is raised and `failure` says why; a picture that fails ends nothing."""

import pathlib
import re
import resource
import signal
import types

import numpy as np
import pytest
import tensorflow as tf

from dqgan_tf import data
from dqgan_tf.config import DataConfig, RunConfig
from dqgan_tf.gan.model import DQGAN
from dqgan_tf.telemetry import json_lines, pictures
from dqgan_tf.training.reporter import Reporter

FIGURES = {
    "milliseconds/encode": 1.0,
    "milliseconds/decode": 1.0,
    "generator_loss": 0.5,
    "discriminator_loss": 0.5,
    "residual_ratio/generator": 0.1,
    "residual_ratio/discriminator": 0.1,
}
SUMMARY = {
    "modes": 8,
    "num_modes": 8,
    "high_quality_fraction": 0.9,
    "sent_bytes_per_step": 10,
    "dense_sent_bytes_per_step": 80,
    "milliseconds_per_step": 1.0,
    "steps_per_second": 1000.0,
    "peak_memory_mib": 500.0,
    "skipped": 0,
    "weights_sha256": "0" * 1000,
}


class Model:
    """Draws one point again and again."""

    seed, latent_dim, local_value = 0, 2, staticmethod(DQGAN.local_value)
    bytes_per_step = staticmethod(lambda: {"dense_sent_bytes": 80, "sent_bytes": 10})

    def generate(self, latent, use_ema=True):
        return np.ones((500, 2), np.float32) * latent[:1]


def make_reporter(folder, is_chief=True):
    spec = data.describe(DataConfig("gaussian_ring"))
    strategy = types.SimpleNamespace(is_chief=is_chief)
    job = types.SimpleNamespace(config=RunConfig(str(folder)), strategy=strategy, data_spec=spec, model=Model())
    return Reporter(job, 0)


@pytest.fixture
def full(monkeypatch, tmp_path):
    """Makes the system refuse files beyond so many bytes, as a full disk would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)
    # TensorFlow 2.21 leaves a writer that could not flush as the default one, also for the tests after this one: give
    # them one that works.
    tf.summary.create_file_writer(str(tmp_path / "default")).set_as_default()


WRITES = {
    "metrics": lambda reporter: reporter.log(10, FIGURES),
    "pictures": lambda reporter: reporter.sample(10),
    "summary": lambda reporter: reporter.finish(10, SUMMARY),
}


@pytest.mark.parametrize("name", ["metrics", "summary"])
def test_what_cannot_be_written_is_recorded(full, tmp_path, name):
    reporter = make_reporter(tmp_path)
    assert reporter.failure == ""
    full(100)
    WRITES[name](reporter)
    assert "File too large" in reporter.failure
    reporter.close()


def test_the_first_reason_stays(full, tmp_path):
    reporter = make_reporter(tmp_path)
    reporter.failure = "of before"
    full(100)
    reporter.log(10, FIGURES)
    assert reporter.failure == "of before"


def test_a_picture_that_cannot_be_written_is_reported_once(full, tmp_path, capsys):
    reporter = make_reporter(tmp_path)
    full(100)
    reporter.sample(10)
    reporter.sample(20)
    full(resource.RLIM_INFINITY)
    reporter.sample(30)
    error = capsys.readouterr().err
    assert error == "The run goes on without the pictures of step 10: [Errno 27] File too large\n"
    assert reporter.failure == ""
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"raw_00000030.png", "ema_00000030.png"}


def test_a_picture_that_cannot_be_drawn_is_reported_once_with_its_place(tmp_path, capsys):
    reporter = make_reporter(tmp_path)
    reporter._job.data_spec = data.DataSpec("volumes", (4, 4, 4, 1), 10, "volumes")
    reporter.sample(10)
    reporter.sample(20)
    reporter.log(20, FIGURES)
    error = capsys.readouterr().err
    assert error.count("ValueError: `images` must have shape") == error.count("Traceback") == 1
    assert "pictures.py" in error and "step 20/" in error
    assert reporter.failure == ""


def test_all_is_well(tmp_path, capsys):
    reporter = make_reporter(tmp_path)
    for write in WRITES.values():
        write(reporter)
    reporter.close()
    assert reporter.failure == ""
    entries = json_lines.read(tmp_path / "metrics.jsonl")
    assert [entry["step"] for entry in entries] == [10, 10]
    assert entries[1] == {"step": 10, "modes": 8, "num_modes": 8, "high_quality_fraction": 0.9}
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"raw_00000010.png", "ema_00000010.png"}
    assert "8 of 8" in capsys.readouterr().out


class Evaluator:
    """Returns the same figures, or fails `failures` times."""

    def __init__(self, failures=0):
        self.failures = failures

    def evaluate(self, model):
        self.failures -= 1
        if self.failures >= 0:
            raise ArithmeticError("no square root")
        return {"frechet_distance(resnet20,n=70)": 1.5, "feature_network": "resnet20", "generator": "averaged"}


def test_an_evaluation_stands_beside_the_training_curves(tmp_path):
    reporter = make_reporter(tmp_path)
    figures = reporter.evaluate(10, Evaluator())
    reporter.close()
    assert figures == Evaluator().evaluate(None)
    assert json_lines.read(tmp_path / "metrics.jsonl") == [{"step": 10, **figures}]
    (events,) = (tmp_path / "tensorboard").iterdir()
    shown = {v.tag for e in tf.compat.v1.train.summary_iterator(str(events)) if e.step == 10 for v in e.summary.value}
    assert shown == {"evaluation/frechet_distance(resnet20,n=70)"}


def test_an_evaluation_that_fails_is_reported_once_and_ends_nothing(tmp_path, capsys):
    reporter, evaluator = make_reporter(tmp_path), Evaluator(failures=2)
    assert [reporter.evaluate(step, evaluator) for step in (10, 20)] == [{}, {}]
    assert reporter.evaluate(30, evaluator)
    error = capsys.readouterr().err
    assert error.startswith("The run goes on without the evaluation of step 10: Traceback")
    assert error.count("The run goes on") == 1 and "ArithmeticError: no square root" in error
    assert reporter.failure == "" and [entry["step"] for entry in json_lines.read(tmp_path / "metrics.jsonl")] == [30]


def test_a_run_on_images_has_no_evaluation(tmp_path):
    reporter = make_reporter(tmp_path)
    reporter.finish(
        10, {name: value for name, value in SUMMARY.items() if "modes" not in name and "quality" not in name}
    )
    reporter.close()
    assert json_lines.read(tmp_path / "metrics.jsonl") == []


def test_the_documents_name_every_figure_and_its_place_in_tensorboard(tmp_path, two):
    """docs/operations.md against the figures of a real model, as the loop completes them."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    table = text.partition("| name | TensorBoard | unit | meaning |")[2].partition("\n\n")[0]
    documented = {}
    for row in table.splitlines()[2:]:
        names, prefix = row.split("|")[1:3]
        for name in re.findall("`(.*?)`", names):
            for player in ("generator", "discriminator") if "{p}" in name else ("",):
                documented[name.format(p=player)] = prefix.strip(" `") + name.format(p=player)
    reporter = make_reporter(tmp_path)
    reporter.log(10, two[1].drain_metrics() | {"skipped": 0, "sent_bytes_per_step": 1.0})
    reporter.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    tags = [v.tag for e in tf.compat.v1.train.summary_iterator(str(events)) if e.step == 10 for v in e.summary.value]
    assert sorted(tags) == sorted(documented.values())
    assert set(json_lines.read(tmp_path / "metrics.jsonl")[0]) == {"step", *documented}


def test_the_first_picture_is_next_to_real_samples(tmp_path):
    reporter = make_reporter(tmp_path)
    points = np.random.default_rng(0).standard_normal((4000, 2)).astype(np.float32)
    reporter.sample(0, tf.data.Dataset.from_tensor_slices(points).batch(48))
    reporter.sample(10)
    reporter.close()
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {
        *("raw_00000000.png", "ema_00000000.png", "real_00000000.png", "raw_00000010.png", "ema_00000010.png")
    }
    (events,) = (tmp_path / "tensorboard").iterdir()
    tags = [v.tag for e in tf.compat.v1.train.summary_iterator(str(events)) for v in e.summary.value]
    assert [tag for tag in tags if "real" in tag] == ["samples/real"]
    drawn = tf.io.decode_png((tmp_path / "samples" / "real_00000000.png").read_bytes())
    spec = data.describe(DataConfig("gaussian_ring"))
    np.testing.assert_array_equal(drawn, pictures.scatter(points[:2048], spec.modes))


def test_the_progress_line_is_one_line_of_a_terminal(tmp_path, capsys):
    reporter = make_reporter(tmp_path)
    reporter.log(1000, FIGURES)
    line = capsys.readouterr().err
    assert len(line) < 82 and line.count("\n") == 1
    assert "loss G 0.500 D 0.500  |e|/|p| 0.10 0.10" in line and line.startswith("step 1000/4000  ")


def test_only_the_chief_writes(tmp_path, capsys):
    reporter = make_reporter(tmp_path, is_chief=False)
    for write in WRITES.values():
        write(reporter)
    reporter.close()
    assert not list(tmp_path.iterdir()) and capsys.readouterr() == ("", "")
