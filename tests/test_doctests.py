"""System: every example in a docstring of the library runs and prints what it says."""

import doctest
import importlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = [path for path in sorted((ROOT / "dqgan_tf").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
ENTRANCES = {
    "dqgan_tf.compressors.base": "Compressor",
    "dqgan_tf.compressors.registry": "get",
    "dqgan_tf.config": "from_json",
    "dqgan_tf.distribute.strategy": "CompressedStrategy",
    "dqgan_tf.error_feedback": "encode",
    "dqgan_tf.gan.model": "DQGAN",
}


def module(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return importlib.import_module(name.removesuffix(".__init__"))


def examples(path):
    found = doctest.DocTestFinder(recurse=True).find(module(path))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_examples_of_a_file(path):
    tests = examples(path)
    assert tests, "an example stands where doctest does not look, such as in a comment"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report = []
    for test in tests:
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def test_the_entrances_have_examples():
    for name, entrance in ENTRANCES.items():
        tests = doctest.DocTestFinder().find(getattr(importlib.import_module(name), entrance), entrance)
        assert tests[0].examples, name


def test_a_wrong_example_is_seen():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner(verbose=False).run(test, out=lambda text: None).failed == 1
