"""Workers whose strategies or channels differ: both refuse them. After a channel they go on with the next one."""

import json

from dqgan_tf.distribute import strategy
from tests.distributed import cluster

PROGRAM = """
import json

import tensorflow as tf

import dqgan_tf
from dqgan_tf.distribute import layout

strategy = dqgan_tf.CompressedStrategy()
mine = strategy.worker_index


def opened(name, spec="randomk:fraction=0.1", shape=(64,), **options):
    vectors = layout.vectors("w", names=["w"], shapes=[shape], compressor=dqgan_tf.compressors.get(spec))
    try:
        return strategy.open_channel(name, vectors, **options)
    except dqgan_tf.errors.UsageError as error:
        return str(error)


found = [
    opened("a", seed=mine),
    opened("b", spec=("sign:bucket=32", "sign:bucket=64")[mine]),
    opened("c", shape=((64,), (8, 8))[mine]),
    opened("d", transport=("ring", "sockets")[mine]),
]
channel = opened("e")


@tf.function
def mean(values):
    return strategy.run(
        lambda: tf.distribute.get_replica_context().all_reduce("mean", [values], options=channel.options)
    )


sums = [float(tf.reduce_sum(tf.abs(mean(tf.ones([64]))[0])))]
strategy.close()
print(json.dumps(found + sums))
"""


def test_both_refuse_it(tmp_path):
    workers = cluster.run(["-c", PROGRAM], tmp_path)
    first, second = (json.loads(log.read_text().splitlines()[-1]) for log in workers.logs)
    assert first == second
    seeds, specs, shapes, transports, total = first
    assert seeds == (
        "All workers must open channel 'a' with the same arguments. Received: seed=0 on worker 0, seed=1 on worker 1"
    )
    assert "compressors=['sign:bucket=32 of 64 values'] on worker 0" in specs
    assert "weights=[[(0,), ((64,),), 0]] on worker 0, weights=[[(0,), ((8, 8),), 0]] on worker 1" in shapes
    assert "transport='ring' on worker 0, transport='sockets' on worker 1" in transports
    assert total > 0


DEVICES = """
import sys

import tensorflow as tf

replicas = int(sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
import dqgan_tf

try:
    dqgan_tf.CompressedStrategy(replicas_per_worker=replicas)
except dqgan_tf.errors.UsageError as error:
    print(error, flush=True)
"""


def test_strategies_with_different_numbers_of_replicas(tmp_path):
    workers = cluster.run(["-c", DEVICES], tmp_path, extra=[["1"], ["2"]])
    for log in workers.logs:
        assert (
            "replicas per worker=1 on worker 0, replicas per worker=2 on worker 1" in log.read_text().splitlines()[-1]
        )


def test_a_long_value_is_shown_where_it_differs():
    many = [f"sign:bucket=512 of {n} values" for n in range(100)]
    texts = [str(many), str([*many[:99], "fp16 of 99 values"])]
    found = strategy._first_difference([{"compressors": text} for text in texts])
    assert "sign:bucket=512 of 99 values'] on worker 0" in found
    assert "fp16 of 99 values'] on worker 1" in found
    assert len(found) < 500
    assert strategy._first_difference([{"a": "1"}, {"a": "1"}]) == ""
