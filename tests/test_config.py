"""By hand: the defaults of all settings, and what a configuration refuses, wherever it is constructed."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from dqgan_tf import config, fields
from dqgan_tf.config import (
    CompressionConfig,
    DataConfig,
    LossConfig,
    NetworkConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
)
from dqgan_tf.errors import UsageError

# A default that changes changes every run whose command line does not name the flag.
DEFAULTS = {
    "model_dir": "",
    "algorithm": "custom",
    "data.dataset": "gaussian_ring",
    "data.data_dir": None,
    "data.image_size": None,
    "data.split": "train",
    "data.shards": "iid",
    "data.conditional": False,
    "network.network": "mlp",
    "network.latent_dim": None,
    "network.width": None,
    "network.batch_norm": True,
    "loss.loss": "non_saturating",
    "loss.r1_gamma": 0.1,
    "loss.gradient_penalty": 10.0,
    "loss.clip_value": 0.01,
    "optimizer.direction": "adam",
    "optimizer.learning_rate_g": 1e-3,
    "optimizer.learning_rate_d": 1e-3,
    "optimizer.learning_rate_schedule": "constant",
    "optimizer.warmup_steps": 0,
    "optimizer.beta_1": 0.5,
    "optimizer.beta_2": 0.9,
    "optimizer.epsilon": 1e-8,
    "optimizer.second_moment": "local",
    "optimizer.second_moment_period": 100,
    "optimizer.global_clipnorm": None,
    "optimizer.micro_batches": 1,
    "optimizer.half_step": "own",
    "optimizer.exchange": "update",
    "optimizer.step_rule": "plain",
    "optimizer.discriminator_steps": 1,
    "compression.compressor": "linear:bits=4,bucket=512",
    "compression.compressor_rules": "",
    "compression.mean_compressor": "",
    "compression.local_steps": 1,
    "compression.start_step": 0,
    "compression.error_feedback": True,
    "compression.error_feedback_form": "ef14",
    "compression.residual_in_half_step": True,
    "compression.flush_residuals": False,
    "compression.shift": 0.0,
    "compression.allow_non_contractive": False,
    "compression.topology": "auto",
    "compression.packet_mb": 4.0,
    "compression.transport": "auto",
    "train.batch_size": 256,
    "train.steps": 4000,
    "train.seed": 0,
    "train.warm_start": None,
    "train.ema_decay": 0.999,
    "train.steps_per_call": 20,
    "train.replicas_per_worker": 1,
    "train.log_every": 100,
    "train.sample_every": 1000,
    "train.eval_every": 0,
    "train.checkpoint_every": 1000,
    "train.weight_check_every": 1000,
    "train.max_skipped_in_row": 10,
    "train.start_timeout": 600.0,
    "train.silence_timeout": 30.0,
    "train.keep_checkpoints": 3,
    "train.deterministic": True,
    "evaluation.eval_samples": 10000,
    "evaluation.feature_network": None,
    "evaluation.inception_weights": None,
    "evaluation.cache_dir": None,
    "evaluation.best_figure": "none",
}
FIELDS = config.settings()
NUMBERS = [key for key, field in FIELDS.items() if fields.value_type(field)[0] in (int, float)]


def make(key, value):
    """A configuration with this value, made through the dataclass of the setting's group."""
    group, _, name = key.rpartition(".")
    return type(getattr(RunConfig(), group))(**{name: value}) if group else RunConfig(**{name: value})


def saved(key, value):
    """The same, made from the JSON of a run."""
    group, _, name = key.rpartition(".")
    values = json.loads(RunConfig().to_json())
    (values[group] if group else values)[name] = value
    return config.from_json(json.dumps(values))


def test_defaults():
    flat = RunConfig().flat()
    assert flat == DEFAULTS and list(flat) == list(FIELDS) == list(DEFAULTS)
    assert all(type(flat[key]) is type(DEFAULTS[key]) for key in DEFAULTS)


