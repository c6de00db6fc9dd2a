"""The chief's files: on a full disk nothing is raised and `failure` says why; a picture that fails ends nothing."""

import json
import pathlib
import re
import resource
import signal
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from dqgan_tf import data
from dqgan_tf.config import (
    FREE_FIELDS,
    CompressionConfig,
    DataConfig,
    EvaluationConfig,
    LossConfig,
    OptimizerConfig,
    RunConfig,
)
from dqgan_tf.evaluation import features
from dqgan_tf.gan.model import DQGAN
from dqgan_tf.telemetry import json_lines, pictures, tensorboard
from dqgan_tf.training import evaluation
from dqgan_tf.training import reporter as reporter_lib
from dqgan_tf.training.reporter import Reporter

CONSTANT = {
    **{"wire_bytes": 10.0, "compression_ratio": 8.0, "sent_bytes_per_step": 10.0},
    **{f"{name}/{p}": 0.0 for name in ("learning_rate", "shift_ratio") for p in ("generator", "discriminator")},
}
FIGURES = CONSTANT | {
    "milliseconds/encode": 1.0,
    "milliseconds/decode": 1.0,
    "generator_loss": 0.5,
    "discriminator_loss": 0.5,
    "residual_ratio/generator": 0.1,
    "residual_ratio/discriminator": 0.1,
}
RING = data.describe(DataConfig("gaussian_ring"))
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
    spans = np.array([[0, 0.0, 0.5], [1, 0.25, 1.0]])  # see `pipeline.reduce_packets`
    channel = types.SimpleNamespace(
        topology="two_step", spans=types.SimpleNamespace(variables=[types.SimpleNamespace(numpy=lambda: Model.spans)])
    )
    discriminator = types.SimpleNamespace(layers=[object(), types.SimpleNamespace(units=128)])
    bytes_per_step = staticmethod(lambda: {"dense_sent_bytes": 80, "sent_bytes": 10, "wire_bytes": 5})

    def generate(self, latent, use_ema=True):
        return np.ones((500, 2), np.float32) * latent[:1]


def make_job(folder, is_chief=True, config=None, spec=None):
    spec = spec or RING
    strategy = types.SimpleNamespace(
        is_chief=is_chief, num_workers=2, num_replicas_in_sync=2, transport_of=lambda name: f"for {name}"
    )
    config = config or RunConfig(str(folder))
    return types.SimpleNamespace(config=config, strategy=strategy, data_spec=spec, model=Model())


def make_reporter(folder, is_chief=True, config=None):
    return Reporter(make_job(folder, is_chief, config), 0)


def events(folder):
    """All values that TensorBoard reads, as (step, value)."""
    (path,) = (folder / "tensorboard").iterdir()
    read = tf.compat.v1.train.summary_iterator(str(path))
    return [(event.step, value) for event in read for value in event.summary.value]


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


@pytest.mark.parametrize("start", [0, 10])
def test_a_new_run_is_not_finished(tmp_path, start):
    """Its folder may have the summary of a run whose checkpoints were removed."""
    (tmp_path / "summary.json").write_text('{"steps": 20}')
    Reporter(make_job(tmp_path), start).close()
    assert (tmp_path / "summary.json").exists() == (start > 0)


def test_what_a_step_has_already(tmp_path):
    config = RunConfig(str(tmp_path), evaluation=EvaluationConfig(eval_samples=70))
    job = make_job(tmp_path, config=config)
    reporter = Reporter(job, 0)
    assert not reporter.has_pictures(10) and reporter.recorded_evaluation(10) == {}
    reporter.sample(10)
    reporter.evaluate(10, OfPoints())
    reporter.close()
    again = Reporter(job, 10)
    assert again.has_pictures(10) and not again.has_pictures(20)
    assert again.recorded_evaluation(10) == {"step": 10} | OfPoints().evaluate(None)
    assert again.recorded_evaluation(20) == {}
    again.close()
    before = Reporter(job, 9)  # a run that was resumed before it
    assert before.recorded_evaluation(10) == {}
    before.close()


