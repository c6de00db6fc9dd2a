"""Two replicas, built once a file."""

import pytest

from tests.training import tiny_run


@pytest.fixture(scope="module")
def two():
    """(strategy, model) of two replicas."""
    return tiny_run.build(2)
