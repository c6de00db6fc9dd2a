"""CONTRIBUTING's example of a new compressor: written to a file, registered by its line, tested by its class."""

import importlib.util
import pathlib
import re
import sys
import tempfile

import numpy as np
import pytest

from dqgan_tf import compressors
from dqgan_tf.compressors import registry
from dqgan_tf.errors import UsageError
from tests.contracts import small_compressors
from tests.contracts.compressor_contract import SEED, CompressorContract, encode, round_trip, vectors
from tests.oracles import codecs_numpy

TEXT = (pathlib.Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
MODULE, LINE, TEST_CLASS = re.findall(r"```python\n(.*?)```", TEXT[TEXT.index("## A new compressor") :], re.DOTALL)[:3]
NAME = "truncate_of_contributing"


def load():
    """Imports the example's module under `NAME`, from a file of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "truncate.py"
        path.write_text(MODULE, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(NAME, path)
        sys.modules[NAME] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


def entry():
    """The registry's line, with the module's name here in place of its name in the library."""
    [(name, path)] = eval("{" + LINE + "}").items()
    assert path.startswith("dqgan_tf.compressors.contrib.truncate:")
    return name, f"{NAME}:{path.partition(':')[2]}"


load()
with pytest.MonkeyPatch.context() as patch:
    patch.setitem(registry.COMPRESSORS, *entry())
    names = {"CompressorContract": CompressorContract, "compressors": compressors}
    exec(TEST_CLASS, names)

TestTruncate = names["TestTruncate"]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(registry.COMPRESSORS, *entry())


def test_it_is_available_by_its_spec():
    assert "truncate:bucket=512" in compressors.available()
    assert compressors.get("truncate:bucket=64").bucket == 64
    with pytest.raises(UsageError, match="`bucket` must be .*truncate:bucket=512"):
        compressors.get("truncate:bucket=5")


@pytest.mark.slow
def test_it_encodes_the_values_of_a_sparse_one():
    x = vectors()["gaussian"]
    compressor = compressors.get("topk:fraction=0.1+truncate:bucket=32")
    assert np.count_nonzero(round_trip(compressor, x, mode="graph")) == compressor.k(len(x))


def test_the_exchange_is_tested_with_it_before_it_has_a_numpy_version():
    """The tests of topologies and processes take every registered name, at small parameters."""
    spec, x = small_compressors.small("truncate"), vectors()["gaussian"]
    assert spec == "truncate:bucket=32" and codecs_numpy.parse(spec).bucket == 32
    decoded, margin = codecs_numpy.quantize(spec, x, SEED)
    np.testing.assert_array_equal(decoded, round_trip(compressors.get(spec), x, mode="eager"))
    assert margin == np.inf


def test_it_keeps_the_upper_half():
    x = vectors()["gaussian"]
    words = encode(compressors.get("truncate"), x).words
    assert words.shape == [3, 256]
    expected = (x.view(np.uint32) & 0xFFFF0000).view(np.float32)
    np.testing.assert_array_equal(round_trip(compressors.get("truncate"), x), expected)
