"""README's table of compressors is the one that the classes give, and its claims hold."""

import pathlib
import re

import pytest

from dqgan_tf import compressors
from dqgan_tf.compressors import __main__ as command

README = (pathlib.Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def test_readme_has_the_table():
    """If this fails: `python -m dqgan_tf.compressors`, and its output replaces the table in README."""
    assert command.table() in README


@pytest.mark.parametrize("spec", compressors.available())
def test_every_compressor_says_what_it_is_and_when_to_use_it(spec):
    compressor = compressors.get(spec)
    first_line, _, rest = type(compressor).__doc__.partition("\n")
    assert first_line.endswith(".") and f"Spec `{compressor.name}" in rest
    assert compressor.use and "|" not in first_line + compressor.use


@pytest.mark.parametrize(
    "spec",
    [
        *("linear:bits={},rounding=stochastic", "qsgd:bits={}"),
        *("natural:bits={}", "natural:bits={},rounding=nearest", "nuqsgd:bits={}"),
    ],
)
def test_bounds_begin_where_the_table_says(spec):
    """At the 6 million values of results/exchange."""
    use = compressors.get(spec.partition(":")[0]).use
    bits = int(re.search(r"a bound from (\d) bits on", use).group(1))
    fewer, enough = (compressors.get(spec.format(b)).delta(6_342_272) for b in (bits - 1, bits))
    assert fewer == 0 < enough


def test_the_random_directions_of_powersgd_are_its_bound():
    assert "no bound with `explore=0`" in compressors.get("powersgd").use
    assert compressors.get("powersgd:explore=0").delta(10**6) == 0 < compressors.get("powersgd").delta(10**6)
