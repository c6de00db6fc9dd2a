"""By hand: declared bytes per worker, for any number of workers."""

import pytest

from dqgan_tf import compressors
from dqgan_tf.benchmarking import volume
from dqgan_tf.distribute import topologies
from dqgan_tf.distribute.segment import Segment

VALUES = 6_342_272  # DCGAN-64, both players
EIGHT_BIT = "linear:bits=8,bucket=512"


def test_dense_is_a_ring():
    assert volume.sent_bytes("float32", 1000, 2) == 4000
    assert volume.sent_bytes("float32", 1000, 4) == 6000  # 2 x 3/4 of 4000
    assert volume.sent_bytes("float16", 1000, 4) == 3000


def test_all_gather_sends_a_payload_to_every_other_worker():
    # A byte a value and a float32 scale for each of the 12,388 buckets of 512, the last one filled up.
    payload = 12_388 * (512 + 4)
    assert volume.sent_bytes(f"{EIGHT_BIT}@all_gather", VALUES, 2) == pytest.approx(payload, rel=1e-4)
    assert volume.sent_bytes(f"{EIGHT_BIT}@all_gather", VALUES, 8) == 7 * volume.sent_bytes(
        f"{EIGHT_BIT}@all_gather", VALUES, 2
    )


def test_two_step_is_flat_in_the_number_of_workers():
    payload = volume.sent_bytes(f"{EIGHT_BIT}@all_gather", VALUES, 2)
    assert volume.sent_bytes(f"{EIGHT_BIT}@two_step", VALUES, 8) < 11.5e6
    for workers in volume.WORKERS:
        sent = volume.sent_bytes(f"{EIGHT_BIT}@two_step", VALUES, workers)
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
    sent = {name: volume.sent_bytes(f"{EIGHT_BIT}@{name}", values, workers) for name in ("all_gather", "two_step")}
    assert volume.sent_bytes(f"{EIGHT_BIT}@auto", values, workers) == sent[kind]
    segment = Segment("only", values, compressors.get(EIGHT_BIT))
    choice = topologies.choose("auto", [segment], workers, topologies.Encoder(True, None))
    assert choice.kind == kind
    assert f"{sent['all_gather']:,} bytes" in choice.reason and f"{sent['two_step']:,}" in choice.reason


def test_auto_chooses_by_bits():
    """1 bit saves less than 16 KiB where 8 bits save more."""
    encoder = topologies.Encoder(True, None)
    kinds = [
        topologies.choose("auto", [Segment("only", 30_000, compressors.get(spec))], 4, encoder).kind
        for spec in ("sign", "linear:bits=8")
    ]
    assert kinds == ["all_gather", "two_step"]


def test_a_compressor_without_a_topology_stands_under_every_one():
    curves = volume.curves(["float32", "sign", "torch_uint8", "sign@two_step"], 10_000, (2, 8))
    assert list(curves) == ["float32", "sign@two_step", "sign@all_gather", "torch_uint8"]
    assert curves["torch_uint8"] == [10_008, 70_056]
    assert curves["sign@all_gather"] == [volume.sent_bytes("sign@all_gather", 10_000, count) for count in (2, 8)]
