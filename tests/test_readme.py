"""System tests of the documents: every block of code in them runs or is parsed, what they name exists, and README's
figures are those of results/."""

import ast
import importlib
import json
import pathlib
import re
import shlex
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import dqgan_tf
from benchmarks import evidence_tables, links
from dqgan_tf.distribute import tf_config
from dqgan_tf.telemetry import json_lines

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = (
    "README.md",
    "BUILD.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
)
SHELL_DOCUMENTS = (
    "README.md",
    "BUILD.md",
    "docs/clusters.md",
    "docs/data.md",
    "docs/methods.md",
    "docs/operations.md",
    "docs/images/README.md",
)
STARTERS = ("launch", "ray_train")
BINARIES = {path.stem for path in (ROOT / "trainers").glob("*.py")}
MODULES = {"dqgan_tf.compressors", "benchmarks.quality", "benchmarks.structure", "flags.table"}
PARSED = {"benchmarks.gpu"}  # programs that have a `make_parser`


def blocks(document):
    """(language, text) of every fenced block; the language of a block of shell commands is empty."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


def commands(text):
    """The words of every command of a block: continued lines are joined, comments dropped."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def check(words):
    """Asserts that a shell command of a document would be understood."""
    if words[0] == "export":
        words = words[1:]
    while re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words[0].partition("=")
        if name == "DQGAN_TEST_GPU":
            assert value == "1" and 'environ.get("DQGAN_TEST_GPU") != "1"' in (ROOT / "tests/conftest.py").read_text()
            words = words[1:]
            continue
        assert name == "TF_CONFIG"
        assert tf_config.is_evaluator({name: value}) or tf_config.read({name: value}).num_workers == 2
        words = words[1:]
        if not words:
            return
    program, arguments = pathlib.Path(words[0]).name, words[1:]
    if re.match(r"python(3\.\d+)?$", program) and arguments[0] == "-m":
        check_module(arguments[1], arguments[2:])
    elif program == "make":
        check_make(arguments)
    elif program.startswith("dqgan-"):
        parse_flags(program.removeprefix("dqgan-"), arguments)
    elif program == "pip":
        check_pip(arguments)
    else:
        assert (program, *arguments) == ("twine", "check", "dist/*"), words


def check_module(module, arguments):
    name = module.removeprefix("trainers.")
    if name != module and name in BINARIES:
        parse_flags(name, arguments)
    elif module in PARSED:
        parser = importlib.import_module(module).make_parser()
        parser.error = pytest.fail
        parser.parse_args(arguments)
    elif module == "pytest" and arguments[0].startswith("tests/"):
        assert all((ROOT / path).exists() for path in arguments), arguments
    else:
        known = {("venv", ".venv"), ("pytest", "-m", "not slow"), ("build", "--wheel")}
        assert (module, *arguments) in known or module in MODULES and not arguments, (module, arguments)


