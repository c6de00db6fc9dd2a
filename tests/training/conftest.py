"""Two replicas, built once a file; launchers that end with their test."""

import pytest

from tests.training import tiny_run
from tests.training.launched import Started


@pytest.fixture(scope="module")
def two():
    """(strategy, model) of two replicas."""
    return tiny_run.build(2)


@pytest.fixture
def launch(tmp_path):
    started = []

    def start(worker, workers=2, restarts=0, evaluator=False):
        tmp_path.mkdir(exist_ok=True)
        started.append(Started(tmp_path, worker, workers, restarts, evaluator))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()
