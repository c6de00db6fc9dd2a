"""By hand: which names of variants are accepted, what they mean, and the bytes that one worker declares."""

import importlib.util
import math

import pytest

from benchmarks import torch_baselines, variants
from dqgan_tf import compressors
from dqgan_tf.distribute.layout import Vector
from dqgan_tf.distribute.topologies import choice
from dqgan_tf.errors import UsageError

VALUES = 6_342_272  # DCGAN-64, both players
EIGHT_BIT = "linear:bits=8,bucket=512"


@pytest.mark.parametrize(
    "name",
    [
        *variants.EXCHANGE,
        *variants.WHOLE_STEP,
        *variants.CODEC,
        "sign@two_step",
        "topk:fraction=0.1@all_gather",
        "sign@auto@0.5",
        "sign@auto@0",
    ],
)
def test_accepted(name):
    assert variants.check(name, 3) is None


def whole(values, spec):
    """One vector of `values` values."""
    return Vector("only", compressors.get(spec), ((values,),), (0,))


BAD_PACKETS = [
    f"sign@two_step@{text}" for text in ("-1", "inf", "nan", "1e999", "4@5", "", "x", "0_4", "+4", " 4", "\u0664")
]


@pytest.mark.parametrize("name", ["float64", "linear:bits=99", "sign@ring", "sign@", "sign:bucket", "", *BAD_PACKETS])
def test_refused_with_one_that_works(name):
    with pytest.raises(UsageError, match="linear:bits=8,bucket=512@two_step") as caught:
        variants.check(name, 2)
    assert repr(name) in str(caught.value)


def test_an_unknown_baseline_of_pytorch():
    with pytest.raises(UsageError, match="torch_powersgd.*'torch_int4'"):
        variants.check("torch_int4", 2)


def test_a_baseline_needs_pytorch(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert torch_baselines.available() == ()
    with pytest.raises(UsageError, match="pip install torch"):
        variants.check("torch_float32", 2)


@pytest.mark.parametrize(
    ("name", "spec", "topology", "packet_mb", "transport", "error_feedback"),
    [
        ("float32", "none", "auto", 0.0, "ring", True),
        ("float16", "fp16", "auto", 0.0, "ring", False),
        ("sign:bucket=64@two_step", "sign:bucket=64", "two_step", 0.0, "auto", True),
        ("qsgd:bits=2,bucket=512@auto@0.5", "qsgd:bits=2,bucket=512", "auto", 0.5, "auto", False),
    ],
)
def test_what_a_whole_step_needs(name, spec, topology, packet_mb, transport, error_feedback):
    settings = variants.settings(name, 1 << 20, whole_step=True)
    shapes = settings.pop("shapes")
    assert sum(math.prod(shape) for shape in shapes) == 1 << 20
    assert settings == {
        "name": name,
        "spec": spec,
        "topology": topology,
        "packet_mb": packet_mb,
        "transport": transport,
        "error_feedback": error_feedback,
    }


@pytest.mark.parametrize("name", ["float32", "float16", "copy"])
def test_what_is_no_compressor_has_no_settings_in_an_exchange(name):
    assert variants.settings(name, 1000, whole_step=False) == {"name": name}


@pytest.mark.parametrize("values", [VALUES, 2048 * 512, 1000, 128, 127, 1])
def test_the_shapes_hold_all_values(values):
    assert variants.shapes_of("sign", values) == [(values,)]
    assert sum(math.prod(shape) for shape in variants.shapes_of("powersgd:rank=2", values)) == values


def test_dense_is_a_ring():
    assert variants.sent_bytes("float32", 1000, 2) == 4000
    assert variants.sent_bytes("float32", 1000, 4) == 6000  # 2 x 3/4 of 4000
    assert variants.sent_bytes("float16", 1000, 4) == 3000


def test_all_gather_sends_a_payload_to_every_other_worker():
    # A byte a value and a float32 scale for each of the 12,388 buckets of 512, the last one filled up.
    payload = 12_388 * (512 + 4)
    assert variants.sent_bytes(f"{EIGHT_BIT}@all_gather", VALUES, 2) == pytest.approx(payload, rel=1e-4)
    assert variants.sent_bytes(f"{EIGHT_BIT}@all_gather", VALUES, 8) == 7 * variants.sent_bytes(
        f"{EIGHT_BIT}@all_gather", VALUES, 2
    )


def test_two_step_is_flat_in_the_number_of_workers():
    payload = variants.sent_bytes(f"{EIGHT_BIT}@all_gather", VALUES, 2)
    assert variants.sent_bytes(f"{EIGHT_BIT}@two_step", VALUES, 8) < 11.5e6
    for workers in variants.WORKERS:
        sent = variants.sent_bytes(f"{EIGHT_BIT}@two_step", VALUES, workers)
        # 2 (M-1)/M payloads; every shard is filled up to whole buckets.
        assert sent == pytest.approx(2 * (workers - 1) / workers * payload, rel=0.005)
        assert sent < 2 * payload


@pytest.mark.parametrize(
    "values, workers, kind",
    [
        (VALUES, 2, "all_gather"),  # both send one payload
        (VALUES, 3, "two_step"),  # 2 payloads against 4/3
        (10_000, 3, "all_gather"),  # 20 KiB against 14
        (10_000, 8, "two_step"),
        (32, 64, "all_gather"),
    ],
)
def test_auto_chooses_by_size_and_workers(values, workers, kind):
    sent = {name: variants.sent_bytes(f"{EIGHT_BIT}@{name}", values, workers) for name in ("all_gather", "two_step")}
    assert variants.sent_bytes(f"{EIGHT_BIT}@auto", values, workers) == sent[kind]
    chosen = choice.choose("auto", [whole(values, EIGHT_BIT)], workers)
    assert chosen.topology == kind
    assert f"{sent['all_gather']:,} bytes" in chosen.reason and f"{sent['two_step']:,}" in chosen.reason


def test_auto_chooses_by_bits():
    """1 bit saves less than 16 KiB where 8 bits save more."""
    kinds = [choice.choose("auto", [whole(30_000, spec)], 4).topology for spec in ("sign", "linear:bits=8")]
    assert kinds == ["all_gather", "two_step"]


def test_a_compressor_without_a_topology_stands_under_every_one():
    curves = variants.curves(["float32", "sign", "torch_uint8", "sign@two_step"], 10_000, (2, 8))
    assert list(curves) == ["float32", "sign@two_step", "sign@all_gather", "torch_uint8"]
    assert curves["torch_uint8"] == [10_008, 70_056]
    assert curves["sign@all_gather"] == [variants.sent_bytes("sign@all_gather", 10_000, count) for count in (2, 8)]