def parse_flags(binary, arguments):
    """The binary's own parser and validators read the arguments; the starters hand some to `trainers.train`."""
    program = (
        f"import sys; from dqgan_tf.training import command; from trainers import {binary}\n"
        f"behind = command.parse(['{binary}', *sys.argv[1:]], has_dashes={binary in STARTERS})\n"
        "print('\\n'.join(behind[1:]))\n" + ("train.run_flags.run_config()" if binary == "train" else "")
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (binary, arguments, done.stderr)
    if binary in STARTERS:
        parse_flags("train", done.stdout.splitlines())


def check_make(arguments):
    makefile = (ROOT / "Makefile").read_text()
    for word in arguments:
        name, assigned, value = word.partition("=")
        assert re.search(rf"^{name} \?=" if assigned else rf"^{name}:", makefile, re.MULTILINE), word
        assert name != "FLAGFILE" or (ROOT / value).exists(), word


def check_pip(arguments):
    assert arguments[0] == "install" and set(arguments[1:-1]) <= {"-e"}
    folder, extra = re.fullmatch(r"(\.)(?:\[(\w+)\])?", arguments[-1]).groups()
    setup = (ROOT / folder / "setup.py").read_text()
    assert extra is None or re.search(rf'^ +"{extra}": (\[|TEST,)', setup, re.MULTILINE), extra


@pytest.mark.parametrize("document", SHELL_DOCUMENTS)
def test_every_shell_command_is_understood(document):
    found = [words for language, text in blocks(document) if not language for words in commands(text)]
    assert found
    for words in found:
        check(words)


@pytest.mark.parametrize(
    "line",
    [
        "make trian",
        "make train STEPS=5",
        "pip install '.[bench]'",
        ".venv/bin/python -m trainers.generate --model_dir=runs/ring --output=samples.gif",
        "dqgan-export --model_dir=runs/ring",
        ".venv/bin/python -m trainers.launch --num_workers=2 -- --model_dir=a --compressor=tripleary",
        ".venv/bin/python -m trainers.launch --num_workers=0 -- --model_dir=a",
        ".venv/bin/python -m trainers.train --flagfile=flags/experiments/square.flags --model_dir=a",
        ".venv/bin/python -m benchmarks.qualities",
        ".venv/bin/python -m benchmarks.gpu --output=a --only=kernel",
        "DQGAN_TEST_GPU=2 .venv/bin/python -m pytest tests/compressors",
        "DQGAN_TEST_GPU=1 .venv/bin/python -m pytest tests/compressor",
        'TF_CONFIG=\'{"cluster": {"worker": ["host0:2222"]}, "task": {}}\' make train',
        "curl example.org",
    ],
)
def test_a_wrong_command_is_seen(line):
    with pytest.raises((Exception, pytest.fail.Exception)):
        [words] = commands(line)
        check(words)


def test_every_block_has_its_test():
    """Blocks of shell commands, of Python and of a diff have tests here or in tests/compressors/test_recipe.py."""
    languages = {document: {language for language, _ in blocks(document)} for document in DOCUMENTS}
    assert languages.pop("README.md") == {"", "diff", "python"}
    assert languages.pop("CONTRIBUTING.md") == {"python"}  # test_recipe.py runs all of them
    assert languages.pop("docs/keras.md") == {"python"}  # tests/keras/test_document.py runs all of them
    assert languages.pop("docs/methods.md") == {"", "python"}  # test_the_block_of_methods_runs
    assert languages.pop("docs/operations.md") == {"", "text"}
    assert languages.pop("docs/clusters.md") == {"", "text", "python"}  # tests/training/test_clusters.py runs the last
    for document, names in languages.items():
        assert names == set() or document in SHELL_DOCUMENTS and names == {""}, document


def test_the_block_of_methods_runs():
    compiled = []
    gan = types.SimpleNamespace(compile=lambda *settings: compiled.extend(settings))
    names = {"gan": gan, "dqgan_tf": dqgan_tf, "OptimizerConfig": dqgan_tf.OptimizerConfig}
    [block] = [text for language, text in blocks("docs/methods.md") if language == "python"]
    exec(block, names | {"CompressionConfig": dqgan_tf.CompressionConfig})
    optimizer, compression = compiled
    assert (optimizer.exchange, optimizer.step_rule, compression.error_feedback) == ("gradient", "optimistic", True)


def sides(diff):
    """The script before and after a diff."""
    lines = diff.splitlines()
    return ["\n".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +")]


def diffs():
    """Of a GAN, and of any other model."""
    return [text for language, text in blocks("README.md") if language == "diff"]


def test_the_diff_of_a_gan_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, after = sides(diffs()[0])
    assert ast.parse(before) and "dqgan_tf" not in before
    samples = np.random.default_rng(0).standard_normal((8, 2)).astype(np.float32)
    names = {
        **{"keras": keras, "tf": tf, "dataset": tf.data.Dataset.from_tensor_slices(samples).batch(4)},
        "build_generator": lambda: keras.Sequential([keras.Input((128,)), keras.layers.Dense(2)]),
        "build_discriminator": lambda: keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]),
    }
    exec(after, names)
    gan = names["gan"]
    assert (int(gan.step.numpy()), int(gan.skipped.numpy())) == (20, 0)  # 10 epochs of 2 batches
    assert gan.channel.vectors[0].compressor.spec == "linear:bits=4,bucket=512"
    assert list((tmp_path / "logs").rglob("events.*"))


def test_the_diff_of_another_model_runs():
    _, diff = diffs()
    before, after = sides(diff)
    assert ast.parse(before) and "dqgan_tf" not in before
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    names = {
        **{"keras": keras, "tf": tf, "dataset": tf.data.Dataset.from_tensor_slices((x, np.arange(8) % 3)).batch(4)},
        "build_classifier": lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")]),
    }
    exec(after, names)
    optimizer = names["model"].optimizer
    assert int(optimizer.iterations.numpy()) == 20  # 10 epochs of 2 batches
    assert optimizer.compression.config.compressor == "linear:bits=4,bucket=512"