IMAGES = data.DataSpec("images", (4, 4, 1), 10, "x")
NAMES = {"points": "modes_found", "small_classifier": "recall(small_classifier(x),n=7)", "file": "recall(resnet8,n=7)"}


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("points", {"num_fake": 3}),
        ("points", {"generator": "raw"}),
        ("small_classifier", {"num_fake": 3}),
        ("small_classifier", {"feature_network": "resnet20"}),
        ("file", {"num_fake": 3}),
        ("file", {"feature_network_sha256": "of another file"}),
    ],
)
def test_an_evaluation_of_the_user_is_none_of_the_run(tmp_path, kind, other):
    """`trainers.evaluate` with other flags than the run's, before or after the evaluation of the run."""
    weights, settings = tmp_path / "resnet8.npz", {"eval_samples": 7}
    weights.write_bytes(b"weights")
    own = {"step": 10, NAMES[kind]: 0.5, "num_fake": 7, "generator": "averaged"}
    if kind == "small_classifier":
        own |= {"feature_network": "small_classifier(x)", "feature_network_sha256": "0"}
    if kind == "file":
        own |= {"feature_network": "resnet8", "feature_network_sha256": features.file_fingerprint(str(weights))}
        settings["feature_network"] = str(weights)
    config = RunConfig(str(tmp_path), evaluation=EvaluationConfig(**settings))
    job = make_job(tmp_path, config=config, spec=RING if kind == "points" else IMAGES)
    for lines, expected in (([own, own | other], own), ([own | other, own], own), ([own | other], {})):
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        reporter = Reporter(job, 10)
        assert reporter.recorded_evaluation(10) == expected
        reporter.close()


@pytest.mark.parametrize("kind", ["points", "small_classifier", "file", "folder"])
def test_what_the_evaluator_of_a_run_writes_is_of_the_run(tmp_path, kind):
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal(shape) / 9 for name, shape in features._resnet_shapes(1).items()}
    np.savez(tmp_path / "resnet.npz", **{name: np.abs(array).astype(np.float32) for name, array in weights.items()})
    images = tmp_path / "images" / "own.npz"
    images.parent.mkdir()
    np.savez(images, images=random.integers(0, 256, (80, 6, 6, 1), np.uint8), labels=np.arange(80) % 2)
    network = {"file": str(tmp_path / "resnet.npz"), "folder": str(tmp_path)}.get(kind)
    settings = EvaluationConfig(eval_samples=70, feature_network=network, cache_dir=str(tmp_path / "cache"))
    of_data = DataConfig("gaussian_ring" if kind == "points" else str(images))
    config = RunConfig(str(tmp_path), data=of_data, evaluation=settings)
    job = make_job(tmp_path, config=config, spec=data.describe(of_data))
    if kind != "points":
        job.model = types.SimpleNamespace(
            seed=0,
            latent_dim=36,
            generate=lambda latent, use_ema: tf.reshape(tf.sign(latent), [-1, 6, 6, 1]),
            **{name: getattr(Model, name) for name in ("channel", "discriminator", "bytes_per_step")},
        )
    reporter = Reporter(job, 0)
    figures = reporter.evaluate(10, evaluation.Evaluator(config, job.data_spec))
    assert figures and reporter.recorded_evaluation(10) == {"step": 10} | figures
    reporter.close()


class Evaluator:
    """Returns the same figures, or fails `failures` times."""

    def __init__(self, failures=0):
        self.failures = failures

    def evaluate(self, model):
        self.failures -= 1
        if self.failures >= 0:
            raise ArithmeticError("no square root")
        stds = {"kernel_distance_std(resnet20,n=70)": 0.5, "num_fake": 70}
        return (
            {"frechet_distance(resnet20,n=70)": 1.5} | stds | {"feature_network": "resnet20", "generator": "averaged"}
        )


class OfPoints:
    """Returns figures of 70 points."""

    def evaluate(self, model):
        return {"modes_found": 8, "num_fake": 70, "generator": "averaged"}


def test_an_evaluation_stands_beside_the_training_curves(tmp_path):
    reporter = make_reporter(tmp_path)
    figures = reporter.evaluate(10, Evaluator())
    reporter.close()
    assert figures == Evaluator().evaluate(None)
    assert json_lines.read(tmp_path / "metrics.jsonl") == [{"step": 10, **figures}]
    shown = {value.tag: value.metadata.summary_description for step, value in events(tmp_path) if step == 10}
    assert shown.keys() == {"2 quality/frechet_distance, resnet20,n=70"}
    assert shown.popitem()[1].startswith("No unit. Frechet distance between features")


