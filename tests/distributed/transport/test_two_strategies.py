"""System: what a strategy opened ends with the strategy, and the next one in the same process connects anew."""

import re

import pytest

from tests.distributed import cluster


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["closed", "lost", "dropped"])
def test_one_strategy_after_the_other(tmp_path, ending):
    workers = cluster.run(["-m", "tests.distributed.transport.two_strategies_program", ending], tmp_path, timeout=100)
    for index in range(2):
        text = workers.output(index)
        assert re.findall(r"^mean (.*)$", text, re.MULTILINE) == ["0.5", "0.5"], text
        assert text.rstrip().endswith("end"), text
        assert ("\nlost\n" in text) == (ending == "lost"), text