def test_the_python_block_runs():
    [block] = [text for language, text in blocks("README.md") if language == "python"]
    names = {}
    exec(block, names)
    kernel, bias = names["means"]
    # A sign times the mean magnitude of its bucket. 15 buckets hold 512 ones; the last 160 ones and the zeros of bias.
    np.testing.assert_array_equal(kernel[:768], np.ones([768, 10]))
    np.testing.assert_allclose(kernel[768:], np.full([16, 10], 160 / 170), rtol=1e-6)
    np.testing.assert_allclose(bias, np.full([10], 160 / 170), rtol=1e-6)
    assert names["channel"].wire_bytes == 16 * (512 // 8 + 4)  # a bit for each value of 16 buckets, and their scales


def test_every_name_of_the_package_is_exported():
    names = set(re.findall(r"dqgan_tf\.([A-Z]\w+)", README))
    assert {"DQGAN", "CompressedStrategy", "OptimizerConfig", "CompressionConfig"} <= names
    for name in names:
        assert getattr(dqgan_tf, name).__name__ == name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_exists(document):
    text = (ROOT / document).read_text()
    linked = re.findall(r"\]\(([^):#]+)\)", text)
    for path in linked:
        assert ((ROOT / document).parent / path).exists(), path
    folders = "benchmarks|docs|dqgan_tf|flags|results|tests|trainers"
    for path in re.findall(rf"`((?:{folders})/[\w./]+)`", text):
        if document != "CONTRIBUTING.md" or "truncate" not in path:  # the recipe's own file
            assert (ROOT / path).exists(), path


def test_make_targets_in_sentences_exist():
    for document in DOCUMENTS:
        for target in re.findall(r"`make ([\w-]+)", (ROOT / document).read_text()):
            check_make([target])


def test_the_functions_of_the_algorithm_exist():
    """`file: function` and `file: Class.method` of docs/algorithm.md."""
    places = re.findall(r"`([\w/]+\.py): ([\w.]+)`", (ROOT / "docs" / "algorithm.md").read_text())
    assert len(places) > 15
    for file, name in places:
        value = importlib.import_module(f"dqgan_tf.{file.removesuffix('.py').replace('/', '.')}")
        for part in name.split("."):
            value = getattr(value, part)


def recorded(folder, **wanted):
    """The entries of a folder of results with these values."""
    entries = map(json.loads, (ROOT / "results" / folder / "runs.jsonl").read_text().splitlines())
    return [entry for entry in entries if all(entry[key] == value for key, value in wanted.items())]


def test_the_first_sentences_round_what_was_recorded():
    [claimed] = re.findall(
        r"(\d+) times fewer\sbytes at 4 bits, (\d+) times fewer at 1 bit \(`sign`\), and (\d+) times fewer "
        r"if it sends only the largest 1 %",
        README,
    )
    [dense] = recorded("ring", variant="float32, no compression")
    for times, variant in zip(claimed, ("4 bit (the default job)", "1 bit sign", "top 1 %"), strict=True):
        [run] = recorded("ring", variant=variant)
        assert int(times) == round(dense["sent_bytes_per_step"] / run["sent_bytes_per_step"])


def test_the_tables_and_pictures_of_results_are_there():
    """`tests/benchmarks/test_evidence_tables.py` compares the tables with the recorded runs."""
    tables = re.findall("<!-- results:([a-z_]+) -->", README)
    assert set(tables) == {"fashion_mnist", "mixture_ring", "exchange", "slow_links"} <= set(evidence_tables.TABLES)
    for name in re.findall(r"!\[[^]]*\]\((results/[^)]+)\)", README):
        assert (ROOT / name).exists(), name


COLUMNS = ("float32", "float16", "linear:bits=8,bucket=512", "linear:bits=4,bucket=512", "sign:bucket=512")
COLUMNS += ("topk:fraction=0.01+linear:bits=8,bucket=512", "torch_float32")


@pytest.mark.parametrize(
    ("row", "rate"),
    [("loopback", "loopback"), ("10 Gbit/s", "10gbit"), ("1 Gbit/s", "1gbit"), ("100 Mbit/s", "100mbit")],
)
def test_the_table_of_speed_rounds_what_was_recorded(row, rate):
    shown = re.search(rf"^\| {row} \|(.*)\|$", README, re.MULTILINE).group(1).split("|")
    for cell, variant in zip(shown, COLUMNS, strict=True):
        last = recorded("exchange", kind="exchange", rate=rate, variant=variant, workers=2)[-1]
        assert abs(float(cell) - last["milliseconds_median"]) <= 0.5, variant
        assert f"{last['hardware']}; commit {last['commit']}" in README


LINKS = ("float32", "none@auto@4", "fp16@auto@4", "linear:bits=8,bucket=512@auto@4", "linear:bits=4,bucket=512@auto@4")
LINKS += ("sign:bucket=512@auto@4", "sign:bucket=512@auto@4/K=8", "sign:bucket=512@auto@4/K=32", "alone/K=8")


@pytest.mark.parametrize(("row", "rate"), [("100 Mbit/s", "100mbit"), ("20 Mbit/s", "20mbit")])
def test_the_table_of_slow_links_rounds_what_was_recorded(row, rate):
    text = README.split("**Slow links.**")[1]
    shown = re.search(rf"^\| {row} \|(.*)\|$", text, re.MULTILINE).group(1).split("|")
    for folder in ("speedup", "local"):
        page = links.table(json_lines.read(ROOT / "results" / folder / "links.jsonl"))
        assert (ROOT / "results" / folder / "links.md").read_text().strip() == page.strip()
    for cell, variant in zip(shown, LINKS, strict=True):
        recorded = re.search(rf"^\| {rate} \| {re.escape(variant)} \| ([\d.]+) \|", page, re.MULTILINE).group(1)
        assert float(cell) == pytest.approx(float(recorded), abs=0.051), variant
