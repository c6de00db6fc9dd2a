"""Identity: flags and configuration agree. By hand: what is refused, and with which words."""

import pathlib
import re

import pytest
from absl.flags import FLAGS
from absl.testing import flagsaver

from dqgan_tf import commands, config, fields
from dqgan_tf.config import RunConfig
from dqgan_tf.errors import EXIT_USAGE, UsageError
from dqgan_tf.training import command
from flags import run, table

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIELDS = config.settings()


@pytest.fixture(autouse=True)
def fresh_flags():
    with flagsaver.flagsaver():
        yield


def parsed(*arguments):
    """The configuration of a command line; a refused one exits."""
    assert command.parse(["train", *arguments]) == ["train"]
    return run.run_config()


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        command.parse(["train", "--model_dir=m", *arguments])
    assert caught.value.code == EXIT_USAGE
    text = capsys.readouterr().err
    assert text.startswith("ERROR: ") and text.count("\n") == 1
    return text


def group_of(key):
    return f"settings of {key.rpartition('.')[0] or 'the run'}"


def test_one_flag_a_setting_listed_under_its_group():
    defined = {}
    for module, flags in FLAGS.flags_by_module_dict().items():
        if module.startswith("settings of "):
            defined |= {flag.name: module for flag in flags}
    assert defined == {field.name: group_of(key) for key, field in FIELDS.items()}


@pytest.mark.parametrize("key", [key for key in FIELDS if key != "model_dir"])
def test_defaults_are_those_of_the_dataclass(key):
    field = FIELDS[key]
    value = FLAGS[field.name].default
    assert value == field.default and type(value) is type(field.default)
    assert FLAGS[field.name].help == field.metadata["help"]


def test_no_argument_gives_the_default_configuration():
    assert parsed("--model_dir=m") == RunConfig(model_dir="m")


@pytest.mark.parametrize("key", [key for key, field in FIELDS.items() if not field.metadata["is_path"]])
@pytest.mark.parametrize("value", ["x", "-1", "nan", "1.5", "0", "4294967296", "true"])
def test_a_flag_takes_and_refuses_what_the_dataclass_does(key, value, capsys):
    """The same sentence, behind the flag's name."""
    field = FIELDS[key]
    kind, _ = fields.value_type(field)
    try:
        typed = {"true": True, "0": False}.get(value, value) if kind is bool else kind(value)
    except ValueError:
        typed = value
    try:
        accepted = fields.check(field, typed)
    except UsageError as error:
        text = refusal(capsys, f"--{field.name}={value}")
        assert text == f"ERROR: flag --{field.name}={value}: {error} (see --helpshort)\n"
    else:
        assert command.parse(["train", "--model_dir=m", f"--{field.name}={value}"]) == ["train"]
        assert FLAGS[field.name].value == accepted


def test_every_number_is_refused_with_one_that_works(capsys):
    numbers = [field.name for field in FIELDS.values() if fields.value_type(field)[0] in (int, float)]
    assert len(numbers) > 20
    for name in numbers:
        works = refusal(capsys, f"--{name}=x").partition("A value that works is ")[2].split()[0]
        assert works.startswith(f"{name}=") and parsed("--model_dir=m", f"--{works}")