@pytest.mark.parametrize(("old", "now"), [(True, "own"), (False, "none")])
def test_half_step_was_true_or_false(old, now):
    assert OptimizerConfig(half_step=old).half_step == now
    assert saved("optimizer.half_step", old).optimizer.half_step == now
    assert config.flatten({"optimizer": {"half_step": old}}) == {"optimizer.half_step": now}


@pytest.mark.parametrize(
    ("optimizer", "compression", "message"),
    [
        ({"half_step": "corrected"}, {}, "half_step='corrected' needs the drift .* set shift=0.1"),
        ({"discriminator_steps": 2}, {"local_steps": 4}, "local_steps above 1 set .* Received: .* local_steps=4"),
        (
            {"half_step": "none"},
            {"shift": 0.1, "error_feedback_form": "ef21"},
            "set shift=0 or error_feedback_form='ef14'. Received: .* shift=0.1",
        ),
    ],
)
def test_half_steps_and_shifts_that_make_no_sense_are_refused(optimizer, compression, message):
    with pytest.raises(UsageError, match=message):
        RunConfig(optimizer=OptimizerConfig(**optimizer), compression=CompressionConfig(**compression))


@pytest.mark.parametrize("name", ["cpoadam_ef", "dqgan_adam_no_error_feedback", "ef21_sgdm"])
def test_residuals_that_are_no_parts_of_updates_are_not_flushed(name):
    flush = CompressionConfig(flush_residuals=True)
    assert RunConfig(algorithm="dqgan_adam", compression=flush).compression.flush_residuals
    with pytest.raises(
        UsageError, match="as in dqgan_adam, or flush_residuals=False. Received: .*flush_residuals=True"
    ):
        RunConfig(algorithm=name, compression=flush)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean_compressor": "nothing"}, "nothing"),
        ({"mean_compressor": "adaptive:bits=3,bucket=512"}, "learns nor .* such as linear:bits=4,bucket=512. "),
        ({"mean_compressor": "randomk:fraction=0.1"}, "neither learns nor .* Received: mean_compressor='randomk"),
        ({"mean_compressor": "powersgd:rank=2"}, "neither learns nor .* Received: mean_compressor='powersgd:rank=2'"),
        ({"topology": "all_gather"}, "take topology='two_step'. Received: .*compressor='sign.*topology='all_gather'"),
        ({"compressor": "none"}, "such as sign:bucket=512. Received: mean_compressor='linear.*compressor='none'"),
        ({"compressor": "powersgd:rank=2"}, "such as sign:bucket=512. Received: .*compressor='powersgd:rank=2'"),
        (
            {"compressor": "none", "compressor_rules": "kernel=powersgd"},
            "Received: .*compressor_rules='kernel=powersgd'",
        ),
    ],
)
def test_a_compressor_of_the_mean_that_cannot_be_used_is_refused(settings, message):
    valid = {"compressor": "sign:bucket=512", "mean_compressor": "linear:bits=4,bucket=512"}
    assert CompressionConfig(**valid).compressor_of_mean.spec == "linear:bits=4,bucket=512"
    assert CompressionConfig(**valid | {"compressor": "none", "compressor_rules": "kernel=sign"}).mean_compressor
    with pytest.raises(UsageError, match=message):
        CompressionConfig(**valid | settings)


@pytest.mark.parametrize("key", [key for key, value in DEFAULTS.items() if value is not None and key != "model_dir"])
def test_a_default_is_a_value_that_works(key):
    assert getattr(make(key, DEFAULTS[key]), key.rpartition(".")[2]) == DEFAULTS[key]


