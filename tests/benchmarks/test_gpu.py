"""benchmarks.gpu on a machine without a GPU: what it compiles, how it reads a profile, and its refusal."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import gpu, run
from dqgan_tf import compressors, error_feedback
from dqgan_tf.errors import UsageError
from dqgan_tf.private_tensorflow import XSpace

PICOSECONDS = 10**9  # of a millisecond


def test_compiled_functions_are_those_of_the_library():
    compressor, values = compressors.get("linear:bits=4,bucket=512"), 1000
    update, residual = (tf.constant(np.random.RandomState(i).standard_normal(values), tf.float32) for i in range(2))
    encode, decode = gpu.compiled_pair(compressor, values)
    payload, left = encode(update, residual)
    expected = error_feedback.encode(compressor, update, residual, tf.constant([1, 2]))
    decoded = compressor.decode(expected.payload, values)
    np.testing.assert_array_equal(decode(payload, payload), decoded)
    np.testing.assert_allclose(left + decoded, update + residual, atol=1e-6)
    assert np.abs(left).max() > 0.01


@pytest.mark.parametrize(
    ("spans", "length"), [([], 0), ([(0, 2), (1, 3), (5, 6)], 4), ([(4, 9), (5, 6)], 5), ([(3, 4), (0, 1)], 2)]
)
def test_overlapping_spans_count_once(spans, length):
    assert gpu.covered(spans) == length


def test_profile_of_a_gpu_counts_kernels_and_copies_and_nothing_else(tmp_path):
    space = XSpace()
    space.planes.add(name="/host:CPU").lines.add(name="Stream #1").events.add(duration_ps=PICOSECONDS)
    plane = space.planes.add(name="/device:GPU:0")
    for number, name in enumerate(("fusion", "MemcpyD2H", "MemcpyH2D")):
        plane.event_metadata[number].name = name
    plane.stat_metadata[7].name = "memcpy_details"
    plane.stat_metadata[8].name = "kind_src:device kind_dst:pageable size:12 dest:0 async:1"
    plane.lines.add(name="XLA Ops").events.add(duration_ps=PICOSECONDS)
    line = plane.lines.add(name="Stream #13(Compute)")
    line.events.add(metadata_id=0, offset_ps=0, duration_ps=20 * PICOSECONDS)
    line.events.add(metadata_id=1, offset_ps=10 * PICOSECONDS, duration_ps=20 * PICOSECONDS).stats.add(
        metadata_id=7, ref_value=8
    )
    line.events.add(metadata_id=2, offset_ps=50 * PICOSECONDS, duration_ps=10 * PICOSECONDS).stats.add(
        metadata_id=7, str_value="kind_src:pageable kind_dst:device size:40"
    )
    path = tmp_path / "a.xplane.pb"
    path.write_bytes(space.SerializeToString())
    assert gpu.read_profile(path) == {
        "busy_milliseconds": 4.0,
        "kernels_per_step": 0.1,
        "copies_per_step": {"MemcpyD2H": {"count": 0.1, "bytes": 1.2}, "MemcpyH2D": {"count": 0.1, "bytes": 4.0}},
    }


def test_without_a_gpu_it_refuses_and_writes_no_file(tmp_path):
    path = tmp_path / "runs.jsonl"
    with pytest.raises(UsageError, match="needs a GPU, and TensorFlow sees none"):
        gpu.main(gpu.make_parser().parse_args([f"--output={path}"]))
    assert not path.exists()


def test_several_workers_on_a_gpu_are_refused():
    with pytest.raises(UsageError, match="--device=gpu needs --num_workers=1. Received: num_workers=2"):
        run.make_plan(run.WHOLE_STEP, None, num_workers=2, device="gpu")


def test_a_worker_that_sees_no_gpu_says_so():
    plan = run.make_plan(run.CODEC, ["copy"], num_workers=1, rounds=1, device="gpu")
    with pytest.raises(RuntimeError, match="TensorFlow sees no GPU; leave --device=gpu out"):
        run.codec(plan, 1000, say=lambda text: None)


@pytest.mark.parametrize("flag", ["--rounds=0", "--values=-1", "--batch_size=few"])
def test_a_size_that_is_none_is_refused(flag, capsys):
    with pytest.raises(SystemExit):
        gpu.make_parser().parse_args(["--output=a", flag])
    assert f"such as 20. Received: {flag.partition('=')[2]}" in capsys.readouterr().err