def test_a_number_of_modes_has_its_unit(tmp_path):
    reporter = make_reporter(tmp_path)
    reporter.finish(10, SUMMARY)
    reporter.close()
    shown = {value.tag: value.metadata.summary_description for step, value in events(tmp_path) if step == 10}
    assert shown["2 quality/modes"] == "Unit: modes. Modes found at the end of the run."
    assert shown["2 quality/high_quality_fraction"].startswith("No unit. Share of the samples")


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
        name, group, *rest = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        name, rest = name.strip("`"), [group.strip("`"), *rest]
        for player in ("generator", "discriminator") if "{p}" in name else ("",):
            documented[name.replace("{p}", player)] = tuple(cell.replace("{p}", player) for cell in rest)
    assert documented == tensorboard.FIGURES
    reporter = make_reporter(tmp_path)
    of_loop = ("skipped", "sent_bytes_per_step", "milliseconds/step", "milliseconds/rest")
    reporter.log(10, two[1].drain_metrics() | dict.fromkeys(of_loop, 1.0))
    reporter.close()
    assert set(json_lines.read(tmp_path / "metrics.jsonl")[0]) == {"step", *documented}
    shown = {value.tag: value.metadata.summary_description for step, value in events(tmp_path) if step == 10}
    curves = documented.keys() - set(CONSTANT)
    assert shown.keys() - {"constant figures"} == {tensorboard.tag(name) for name in curves}
    for name in curves:
        group, unit, meaning = documented[name]
        text = shown[tensorboard.tag(name)]
        assert tensorboard.tag(name).startswith(group) and meaning[1:] in text
        assert text.startswith(f"Unit: {unit}. " if unit else "No unit. ")


def test_figures_that_do_not_change_are_one_table(tmp_path):
    reporter = make_reporter(tmp_path)
    reporter.log(10, FIGURES)
    reporter.log(20, FIGURES)
    reporter.close()
    ((step, value),) = [(step, value) for step, value in events(tmp_path) if value.tag == "constant figures"]
    text = value.tensor.string_val[0].decode()
    meaning = "bytes of the encoded update of one replica, per gradient step"
    assert step == 10 and f"| wire_bytes | 10 | bytes | {meaning} |" in text
    assert {line.split(" | ")[0].strip("| ") for line in text.splitlines()[2:]} == set(CONSTANT)


@pytest.mark.parametrize(
    ("groups", "more", "fewer"),
    [
        ({}, {"learning_rate", "shift_ratio"}, {"penalty", "spread", "compression_error"}),
        ({"optimizer": OptimizerConfig(warmup_steps=5)}, set(), {"learning_rate"}),
        ({"optimizer": OptimizerConfig(learning_rate_schedule="linear")}, set(), {"learning_rate"}),
        ({"compression": CompressionConfig(shift=0.1)}, set(), {"shift_ratio"}),
        ({"compression": CompressionConfig("none")}, {"compression_error"}, set()),
        ({"compression": CompressionConfig(start_step=1)}, set(), set()),
        (
            {"compression": CompressionConfig(start_step=2)},
            set(),
            {"wire_bytes", "compression_ratio", "sent_bytes_per_step"},
        ),
        ({"compression": CompressionConfig("none", "bias=sign:bucket=32")}, set(), {"compression_error"}),
        ({"loss": LossConfig(r1_gamma=0.0)}, {"penalty"}, set()),
        ({"loss": LossConfig("wgan_clip")}, {"penalty"}, set()),
        ({"loss": LossConfig("wgan_gp", r1_gamma=0.0)}, set(), {"penalty"}),
    ],
)
def test_which_figures_do_not_change(groups, more, fewer):
    more = {"wire_bytes", "compression_ratio", "sent_bytes_per_step"} - fewer | more
    names = {name.partition("/")[0] for name in reporter_lib.constants(make_job("", config=RunConfig("x", **groups)))}
    assert more <= names and not fewer & names


def test_the_configuration_is_that_in_use():
    """No None, no empty text, and no `auto` where something was chosen."""
    values = reporter_lib.values_in_use(make_job("runs/x"))
    assert list(values) == list(RunConfig().flat()) and not {None, ""} & set(values.values())
    assert values["network.width"] == 128 and values["network.latent_dim"] == 2
    assert (values["compression.topology"], values["compression.transport"]) == ("two_step", "for auto")
    assert values["data.image_size"] == values["evaluation.feature_network"] == "not used"
    images = data.DataSpec("images", (28, 28, 1), 10, "images")
    values = reporter_lib.values_in_use(make_job("runs/x", spec=images))
    assert (values["data.image_size"], values["evaluation.feature_network"]) == (28, "a small classifier")


