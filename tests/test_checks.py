"""System: the checks of lint, hooks and hosted workflow are one list; mutants name lines that exist."""

import pathlib
import re
import tomllib

import pytest

from tests import mutants

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
WORKFLOW = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")


def recipe(target):
    """The commands of a target of the Makefile."""
    [lines] = re.findall(rf"^{target}:[^\n]*\n((?:\t[^\n]*\n)+)", MAKEFILE, re.MULTILINE)
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in lines.splitlines()]


def test_the_hooks_are_the_commands_of_make_lint():
    commands = re.findall(r"^ +entry: (.+)$", HOOKS, re.MULTILINE)
    assert commands == recipe("lint")
    assert [command.split()[0] for command in commands].count(".venv/bin/ruff") == 2
    assert ".venv/bin/mypy" in commands


def test_make_test_lints_first():
    assert re.search(r"^test:.* lint\b", MAKEFILE, re.MULTILINE)


def test_the_hosted_workflow_runs_make_test():
    assert re.findall(r"^ +- run: (.+)$", WORKFLOW, re.MULTILINE) == ["make test PYTHON=python"]


def test_the_hosted_workflow_has_the_supported_versions():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    first, last = map(int, re.search(r'python_requires=">=3\.(\d+),<3\.(\d+)"', setup).groups())
    [pythons] = re.findall(r"python: \[(.+)\]", WORKFLOW)
    assert pythons == ", ".join(f'"3.{minor}"' for minor in range(first, last))
    oldest = (ROOT / ".github" / "oldest.txt").read_text(encoding="utf-8").split()
    allowed = dict(re.findall(r'^(TENSORFLOW|KERAS) = "[~>]=([\d.]+)', setup, re.MULTILINE))
    assert oldest == [f"tensorflow=={allowed['TENSORFLOW']}", f"keras=={allowed['KERAS']}"]


def test_the_checker_reads_the_lowest_python_that_is_supported():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert settings["mypy"]["python_version"].replace("3.", "py3") == settings["ruff"]["target-version"]


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.fault)
def test_a_mutant_names_a_line_that_exists(mutant):
    """`python -m tests.mutants` takes an hour, so a change of that line would be noticed late."""
    assert (ROOT / mutant.path).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.tests and all((ROOT / test).exists() for test in mutant.tests)
