"""System: what every binary answers without TensorFlow: its help, and the refusal of a wrong command line."""

import pathlib
import subprocess
import sys

import pytest

from dqgan_tf import config
from dqgan_tf.errors import EXIT_USAGE

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARIES = sorted(path.stem for path in (ROOT / "trainers").glob("*.py"))
# `import tensorflow` fails, so that a binary that asks for it cannot answer.
PROGRAM = """
import runpy, sys
for name in ("tensorflow", "keras", "tensorflow_datasets"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def answer(binary, *arguments):
    command = [sys.executable, "-c", PROGRAM, f"trainers.{binary}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_all_binaries_are_there():
    named = ["benchmark", "compare", "evaluate", "export", "generate", "launch", "prepare", "ray_train", "train"]
    assert named == BINARIES


@pytest.mark.parametrize("binary", BINARIES)
@pytest.mark.parametrize("flag", ["--help", "--helpshort", "--helpfull"])
def test_help(binary, flag):
    code, out, err = answer(binary, flag)
    assert (code, err) == (0, "")
    heading = "settings of train:" if (binary, flag) == ("train", "--helpfull") else f"trainers/{binary}.py:"
    assert "python -m trainers." in out and f"{heading}\n" in out
    assert ("--verbosity" in out) == (flag == "--helpfull")


@pytest.mark.parametrize("flag", ["--help", "--helpfull"])
def test_help_of_a_run_shows_every_setting(flag):
    _, out, _ = answer("train", flag)
    names = [field.name for field in config.settings().values()]
    assert not [name for name in names if f"--{name}:" not in out and f"--[no]{name}:" not in out]
    assert ("\nsettings of compression:\n" in out) == (flag == "--helpfull")


@pytest.mark.parametrize("binary", BINARIES)
@pytest.mark.parametrize("argument", ["--no_such_flag=1", "stray", "--verbosity=x"])
def test_a_wrong_command_line(binary, argument):
    code, out, err = answer(binary, argument)
    assert (code, out) == (EXIT_USAGE, "") and err.startswith("ERROR: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    "argument",
    [
        "--steps=many",
        "--beta_1=2",
        "--network=vgg",
        "--half_step=maybe",
        "--compressor=sgin",
        "--compressor=linear:bits=12",
        "--compressor_rules=bias",
    ],
)
def test_a_wrong_setting(argument):
    code, out, err = answer("train", "--model_dir=m", argument)
    assert (code, out) == (EXIT_USAGE, "") and err.startswith("ERROR: ") and err.count("\n") == 1
    assert argument.partition("=")[2] in err


@pytest.mark.parametrize(
    ("binary", "argument"),
    [
        ("launch", "--num_workers=0"),
        ("launch", "--cluster=pbs"),
        ("ray_train", "--max_restarts=-1"),
        ("generate", "--num_samples=0"),
        ("generate", "--output=picture.jpg"),
        ("generate", "--interpolate=1"),
        ("generate", "--columns=0"),
        ("generate", "--seed=-1"),
        ("evaluate", "--num_samples=x"),
        ("prepare", "--data_dir=~nobody_of_that_name"),
    ],
)
def test_a_wrong_flag_of_another_binary(binary, argument):
    required = {"generate": ["--model_dir=m", "--output=x.npz"], "evaluate": ["--model_dir=m"]}
    code, out, err = answer(binary, *required.get(binary, []), argument)
    assert (code, out) == (EXIT_USAGE, "") and err.startswith("ERROR: ") and err.count("\n") == 1
    assert argument.partition("=")[2] in err


@pytest.mark.parametrize(
    ("binary", "paths"),
    [
        ("train", {"model_dir", "data_dir", "warm_start", "feature_network", "inception_weights", "cache_dir"}),
        ("launch", {"log_dir"}),
        ("evaluate", {"model_dir", "data_dir", "inception_weights", "feature_network", "cache_dir"}),
        ("export", {"model_dir", "data_dir", "output"}),
        ("generate", {"model_dir", "data_dir", "output"}),
        ("prepare", {"data_dir", "source_dir"}),
        ("compare", {"results", "document", "data_dir", "feature_network", "cache_dir"}),
    ],
)
def test_paths_may_begin_with_a_tilde(binary, paths):
    """Every flag that names a file or a folder says so in the help of its binary."""
    _, out, _ = answer(binary, "--help")
    flags = out.partition(f"trainers/{binary}.py:\n")[2].split("\n  --")
    assert {flag.partition(":")[0].strip(" -") for flag in flags if "(a path; ~ is your home folder)" in flag} == paths


def test_a_run_below_the_home_folder(tmp_path, monkeypatch):
    """The launcher and its workers find one folder; bash leaves `~` alone behind `=`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = answer("launch", "--num_workers=1", "--", "--model_dir=~/runs/x", "--steps=0")
    log = tmp_path / "runs" / "x" / "logs" / "worker_0.log"
    assert code == EXIT_USAGE and f"The end of {log}:" in err and log.read_text().startswith("ERROR: flag --steps=0")
    assert not (ROOT / "~").exists()
