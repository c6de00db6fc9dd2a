"""System: what a wheel holds and says, and what the bare import costs."""

import ast
import email
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

import dqgan_tf

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
    assert set(names) == {path.relative_to(ROOT).as_posix() for path in sources}


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
    # Keras 3.15 requires 3.11; TensorFlow 2.21 has no wheel beyond 3.13.
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.14"}


def test_tensorflow_and_keras_are_held_to_the_minor_version_that_was_read(metadata):
    required = {
        re.split(r"[~<>=;\[ ]", text)[0]: text for text in metadata.get_all("Requires-Dist") if "extra" not in text
    }
    assert required["tensorflow"] == "tensorflow~=2.21.0"
    assert required["keras"] == "keras~=3.15.1"


def test_the_gpu_extra_is_the_same_tensorflow(metadata):
    [gpu] = [text for text in metadata.get_all("Requires-Dist") if "extra ==" in text and "gpu" in text]
    assert gpu.startswith("tensorflow[and-cuda]~=2.21.0")


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