@pytest.mark.parametrize(
    ("key", "low", "inside", "high"),
    [
        ("data.image_size", 0, 1, None),
        ("network.latent_dim", 0, 1, None),
        ("network.width", 0, 1, None),
        ("loss.r1_gamma", -1e-9, 0, None),
        ("loss.gradient_penalty", 0, 1e-9, None),
        ("loss.clip_value", 0, 1e-9, None),
        ("optimizer.learning_rate_g", 0, 1e-9, None),
        ("optimizer.learning_rate_d", 0, 1e-9, None),
        ("optimizer.warmup_steps", -1, 0, None),
        ("optimizer.beta_1", -1e-9, 0, 1),
        ("optimizer.beta_2", -1e-9, 0, 1),
        ("optimizer.epsilon", 0, 1e-9, None),
        ("optimizer.second_moment_period", 0, 1, None),
        ("optimizer.global_clipnorm", 0, 1e-9, None),
        ("optimizer.micro_batches", 0, 1, None),
        ("optimizer.discriminator_steps", 0, 1, None),
        ("compression.local_steps", 0, 1, None),
        ("compression.start_step", -1, 0, None),
        ("compression.shift", -1e-9, 1, 1.0001),
        ("compression.packet_mb", -1e-9, 0, None),
        ("train.batch_size", 0, 1, None),
        ("train.steps", 0, 1, None),
        ("train.seed", -1, 2**32 - 1, 2**32),
        ("train.ema_decay", -1e-9, 0, 1),
        ("train.steps_per_call", 0, 1, None),
        ("train.replicas_per_worker", 0, 1, None),
        ("train.log_every", -1, 0, None),
        ("train.sample_every", -1, 0, None),
        ("train.eval_every", -1, 0, None),
        ("train.checkpoint_every", -1, 0, None),
        ("train.weight_check_every", -1, 0, None),
        ("train.max_skipped_in_row", -1, 0, None),
        ("train.start_timeout", 0.9, 1.0, None),
        ("train.silence_timeout", 4.9, 5.0, None),
        ("train.keep_checkpoints", 0, 1, None),
        ("evaluation.eval_samples", 1, 2, None),
    ],
)
def test_bounds(key, low, inside, high):
    make(key, inside)
    for outside in (low, high):
        if outside is not None:
            with pytest.raises(UsageError, match=f"Received: {key.rpartition('.')[2]}={outside}"):
                make(key, outside)


def test_every_number_has_bounds_of_its_own_in_the_test_above():
    [mark] = [mark for mark in test_bounds.pytestmark if mark.name == "parametrize"]
    assert [case[0] for case in mark.args[1]] == NUMBERS


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", ["x", float("nan"), float("inf"), -float("inf"), True, [1]])
def test_what_is_no_number_is_refused_with_one_that_works(key, value):
    name = key.rpartition(".")[2]
    with pytest.raises(UsageError) as caught:
        make(key, value)
    text, _, works = str(caught.value).partition(f". A value that works is {name}=")
    assert text.startswith(f"`{name}` must be a ") and text.endswith(f"Received: {name}={value!r}")
    assert getattr(make(key, fields.value_type(FIELDS[key])[0](works)), name) == float(works)
    with pytest.raises(UsageError, match=f"`{name}` must be a "):
        saved(key, value)


@pytest.mark.parametrize("key", [key for key, field in FIELDS.items() if fields.value_type(field)[0] is int])
def test_a_whole_number_has_no_fraction(key):
    with pytest.raises(UsageError, match="must be a whole number .*Received: .*=1.5. A value that works"):
        make(key, 1.5)


@pytest.mark.parametrize("key", [key for key, value in DEFAULTS.items() if isinstance(value, bool)])
@pytest.mark.parametrize("value", [1, 0, "false", None])
def test_a_switch_is_true_or_false(key, value):
    with pytest.raises(UsageError, match="must be true or false. Received: "):
        make(key, value)


@pytest.mark.parametrize("key", [key for key, field in FIELDS.items() if field.metadata["choices"]])
def test_choices(key):
    for choice in FIELDS[key].metadata["choices"]:
        make(key, choice.replace("ALPHA", "0.3"))
    for value in ("unknown", 3, None):
        with pytest.raises(UsageError, match=f"must be one of .*{choice}. Received: .*={value!r}"):
            make(key, value)