def test_every_kind_of_value_arrives():
    arguments = "--dataset=mnist --image_size=32 --nobatch_norm --half_step=none --gradient_penalty=5 --steps=0x10"
    described = parsed("--model_dir=m", "--transport", "ring", *arguments.split())
    changed = {key: value for key, value in described.flat().items() if value != RunConfig().flat()[key]}
    assert changed == {
        "model_dir": "m",
        "data.dataset": "mnist",
        "data.image_size": 32,
        "network.batch_norm": False,
        "loss.gradient_penalty": 5.0,
        "optimizer.half_step": "none",
        "compression.transport": "ring",
        "train.steps": 16,
    }


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--beta_1=1", ("`beta_1` must be a number of at least 0 and below 1", "beta_1=1.0")),
        ("--ema_decay=1", ("`ema_decay`", "1.0", "A value that works is ema_decay=0.999")),
        ("--epsilon=0", ("`epsilon` must be a number above 0",)),
        ("--learning_rate_d=nan", ("learning_rate_d", "nan")),
        ("--learning_rate_g=1e999", ("`learning_rate_g` must be a number above 0", "inf")),
        ("--batch_size=1.5", ("`batch_size` must be a whole number of at least 1", "'1.5'")),
        ("--network=vgg", ("`network` must be one of mlp, dcgan", "'vgg'")),
        ("--transport=mpi", ("`transport` must be one of auto, sockets, ring, nccl", "'mpi'")),
        ("--packet_mb=-1", ("packet_mb", "-1", "A value that works is packet_mb=4.0")),
        ("--start_step=x", ("start_step", "'x'", "A value that works is start_step=0")),
        ("--width=wide", ("width", "'wide'", "A value that works is width=64")),
        ("--half_step=maybe", ("`half_step` must be one of own, common, corrected, none", "'maybe'")),
        ("--compresor=none", ("Unknown command line flag 'compresor'", "compressor")),
        ("--bucket_mb=4", ("Unknown command line flag 'bucket_mb'",)),
        ("--flagfile=no_such_file.flags", ("no_such_file.flags",)),
        ("--data_dir=~nobody_of_that_name/x", ("there is no such user", "write ./~nobody_of_that_name/x")),
        ("stray", ("Unexpected argument 'stray'",)),
    ],
)
def test_a_bad_value_is_refused_with_a_sentence(capsys, argument, words):
    text = refusal(capsys, argument)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--compressor=linear:bits=12", ("bits", "12")),
        ("--compressor=sgin", ("sgin", "linear", "topk")),
        ("--compressor_rules=;", ("PATTERN=SPEC", "=none")),
    ],
)
def test_a_compressor_that_does_not_exist_is_refused(argument, words):
    with pytest.raises(UsageError) as caught:
        parsed("--model_dir=m", argument)
    assert all(word in str(caught.value) for word in words)


def test_model_dir_is_required(capsys):
    with pytest.raises(SystemExit):
        command.parse(["train"])
    assert "--model_dir" in capsys.readouterr().err


@pytest.mark.parametrize("key", [key for key, field in FIELDS.items() if field.metadata["is_path"]])
def test_a_path_below_the_home_folder(key, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parsed("--model_dir=m", f"--{FIELDS[key].name}=~/x").flat()[key] == "/home/somebody/x"


def test_the_table_of_settings_is_that_of_the_code():
    assert (ROOT / "docs" / "settings.md").read_text() == table.render(), "python -m flags.table > docs/settings.md"
    assert all(f"| `--{field.name}` |" in table.render() for field in FIELDS.values())


def test_the_settings_of_readme_are_those_of_the_code():
    written = (ROOT / "README.md").read_text().partition("<!-- settings -->\n")[2].partition("<!-- /settings -->")[0]
    names = re.findall(r"^\| `--(\w+)` \|", written, re.MULTILINE)
    assert len(names) >= 5
    assert written == table.excerpt(*names), f"python -m flags.table {' '.join(names)}"


def test_no_two_groups_have_a_setting_of_one_name():
    assert len({field.name for field in FIELDS.values()}) == len(FIELDS)


def test_our_flag_files_have_short_names(tmp_path, monkeypatch):
    """In both forms that absl knows, unless the working folder has a file of that name."""
    monkeypatch.chdir(tmp_path)
    ring = str(ROOT / "flags" / "experiments" / "ring.flags")
    for arguments, expected in (
        (["--flagfile=ring.flags", "--steps=3"], [f"--flagfile={ring}", "--steps=3"]),
        (["--steps=3", "-flagfile", "flags/experiments/ring.flags"], ["--steps=3", "-flagfile", ring]),
        (["--flagfile", "nothing.flags", "--notes=a b"], ["--flagfile", "nothing.flags", "--notes=a b"]),
        ([], []),
    ):
        assert commands._with_flagfiles(arguments) == expected
    (tmp_path / "ring.flags").touch()
    assert commands._with_flagfiles(["--flagfile=ring.flags"]) == ["--flagfile=ring.flags"]
