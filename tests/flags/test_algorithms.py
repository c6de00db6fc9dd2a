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