@pytest.mark.parametrize("value", ["dirichlet", "dirichlet:", "dirichlet:0", "dirichlet:-1", "dirichlet:nan", "iid:1"])
def test_a_choice_with_a_number_takes_one_above_0(value):
    with pytest.raises(UsageError, match="must be one of iid, by_class, dirichlet:ALPHA. Received: shards="):
        DataConfig(shards=value)


@pytest.mark.parametrize("key", ["data.dataset", "data.data_dir", "compression.compressor", "model_dir"])
def test_a_text_is_no_number(key):
    with pytest.raises(UsageError, match="must be a .*Received: .*=3"):
        make(key, 3)


def test_a_path_may_be_a_path_object():
    assert RunConfig(model_dir=pathlib.Path("runs/x")).model_dir == "runs/x"
    assert DataConfig(data_dir=pathlib.Path("data")).data_dir == "data"


def test_a_path_below_a_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert RunConfig(model_dir="~/x").model_dir == "/home/somebody/x"
    assert RunConfig(model_dir="./~x").model_dir == "./~x"
    with pytest.raises(
        UsageError, match="home folder of an unknown user. Received: model_dir='~nobody_of_that_name/x'"
    ):
        RunConfig(model_dir="~nobody_of_that_name/x")


def test_equal_settings_have_equal_fingerprints():
    """Numbers of numpy and whole numbers for fractions come out as what a flag makes of the same text."""
    made = RunConfig(
        compression=CompressionConfig(packet_mb=4),
        optimizer=OptimizerConfig(beta_1=np.float64(0.5)),
        train=TrainConfig(steps=np.int32(4000)),
    )
    assert made == RunConfig() and made.fingerprint() == RunConfig().fingerprint()
    assert {type(value) for value in made.flat().values()} == {str, int, float, bool, type(None)}


def test_a_group_has_its_own_class():
    with pytest.raises(
        UsageError, match="`optimizer` must be a dqgan_tf.config.OptimizerConfig. Received: optimizer={'beta_1': 0.5}"
    ):
        RunConfig(optimizer={"beta_1": 0.5})


def test_replacing_a_value_checks_it():
    with pytest.raises(UsageError, match="`beta_1` must be a number of at least 0 and below 1. Received: beta_1=2.0"):
        dataclasses.replace(OptimizerConfig(), beta_1=2.0)


@pytest.fixture
def warned(monkeypatch):
    lines = []
    monkeypatch.setattr(fields.logging, "warning", lambda text, *values: lines.append(text % values))
    fields.warn_once.cache_clear()
    return lines


def optimizer(**values):
    return {"optimizer": OptimizerConfig(**values)}


def compression(**values):
    return {"compression": CompressionConfig(**values)}


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        (optimizer(direction="sgd", beta_2=0.75), "beta_2=0.75 has no effect with direction=sgd: it is used with"),
        (optimizer(second_moment_period=7), "it is used with second_moment=averaged or guarded"),
        ({"loss": LossConfig("hinge", gradient_penalty=3)}, "gradient_penalty=3.0 has no effect with loss=hinge"),
        ({"network": NetworkConfig(batch_norm=False)}, "batch_norm=False has no effect with network=mlp"),
        (
            optimizer(half_step="none") | compression(residual_in_half_step=False),
            "residual_in_half_step=False has no effect with half_step=none",
        ),
        (
            compression(residual_in_half_step=False, error_feedback=False),
            "residual_in_half_step=False has no effect with error_feedback=False",
        ),
        (compression(compressor="none", shift=0.1), "shift has no effect with compressor=none"),
        (compression(compressor="none", flush_residuals=True), "flush_residuals has no effect with compressor=none"),
        (compression(compressor="none", start_step=5), "start_step has no effect with compressor=none"),
        (compression(compressor="topk:fraction=0.05", shift=0.1), "shift=0.1 is above 0.0125, a quarter of the share"),
        (compression(compressor_rules="kernel=randomk:fraction=0.01", shift=0.003), "above 0.0025, a quarter"),
    ],
)
def test_a_setting_without_effect_or_beyond_its_bound_is_named_once(warned, groups, sentence):
    RunConfig(**groups)
    dataclasses.replace(RunConfig(**groups), model_dir="other")
    assert len(warned) == 1 and sentence in warned[0]


