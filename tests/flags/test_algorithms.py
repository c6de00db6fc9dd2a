"""By hand: what a method sets, and what is refused beside it: from flags, from Python, from a configuration as JSON."""

import dataclasses
import pathlib
import re

import pytest
from absl.testing import flagsaver

from dqgan_tf import config
from dqgan_tf.config import ALGORITHMS, CompressionConfig, OptimizerConfig, RunConfig
from dqgan_tf.errors import UsageError
from dqgan_tf.training import command
from flags import run

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIELDS = config.settings()
# A value other than the method's; of a text that is no choice, a compressor or a rule.
OTHER_TEXTS = {"compression.compressor": "sign:bucket=512", "compression.compressor_rules": "bias=sign"}
CASES = [(name, key) for name, changes in ALGORITHMS.items() for key in changes]


@pytest.fixture(autouse=True)
def fresh_flags():
    with flagsaver.flagsaver():
        yield


def parsed(*arguments):
    assert command.parse(["train", "--model_dir=m", *arguments]) == ["train"]
    return run.run_config()


def other_values(name, key):
    """All values of a setting that contradict the method."""
    field, value = FIELDS[key], ALGORITHMS[name][key]
    if isinstance(value, bool):
        return [not value]
    return [other for other in field.metadata["choices"] or (OTHER_TEXTS[key],) if other != value]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_method_sets_its_settings_and_leaves_the_others(name):
    flat = parsed(f"--algorithm={name}", "--beta_1=0.25", "--packet_mb=2").flat()
    given = {"model_dir": "m", "algorithm": name, "optimizer.beta_1": 0.25, "compression.packet_mb": 2.0}
    assert flat == RunConfig().flat() | given | ALGORITHMS[name]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_flags_python_and_json_agree(name):
    made = RunConfig(model_dir="m", algorithm=name)
    plain = [f"--{key.rpartition('.')[2]}={value}" for key, value in ALGORITHMS[name].items()]
    assert parsed(*plain) == dataclasses.replace(made, algorithm="custom")
    assert parsed(f"--algorithm={name}") == made == config.from_json(made.to_json())  # the flags above stay given
    assert (made.optimizer, made.compression) == config.algorithm(name)


@pytest.mark.parametrize(("name", "key"), CASES)
def test_a_flag_that_contradicts_the_method_is_refused(name, key):
    setting = key.rpartition(".")[2]
    for other in other_values(name, key):
        with pytest.raises(UsageError) as caught:
            parsed(f"--algorithm={name}", f"--{setting}={other}")
        assert str(caught.value).startswith(
            f"algorithm={name!r} means {setting}={ALGORITHMS[name][key]!r}. Received: {setting}={other!r}. "
        )


@pytest.mark.parametrize(("name", "key"), CASES)
def test_a_configuration_that_contradicts_the_method_is_refused(name, key):
    """But not by a default, which counts as not given."""
    group, _, setting = key.partition(".")
    for other in other_values(name, key):
        values = {group: {"optimizer": OptimizerConfig, "compression": CompressionConfig}[group](**{setting: other})}
        if other == FIELDS[key].default:
            assert RunConfig(algorithm=name, **values) == RunConfig(algorithm=name)
            continue
        with pytest.raises(UsageError, match=re.escape(f"Received: {setting}={other!r}")):
            RunConfig(algorithm=name, **values)
        with pytest.raises(UsageError, match=re.escape(f"Received: {setting}={other!r}")):
            config.algorithm(name, **values)


def test_an_unknown_method_is_refused():
    with pytest.raises(UsageError, match="`algorithm` must be one of custom, sgda, .* Received: algorithm='adagan'"):
        config.algorithm("adagan")


@pytest.mark.parametrize("experiment", ["ring", "grid", "fashion_mnist", "cifar10"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_method_goes_with_every_experiment(name, experiment):
    flagfile = f"--flagfile={ROOT / 'flags' / 'experiments' / experiment}.flags"
    before = parsed(flagfile).flat()
    assert parsed(f"--algorithm={name}").flat() == before | {"algorithm": name} | ALGORITHMS[name]


def test_different_methods_differ():
    made = [dataclasses.replace(RunConfig(algorithm=name), algorithm="custom") for name in ALGORITHMS]
    assert len(set(made)) == len(made)


def test_the_document_lists_the_settings_of_every_method():
    lines = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").partition("## Settings of each")[2].splitlines()
    rows = [re.findall("`([^`]*)`", line) for line in lines if line.startswith("| `")]
    cells = {name: dict(setting.split("=", 1) for setting in settings) for name, *settings in rows}
    assert set(cells) == set(ALGORITHMS)
    first = cells["dqgan_adam"]
    for name, changes in ALGORITHMS.items():
        plain = {key.partition(".")[2]: str(value) for key, value in changes.items()}
        assert plain.items() <= (first | cells[name]).items(), name
        assert all(value != first.get(setting) for setting, value in cells[name].items()) or name == "dqgan_adam"
        assert cells[name].keys() <= plain.keys() and f"`{name}`" in "".join(lines)


# What no step computes, and the settings that the sentence names. Each differs from a method that works by one setting.
REFUSED = [
    ("cpoadam_ef", {"half_step": "own", "step_rule": "plain"}, {}, "Residuals of exchange='gradient' are gradients"),
    ("cpoadam", {"second_moment": "averaged"}, {}, "set second_moment='local'"),
    ("cpoadam", {"half_step": "own"}, {}, "set half_step='none'"),
    ("extra_adam", {"half_step": "own"}, {}, "set half_step='none'"),
    ("extra_adam", {"exchange": "update"}, {}, "set exchange='gradient'"),
    ("extra_adam", {}, {"error_feedback": True}, "set error_feedback=False"),
    ("extra_adam", {"discriminator_steps": 2}, {}, "set discriminator_steps=1"),
    ("ef21_sgdm", {}, {"error_feedback": False}, "set error_feedback=True or error_feedback_form='ef14'"),
    ("ef21_sgdm", {"half_step": "own"}, {}, "the half-step point must not contain it: set half_step='none' or"),
]


@pytest.mark.parametrize(("name", "optimizer", "compression", "words"), REFUSED)
def test_settings_that_make_no_sense_together_are_refused(name, optimizer, compression, words):
    groups = [
        dataclasses.replace(group, **changes)
        for group, changes in zip(config.algorithm(name), (optimizer, compression), strict=True)
    ]
    for refuse in (config.check_method, lambda *pair: RunConfig(optimizer=pair[0], compression=pair[1])):
        with pytest.raises(UsageError, match=re.escape(words)) as caught:
            refuse(*groups)
        for setting, value in {**optimizer, **compression}.items():
            assert f"{setting}={value!r}" in str(caught.value)


def test_a_half_step_without_the_residual_goes_with_exchanged_gradients_and_with_ef21():
    out = CompressionConfig(residual_in_half_step=False)
    config.check_method(OptimizerConfig(exchange="gradient"), out)
    config.check_method(OptimizerConfig(), dataclasses.replace(out, error_feedback_form="ef21"))
    config.check_method(OptimizerConfig(half_step="none", step_rule="optimistic"), CompressionConfig())