def test_the_table_of_the_configuration(tmp_path):
    """Every row has a value."""
    make_reporter(tmp_path).close()
    ((_, value),) = [(step, value) for step, value in events(tmp_path) if value.tag == "configuration"]
    header, _, *rows = value.tensor.string_val[0].decode().splitlines()
    cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]
    assert header == "| setting | value |"
    assert [row[0].strip() for row in cells] == list(RunConfig().flat())
    assert all(len(row) == 2 and all(cell.strip() for cell in row) for row in cells)
    assert "| compression.compressor_rules | no rules |" in rows
    assert "| compression.mean_compressor | that of the updates |" in rows


def test_a_run_can_be_compared_by_its_hyper_parameters(tmp_path):
    """Paths, periods and limits are none."""
    reporter = make_reporter(tmp_path)
    for write in WRITES.values():
        write(reporter)
    reporter.close()
    contents = {}
    for _, value in events(tmp_path):
        if value.metadata.plugin_data.plugin_name == "hparams":
            data_ = plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
            contents[value.tag] = data_
    start, end = contents["_hparams_/session_start_info"], contents["_hparams_/session_end_info"]
    hyperparameters = start.session_start_info.hparams
    assert hyperparameters["optimizer.beta_1"].number_value == 0.5
    assert hyperparameters["compression.topology"].string_value == "two_step"
    assert hyperparameters["wire_bytes_per_step"].number_value == 5
    expected = set(RunConfig().flat()) - FREE_FIELDS | {"algorithm", "train.steps", "wire_bytes_per_step"}
    assert set(hyperparameters) == expected
    assert end.session_end_info.status == api_pb2.STATUS_SUCCESS


@pytest.mark.parametrize("kind", ["points", "images"])
def test_curves_that_belong_together_share_a_chart(tmp_path, kind):
    """Every pattern of the layout finds its figure, and every curve of a pair has the one of the other player."""
    with tf.summary.create_file_writer(str(tmp_path / "tensorboard")).as_default(0):
        tensorboard.write_layout(["learning_rate/generator", "learning_rate/discriminator"], kind)
    ((_, value),) = events(tmp_path)
    layout = layout_pb2.Layout.FromString(value.tensor.string_val[0])
    assert [category.title for category in layout.category] == ["Losses", "Quality", "Training", "Compression", "Time"]
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert "learning rates" not in charts
    tags = [tensorboard.tag(name) for name in tensorboard.FIGURES]
    tags += [f"2 quality/{name}" for name in ("modes_found", "modes_found_3_sd", "high_quality_fraction")]
    images = ("frechet_distance", "FID", "precision", "recall")
    tags += [tensorboard.quality_tag(f"{name}(x(y),n=7)") for name in images]
    assert not [tag for tag in tags if "(" in tag]
    for title, patterns in charts.items():
        found = [[tag for tag in tags if re.search(pattern, tag)] for pattern in patterns]
        assert all(found), (title, patterns)
    assert charts["loss of both players"] == ["^1\\ losses/generator_loss$", "^1\\ losses/discriminator_loss$"]
    assert ("modes found" in charts) == (kind == "points") and ("Frechet distance" in charts) == (kind == "images")


def test_the_first_picture_is_next_to_real_samples(tmp_path):
    reporter = make_reporter(tmp_path)
    points = np.random.default_rng(0).standard_normal((4000, 2)).astype(np.float32)
    reporter.sample(0, tf.data.Dataset.from_tensor_slices(points).batch(48))
    reporter.sample(10)
    reporter.close()
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {
        *("raw_00000000.png", "ema_00000000.png", "real_00000000.png", "raw_00000010.png", "ema_00000010.png")
    }
    shown = [(step, value.tag) for step, value in events(tmp_path) if value.tag.startswith("3 samples/")]
    steps = [(0, "real"), (0, "raw"), (0, "ema"), (10, "raw"), (10, "ema")]
    assert shown == [(step, f"3 samples/{name}") for step, name in steps]
    # No exchange before the first step.
    (exchange,) = [(step, value) for step, value in events(tmp_path) if value.tag.endswith("/one exchange")]
    image = tf.io.decode_png(exchange[1].tensor.string_val[2])
    named = [("compute", 0.0, 0.5), ("encode", 0.25, 1.0)]
    assert exchange[0] == 10
    np.testing.assert_array_equal(image, pictures.timeline(named, ("compute", "encode", "exchange", "decode")))
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