@pytest.mark.parametrize(
    "groups",
    [
        optimizer(direction="momentum", beta_1=0.9),
        optimizer(second_moment="guarded", second_moment_period=7, beta_2=0.75),
        optimizer(half_step="corrected") | compression(compressor="none", shift=0.1),
        optimizer(second_moment_period=7) | {"algorithm": "dqgan_adam_averaged"},
        compression(compressor="none", compressor_rules="kernel=sign:bucket=512", shift=0.1, start_step=5),
        compression(compressor="topk:fraction=0.05", shift=0.0125),
        {"loss": LossConfig("wgan_gp", gradient_penalty=3), "network": NetworkConfig("dcgan", batch_norm=False)},
    ],
)
def test_a_setting_that_has_an_effect_and_keeps_its_bound_is_not_named(warned, groups):
    RunConfig(**groups)
    assert warned == []


@pytest.mark.parametrize("name", config.ALGORITHMS)
def test_a_method_names_no_setting(warned, name):
    RunConfig(algorithm=name)
    assert warned == []


def test_the_docstring_explains_every_setting():
    for group in (OptimizerConfig, CompressionConfig, TrainConfig, RunConfig):
        for field in dataclasses.fields(group):
            if field.metadata:
                assert f"\n{field.name}: {field.metadata['help']}" in group.__doc__


def test_json_and_back():
    run = RunConfig(model_dir="m", train=TrainConfig(steps=7))
    assert config.from_json(run.to_json()) == run
    assert config.from_json('{"train": {"steps": 7}, "model_dir": "m"}') == run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must be a JSON object"),
        ("{", "must be a JSON object"),
        ("[" * 200_000, "must be a JSON object"),
        ('{"train": {"stepss": 7}}', "Unknown configuration key 'train.stepss'. The keys are model_dir, algorithm"),
        ('{"train": 7}', "Unknown configuration key 'train'"),
        ('{"train": {"steps": "7"}}', "`steps` must be a whole number of at least 1. Received: steps='7'"),
    ],
)
def test_json_that_is_no_configuration(text, message):
    with pytest.raises(UsageError, match=message):
        config.from_json(text)


def test_settings_of_version_0_1_0_are_read():
    saved = json.loads(RunConfig().to_json())
    saved["compression"]["bucket_mb"] = 0.5
    saved["compression"]["communication"] = "ring"
    del saved["compression"]["packet_mb"], saved["compression"]["transport"]
    run = RunConfig(compression=CompressionConfig(packet_mb=0.5, transport="ring"))
    assert config.from_json(json.dumps(saved)) == run
    assert config.flatten(saved) == run.flat()


@pytest.mark.parametrize("settings", [{"compressor": "sgin"}, {"compressor_rules": "bias=sgin"}])
def test_a_compressor_that_does_not_exist_is_refused_where_it_is_given(settings):
    with pytest.raises(UsageError, match="must be like one of none, .*Received: 'sgin'"):
        CompressionConfig(**settings)


def test_what_a_resumed_run_and_each_worker_may_change():
    networks = {f"evaluation.{name}" for name in ("feature_network", "inception_weights", "cache_dir")}
    assert config.LOCAL_FIELDS == {"model_dir", "data.data_dir", "train.start_timeout"} | networks
    assert config.FREE_FIELDS == networks | {
        "model_dir",
        "algorithm",
        "data.data_dir",
        "compression.packet_mb",
        "compression.transport",
        "train.steps",
        "train.steps_per_call",
        "train.replicas_per_worker",
        "train.log_every",
        "train.sample_every",
        "train.eval_every",
        "evaluation.eval_samples",
        "evaluation.best_figure",
        "train.checkpoint_every",
        "train.weight_check_every",
        "train.max_skipped_in_row",
        "train.start_timeout",
        "train.silence_timeout",
        "train.keep_checkpoints",
        "train.deterministic",
    }
