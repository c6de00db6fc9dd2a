"""System: what a wheel holds and says, and what the bare import costs."""

import ast
import configparser
import email
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import types
import zipfile

import numpy as np
import pytest
import tensorflow as tf

import dqgan_tf
from dqgan_tf import commands
from dqgan_tf.training import samples

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUTPUTS = shutil.ignore_patterns("__pycache__", "*.pyc")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the checkout, so that no build output lands in it."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("benchmarks", "dqgan_tf", "flags", "trainers", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=OUTPUTS)
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", "wheels"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    [path] = (copy / "wheels").glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel):
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def test_the_wheel_holds_the_library_and_nothing_else(wheel):
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"dqgan_tf"}
    sources = [path for path in (ROOT / "dqgan_tf").rglob("*") if path.suffix in (".py", ".pyi", ".typed")]
    binaries = [ROOT / "trainers" / f"{name}.py" for name in commands.NAMES]
    binaries += [path for path in (ROOT / "flags").rglob("*") if path.suffix in (".py", ".flags")]
    expected = {path.relative_to(ROOT).as_posix() for path in sources}
    assert set(names) == expected | {f"dqgan_tf/_commands/{path.relative_to(ROOT).as_posix()}" for path in binaries}


def test_every_binary_is_a_console_script_but_those_that_measure_a_checkout(wheel):
    [name] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    scripts = configparser.ConfigParser()
    scripts.read_string(wheel.read(name).decode())
    binaries = {path.stem for path in (ROOT / "trainers").glob("*.py")} - {"benchmark", "compare"}
    assert dict(scripts["console_scripts"]) == {f"dqgan-{name}": f"dqgan_tf.commands:{name}" for name in binaries}
    assert all(callable(getattr(commands, name)) for name in binaries)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Folder into which pip has installed the wheel, without what it requires."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", f"--target={folder}"]
    done = subprocess.run([*command, wheel.filename], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


def run_script(installed, cwd, name, *arguments):
    """Runs a console script in the folder `cwd` and returns its output."""
    environment = os.environ | {"PYTHONPATH": str(installed), "HOME": str(cwd)}
    command = [str(installed / "bin" / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_scripts_run_from_any_folder_and_exports_load_without_the_library(installed, tmp_path):
    """A job of two workers from an installed wheel, in a folder with names that stand in its way; then from its
    model_dir alone: its data are gone."""
    for name in ("flags", "trainers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the package of the user')")
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1), np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(40) % 4)
    network = ["--flagfile=fashion_mnist.flags", "--dataset=own.npz", "--width=4", "--batch_size=8"]
    network.append("--shards=by_class")
    periods = ["--steps=2", "--steps_per_call=1", "--log_every=1", "--sample_every=2"]
    run_script(installed, tmp_path, "dqgan-launch", "--num_workers=2", "--", "--model_dir=run", *network, *periods)
    (tmp_path / "own.npz").unlink()
    picture = ["--model_dir=run", "--output=paths.png", "--num_samples=12", "--interpolate=4"]
    assert "12 samples of step 2" in run_script(installed, tmp_path, "dqgan-generate", *picture)
    assert tf.io.decode_png((tmp_path / "paths.png").read_bytes()).shape == (3 * 30 - 2, 4 * 30 - 2, 1)
    samples = ["--model_dir=run", "--output=samples.npz", "--num_samples=3", "--seed=7"]
    run_script(installed, tmp_path, "dqgan-generate", *samples)
    for output in ("generator.keras", "saved_model"):
        run_script(installed, tmp_path, "dqgan-export", "--model_dir=run", f"--output={output}")
    program = """
import sys
sys.modules["dqgan_tf"] = None  # an import of the library fails
import keras, numpy as np, tensorflow as tf
latent = np.load("latent.npy")
a = keras.models.load_model("generator.keras").predict(latent, verbose=0)
loaded = tf.saved_model.load("saved_model")
b = loaded.serve(latent).numpy()
np.testing.assert_array_less(np.abs(a - b), 1e-5)
np.save("drawn.npy", np.rint(127.5 * (np.clip(a, -1, 1) + 1)))
"""
    np.save(tmp_path / "latent.npy", np.concatenate([latents(7, 128)])[:3])
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    difference = np.load(tmp_path / "drawn.npy") - np.load(tmp_path / "samples.npz")["samples"].astype(float)
    assert np.abs(difference).max() <= 1  # a value between two bytes may fall on either side


def latents(seed, latent_dim):
    """The first latents of a seed, as docs/data.md gives them."""
    return samples.latents(types.SimpleNamespace(seed=0, latent_dim=latent_dim), 0, 500, seed=seed, interpolate=None)


def test_type_checkers_of_users_see_our_types(wheel):
    """PEP 561: without `py.typed` they ignore the annotations. The stub replaces the lazy `__init__.py` for them."""
    assert {"dqgan_tf/py.typed", "dqgan_tf/__init__.pyi"} <= set(wheel.namelist())
    stub = ast.parse((ROOT / "dqgan_tf" / "__init__.pyi").read_text(encoding="utf-8"))
    names = [alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    names += [node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)]
    assert sorted(names) == sorted(dqgan_tf.__all__)


def test_the_wheel_holds_no_benchmark(wheel):
    assert not [name for name in wheel.namelist() if "benchmark" in name]
    assert (ROOT / "benchmarks" / "run.py").exists()


def test_the_wheel_carries_the_licence(wheel):
    [name] = [name for name in wheel.namelist() if name.endswith("LICENSE")]
    assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_names_version_and_python(metadata):
    assert metadata["Name"] == "dqgan-tf"
    assert metadata["Version"] == dqgan_tf.__version__
    # Keras 3.15 requires 3.11; TensorFlow 2.20 and 2.21 have no wheel beyond 3.13.
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.14"}


def test_tensorflow_and_keras_are_held_to_the_minor_versions_that_were_tried(metadata):
    required = {
        re.split(r"[~<>=;\[ ]", text)[0]: text for text in metadata.get_all("Requires-Dist") if "extra" not in text
    }
    assert set(required["tensorflow"].removeprefix("tensorflow").split(",")) == {">=2.20.0", "<2.23"}
    assert required["keras"] == "keras~=3.15.1"


def test_the_gpu_extra_is_the_same_tensorflow(metadata):
    [gpu] = [text for text in metadata.get_all("Requires-Dist") if "extra ==" in text and "gpu" in text]
    assert set(gpu.partition(";")[0].strip().removeprefix("tensorflow[and-cuda]").split(",")) == {">=2.20.0", "<2.23"}


def test_ruff_reads_the_lowest_python_that_is_supported(metadata):
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lowest = re.search(r">=3\.(\d+)", metadata["Requires-Python"]).group(1)
    assert settings["tool"]["ruff"]["target-version"] == f"py3{lowest}"


def test_the_newest_change_is_the_version():
    headings = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [heading for heading in headings if heading != "Unreleased"][0] == dqgan_tf.__version__


def test_the_citation_names_the_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (\S+)$", text, re.MULTILINE).group(1) == dqgan_tf.__version__


@pytest.mark.parametrize("module", ["dqgan_tf", "dqgan_tf.config", "dqgan_tf.training.launcher", "dqgan_tf.telemetry"])
def test_import_leaves_tensorflow_alone(module):
    code = f"import sys, {module}; print(sorted({{'tensorflow', 'keras', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_name_that_the_library_does_not_have():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        dqgan_tf.nothing  # noqa: B018
