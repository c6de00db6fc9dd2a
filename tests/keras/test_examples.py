"""System: every program of examples/ runs to its end, in one process and in two, and learns something."""

import pathlib
import re

import pytest

from tests.distributed import cluster

ROOT = pathlib.Path(__file__).resolve().parents[2]
# An interpreter of its own, as a user starts it: Keras reads KERAS_HOME when it is imported.
FRESH = "import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
# Program: (short arguments, what its last lines say, a test of the numbers in them).
EXAMPLES = {
    "classifier": (
        ["--epochs=2", "--samples=5120"],
        r"validation accuracy (\S+)\n(\S+) bytes per worker",
        lambda accuracy, sent: accuracy > 0.6 and sent >= 0,
    ),
    "vae": (
        ["--epochs=2", "--samples=5120"],
        r"loss (\S+) in the first epoch, (\S+) in the last",
        lambda first, last: last < first,
    ),
    "diffusion": (
        ["--steps=60"],
        r"loss (\S+) in the first tenth, (\S+) in the last\nsamples between the radii (\S+) and (\S+)",
        lambda first, last, low, high: last < first and 0 <= low < high < 10,
    ),
    "gan": (
        ["--epochs=1", "--samples=2560"],
        r"samples \(64, 784\) in \[(\S+), (\S+)\]",
        lambda low, high: -1 <= low < high <= 1,
    ),
}


@pytest.fixture
def keras_home(tmp_path, data_dir):
    """Keras' cache with the data set in it, so that `load_data` needs no network."""
    cache = tmp_path / "keras" / "datasets" / "fashion-mnist"
    cache.mkdir(parents=True)
    for path in (data_dir / "fashion_mnist").glob("*.gz"):
        (cache / path.name).symlink_to(path.resolve())
    return tmp_path / "keras"


def run(name, folder, keras_home, num_workers, *extra):
    """Runs a program to its end; returns what each worker printed."""
    arguments, pattern, holds = EXAMPLES[name]
    done = cluster.run(
        ["-c", FRESH, str(ROOT / "examples" / f"{name}.py"), *arguments, *extra],
        folder,
        num_workers,
        environment={"KERAS_HOME": str(keras_home)},
    )
    found = re.search(pattern, done.logs[0].read_text())
    assert found, done.output()
    numbers = [float(text.replace(",", "")) for text in found.groups()]
    assert holds(*numbers), numbers
    return [log.read_text() for log in done.logs], numbers


def test_there_is_no_other_example():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_one_process(name, tmp_path, keras_home):
    run(name, tmp_path / "logs", keras_home, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_two_processes_of_which_the_chief_speaks(name, tmp_path, keras_home):
    (_, second), _ = run(name, tmp_path / "logs", keras_home, 2)
    assert not re.search(EXAMPLES[name][1], second)


@pytest.mark.slow
def test_the_classifier_resumes(tmp_path, keras_home):
    option = f"--checkpoints={tmp_path / 'checkpoints'}"
    run("classifier", tmp_path / "first", keras_home, 2, option)
    (output, _), (_, sent) = run("classifier", tmp_path / "second", keras_home, 2, option, "--epochs=3")
    assert "Epoch 3/3" in output and "Epoch 2/3" not in output and sent > 0
