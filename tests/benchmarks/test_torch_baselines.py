"""PyTorch's side: bytes by hand; where PyTorch is installed, its hooks on one worker against numpy."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import torch_baselines
from tests.distributed import cluster

DCGAN_64 = 6_342_272


@pytest.mark.parametrize("values", [DCGAN_64, 1, 100, 1000])
def test_the_shapes_hold_all_values(values):
    assert sum(map(math.prod, torch_baselines.shapes(values))) == values


def test_bytes_by_hand():
    assert torch_baselines.sent_bytes("torch_float32", 1000, 4) == 6000
    assert torch_baselines.sent_bytes("torch_float16", 1000, 4) == 3000
    assert torch_baselines.sent_bytes("torch_uint8", 1000, 4) == 3 * 1008
    # One 100 x 100 matrix becomes 100 + 100 numbers, and 2 x 1/2 of them are sent.
    assert torch_baselines.sent_bytes("torch_powersgd", 10_000, 2) == 800
    # shared figures for two processes: .151 MB at the socket, which has headers and acknowledgements too
    assert torch_baselines.sent_bytes("torch_powersgd", DCGAN_64, 2) == pytest.approx(0.148e6, rel=0.02)


@pytest.fixture(scope="module")
def measured():
    if not torch_baselines.available():
        pytest.skip("PyTorch is not installed")
    command = [sys.executable, "-m", "tests.benchmarks.torch_means"]
    done = subprocess.run(command, cwd=cluster.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("torch_float32", 0.0),
        ("torch_float16", 2**-12),  # half a unit of a float16 in [.5, 1)
        ("torch_uint8", 2 * 0.5 / 255 + 1e-6),  # half a level of the range, 2
    ],
)
def test_alone_the_mean_is_the_gradient(measured, name, tolerance):
    assert np.abs(np.subtract(measured[name], measured["gradient"])).max() <= tolerance


def test_powersgd_sends_what_is_declared(measured):
    # Two workers send half of 2 x 4 bytes of every number that is all-reduced.
    assert 4 * measured["reduced"] == torch_baselines.sent_bytes("torch_powersgd", DCGAN_64, 2)
