"""Workers with 1, 2 and 4 threads of TensorFlow: the same bits if each is alone, and they understand each other."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.distributed import cluster

ROOT = pathlib.Path(__file__).resolve().parents[2]
THREADS = (1, 2, 4)
SPECS = ("linear:bits=8,bucket=512,rounding=stochastic", "sign:bucket=512", "topk:fraction=0.01")
SIZE, STEPS = 2**19, 3
PROGRAM = f"""
import hashlib, json

import numpy as np
import tensorflow as tf

import dqgan_tf
from dqgan_tf.distribute import layout

strategy, found = dqgan_tf.CompressedStrategy(), {{}}
for spec in {SPECS!r}:
    vectors = layout.vectors(spec, names=["w"], shapes=[({SIZE},)], compressor=dqgan_tf.compressors.get(spec))
    channel = strategy.open_channel(spec, vectors)

    @tf.function
    def mean(values):
        def on_replica():
            return tf.distribute.get_replica_context().all_reduce("mean", [values], options=channel.options)

        return strategy.run(on_replica)

    digest = hashlib.sha256()
    for step in range({STEPS}):
        values = np.random.RandomState(step).standard_normal({SIZE}).astype(np.float32)
        digest.update(mean(tf.constant(values))[0].numpy().tobytes())
    pools = tf.config.threading.get_intra_op_parallelism_threads()
    found[spec] = [digest.hexdigest(), sum(len(packet.slices) for packet in channel.packets)]
print(json.dumps([pools, found]))
"""


@pytest.fixture(scope="module")
def results():
    processes = []
    for threads in THREADS:
        program = f"import tensorflow as tf\ntf.config.threading.set_intra_op_parallelism_threads({threads})\n{PROGRAM}"
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=ROOT, **pipes))
    ends = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(THREADS), [errors for _, errors in ends]
    found = [json.loads(output.splitlines()[-1]) for output, _ in ends]
    assert [pools for pools, _ in found] == list(THREADS)
    return [of_spec for _, of_spec in found]


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_no_bit_depends_on_the_number_of_threads(results, spec):
    digests = {digest for digest, _ in (of_threads[spec] for of_threads in results)}
    assert len(digests) == 1


@pytest.mark.slow
def test_several_threads_encode_several_slices(results):
    """A quantizer's vector is cut into a slice for each thread; the largest values are those of a whole vector."""
    slices = {spec: [of_threads[spec][1] for of_threads in results] for spec in SPECS}
    assert slices == {SPECS[0]: [1, 2, 4], SPECS[1]: [1, 2, 4], SPECS[2]: [1, 1, 1]}


MIXED = """
import json, sys

import numpy as np
import tensorflow as tf

tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
import dqgan_tf
from dqgan_tf.distribute import layout

strategy, found = dqgan_tf.CompressedStrategy(), []
for topology in ("all_gather", "two_step"):
    compressor = dqgan_tf.compressors.get("linear:bits=2,bucket=512")
    vectors = layout.vectors("w", names=["w"], shapes=[(2**20,)], compressor=compressor)
    channel = strategy.open_channel(topology, vectors, error_feedback=False, topology=topology)

    @tf.function
    def mean(values):
        def on_replica():
            return tf.distribute.get_replica_context().all_reduce("mean", [values], options=channel.options)

        return strategy.run(on_replica)

    values = np.random.RandomState(strategy.worker_index).standard_normal(2**20).astype(np.float32)
    np.save(f"{sys.argv[2]}/{topology}_{strategy.worker_index}.npy", mean(tf.constant(values))[0].numpy())
    found.append([len(packet.slices) for packet in channel.packets])
strategy.close()
print(json.dumps(found))
"""


def test_workers_of_different_threads_cut_their_packets_alike(tmp_path):
    """Where they do not, a worker takes codes of the other for scales: means of 1e25, and no step is skipped."""
    threads = [[str(count), str(tmp_path)] for count in (2, 4)]
    workers = cluster.run(["-c", MIXED], tmp_path, extra=threads)
    values = [np.random.RandomState(index).standard_normal(2**20) for index in range(2)]
    for topology in ("all_gather", "two_step"):
        first, second = (np.load(tmp_path / f"{topology}_{index}.npy") for index in range(2))
        np.testing.assert_array_equal(first, second)
        # The spacing of two bits, over a bucket whose largest value is below 6; the second encoding adds its own.
        assert np.abs(first - np.mean(values, 0)).max() < 6
    slices = [json.loads(log.read_text().splitlines()[-1]) for log in workers.logs]
    assert slices == [[[2], [2]]] * 2
