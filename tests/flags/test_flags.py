"""Identity: flags and configuration say the same. By hand: what is refused, and with which words."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import pytest
from absl.flags import FLAGS
from absl.testing import flagsaver

from dqgan_tf.config import RunConfig
from flags import compression, data, loss, network, optimizer, run, train

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = {
    "data": data,
    "network": network,
    "loss": loss,
    "optimizer": optimizer,
    "compression": compression,
    "train": train,
}
NOTICES = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(autouse=True)
def fresh_flags():
    with flagsaver.flagsaver():
        yield


def parsed(*arguments):
    """The configuration of a command line; a refused one exits."""
    assert run.parse(["train", *arguments]) == ["train"]
    return run.run_config()


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        run.parse(["train", "--model_dir=m", *arguments])
    assert caught.value.code == 2  # EXIT_USAGE of dqgan_tf/training/errors.py
    text = capsys.readouterr().err
    assert text.startswith("ERROR: ") and text.count("\n") == 1
    return text


def groups():
    return [field for field in dataclasses.fields(RunConfig) if dataclasses.is_dataclass(field.default)]


@pytest.mark.parametrize("group", groups(), ids=lambda field: field.name)
def test_one_flag_a_field_in_the_file_of_its_group(group):
    defined = {flag.name for flag in FLAGS.get_flags_for_module(FILES[group.name].__name__)}
    assert defined == {field.name for field in dataclasses.fields(group.default)}


def test_model_dir_is_the_one_flag_without_a_group():
    assert [flag.name for flag in FLAGS.get_flags_for_module("flags.run")] == ["model_dir"]
    assert {field.name for field in dataclasses.fields(RunConfig)} == {"model_dir", *FILES}


def test_every_number_is_refused_with_one_that_works(capsys):
    numbers = [field.name for group in groups() for field in dataclasses.fields(group.default)]
    numbers = [name for name in numbers if FLAGS[name].flag_type() in ("int", "float")]
    assert len(numbers) > 20
    for name in numbers:
        works = refusal(capsys, f"--{name}=x").partition("A value that works is ")[2].split()[0].rstrip(".")
        assert works.startswith(f"--{name}=") and parsed("--model_dir=m", works)


@pytest.mark.parametrize("group", groups(), ids=lambda field: field.name)
def test_defaults_stand_in_the_dataclass(group):
    for name, default in dataclasses.asdict(group.default).items():
        value = FLAGS[name].default
        assert value == default and type(value) is type(default), name


def test_no_argument_gives_the_default_configuration():
    assert parsed("--model_dir=m") == RunConfig(model_dir="m")


def test_every_kind_of_value_arrives():
    config = parsed(
        "--model_dir=m", "--dataset=mnist", "--image_size=32", "--nobatch_norm", "--gradient_penalty=5", "--steps=7"
    )
    assert (config.data.dataset, config.data.image_size, config.train.steps) == ("mnist", 32, 7)
    assert config.network.batch_norm is False
    assert config.loss.gradient_penalty == 5.0


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--compressor=linear:bits=12", ("bits", "12")),
        ("--compressor=zip", ("zip", "linear", "topk")),
        ("--beta_1=1", ("`beta_1` must lie in [0, 1)", "beta_1=1.0")),
        ("--beta_2=-0.1", ("`beta_2`", "-0.1")),
        ("--ema_decay=1", ("`ema_decay`", "1.0")),
        ("--epsilon=0", ("`epsilon` must be positive",)),
        ("--learning_rate_g=0", ("`learning_rate_g` must be positive", "0.0")),
        ("--learning_rate_d=nan", ("learning_rate_d", "nan")),
        ("--learning_rate_g=inf", ("`learning_rate_g` must be finite",)),
        ("--r1_gamma=nan", ("`r1_gamma` must be finite",)),
        ("--r1_gamma=-1", ("r1_gamma", "-1")),
        ("--clip_value=0", ("`clip_value` must be positive",)),
        ("--batch_size=0", ("batch_size", "0")),
        ("--batch_size=1.5", ("batch_size", "1.5")),
        ("--steps=0", ("steps", "0")),
        ("--log_every=-1", ("log_every", "-1")),
        ("--network=resnet", ("network", "resnet", "mlp|dcgan")),
        ("--loss=gan", ("loss", "gan", "wgan_gp")),
        ("--direction=lion", ("direction", "lion", "sgd|adam")),
        ("--learning_rate_schedule=step", ("learning_rate_schedule", "constant|linear|cosine")),
        ("--second_moment=none", ("second_moment", "local|averaged|guarded")),
        ("--communication=mpi", ("communication", "auto|sockets|ring|nccl")),
        ("--bucket_mb=nan", ("`bucket_mb` must be finite", "nan", "A value that works is --bucket_mb=4")),
        ("--bucket_mb=inf", ("`bucket_mb` must be finite", "inf", "A value that works is --bucket_mb=4")),
        ("--bucket_mb=-1", ("bucket_mb", "-1", "A value that works is --bucket_mb=4")),
        ("--compressor_rules=;", ("PATTERN=SPEC", "=none")),
        ("--start_step=x", ("start_step", "'x'", "A value that works is --start_step=0")),
        ("--start_step=-1", ("start_step", "-1", "A value that works is --start_step=0")),
        ("--width=wide", ("width", "'wide'", "A value that works is --width=64")),
        ("--width=0", ("width", "A value that works is --width=64")),
        ("--learning_rate_g=fast", ("learning_rate_g", "'fast'", "A value that works is --learning_rate_g=0.001")),
        (
            "--learning_rate_d=-1",
            ("`learning_rate_d` must be positive", "A value that works is --learning_rate_d=0.001"),
        ),
        ("--r1_gamma=inf", ("`r1_gamma` must be finite", "A value that works is --r1_gamma=0.1")),
        ("--ema_decay=2", ("`ema_decay`", "A value that works is --ema_decay=0.999")),
        ("--half_step=maybe", ("half_step", "maybe")),
        ("--compresor=none", ("Unknown command line flag 'compresor'", "compressor")),
        ("--flagfile=no_such_file.flags", ("no_such_file.flags",)),
    ],
)
def test_a_bad_value_is_refused_with_a_sentence(capsys, argument, words):
    text = refusal(capsys, argument)
    assert all(word in text for word in words), text


def test_model_dir_is_required(capsys):
    with pytest.raises(SystemExit):
        run.parse(["train"])
    assert "--model_dir" in capsys.readouterr().err


def test_helpshort_lists_the_flags_of_a_run():
    """absl prints the flags of the binary's own file only; a binary that defines none would show an empty list."""
    command = [sys.executable, "-m", "trainers.train", "--helpshort"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | NOTICES, capture_output=True, text=True, timeout=120)
    names = ["model_dir", *(field.name for group in groups() for field in dataclasses.fields(group.default))]
    assert not [name for name in names if f"--{name}:" not in done.stdout and f"--[no]{name}:" not in done.stdout]
    assert "--verbosity" not in done.stdout
