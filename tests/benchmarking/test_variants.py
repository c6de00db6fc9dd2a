"""By hand: which variants are accepted, and what is said of the others."""

import importlib.util

import pytest

from dqgan_tf.benchmarking import step_program, torch_baselines, variants


@pytest.mark.parametrize(
    "name", [*variants.DEFAULT, "sign@two_step", "topk:fraction=0.1@all_gather", "sign@auto@0.5", "sign@auto@0"]
)
def test_accepted(name):
    assert variants.check(name, 3) is None


BAD_BUCKETS = [
    f"sign@two_step@{text}" for text in ("-1", "inf", "nan", "1e999", "4@5", "", "x", "0_4", "+4", " 4", "\u0664")
]


@pytest.mark.parametrize("name", ["float64", "linear:bits=99", "sign@ring", "sign@", "sign:bucket", "", *BAD_BUCKETS])
def test_refused_with_one_that_works(name):
    with pytest.raises(ValueError, match="linear:bits=8,bucket=512@two_step") as caught:
        variants.check(name, 2)
    assert repr(name) in str(caught.value)


def test_an_unknown_baseline_of_pytorch():
    with pytest.raises(ValueError, match="torch_powersgd.*'torch_int4'"):
        variants.check("torch_int4", 2)


def test_a_baseline_needs_pytorch(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert torch_baselines.available() == ()
    with pytest.raises(ValueError, match="pip install torch"):
        variants.check("torch_float32", 2)


@pytest.mark.parametrize(
    ("name", "spec", "topology", "error_feedback"),
    [
        ("float32", "none", "auto", True),
        ("float16", "fp16", "auto", False),
        ("sign:bucket=64@two_step", "sign:bucket=64", "two_step", True),
        ("qsgd:bits=2,bucket=512", "qsgd:bits=2,bucket=512", "auto", False),
    ],
)
def test_the_run_behind_a_whole_step(name, spec, topology, error_feedback):
    config = step_program.config_of(name, 3, None)
    assert (config.compression.compressor, config.compression.topology) == (spec, topology)
    assert config.compression.error_feedback == error_feedback
    assert config.network.network == "dcgan" and config.network.width is None
