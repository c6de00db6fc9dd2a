"""Workers whose strategies or channels differ: both refuse them. After a channel they go on with the next one."""

import json

import numpy as np

from dqgan_tf.distribute import strategy
from dqgan_tf.keras import optimizer
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


def test_a_value_that_one_worker_lacks():
    assert strategy._first_difference([{"a": "1"}, {}]) == "a=1 on worker 0, a=nothing on worker 1"
    assert strategy._first_difference([{}, {"a": "1"}]) == "a=nothing on worker 0, a=1 on worker 1"


def test_configurations_are_compared_by_what_equal_programs_have_in_common():
    """Another folder changes the code of a lambda, another way to start a program the module of a class."""
    plain = {"name": "adam", "beta_1": np.float32(0.5), "rate": {"class_name": "__lambda__", "config": {"value": "a"}}}
    other = plain | {"name": "adam_1", "rate": {"class_name": "__lambda__", "config": {"value": "b"}}}
    assert optimizer._comparable(plain) == optimizer._comparable(other) == {"beta_1": 0.5, "rate": "lambda"}
    assert optimizer._comparable({1: (None, True), "x": object, "module": "m"}) == {"1": [None, True], "x": "type"}


SETTINGS = """
import json

import keras
import numpy as np

import dqgan_tf
from dqgan_tf.config import OptimizerConfig

strategy = dqgan_tf.CompressedStrategy()
mine = strategy.worker_index
x = np.ones([8, 3], np.float32)


def trained(spec="none", rate=0.01, momentum=0.0, **options):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
        optimizer = keras.optimizers.SGD(rate, momentum, name=f"sgd_{mine}" if spec == "none" else None)
        model.compile(dqgan_tf.compressed(optimizer, spec, **options), "mse")
    try:
        model.fit(x, x[:, :1], batch_size=4, verbose=0)
    except dqgan_tf.errors.UsageError as error:
        return str(error)
    return [weight.tolist() for weight in model.get_weights()]


def compiled(rate):
    with strategy.scope():
        networks = [keras.Sequential([keras.Input([n]), keras.layers.Dense(m)]) for n, m in ((2, 3), (3, 1))]
        gan = dqgan_tf.DQGAN(*networks)
        try:
            gan.compile(OptimizerConfig(learning_rate_g=rate))
        except dqgan_tf.errors.UsageError as error:
            return str(error)


schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.01])
found = [
    trained("bf16", momentum=(0.9, 0.5)[mine]),
    trained("sign:bucket=32", local_steps=(1, 4)[mine]),
    trained("sign:bucket=32", where=("gradient", "update")[mine]),
    compiled((0.001, 0.002)[mine]),
    trained(rate=schedule),  # under another name on each worker, which is no setting
]
strategy.close()
print(json.dumps(found))
"""


def test_what_decides_a_step_is_compared(tmp_path):
    """Another momentum would make another model on each worker, and other local steps would let both wait."""
    workers = cluster.run(["-c", SETTINGS], tmp_path, timeout=120)
    first, second = (json.loads(log.read_text().splitlines()[-1]) for log in workers.logs)
    assert first == second
    momenta, local_steps, places, of_gan, weights = first
    assert '"momentum": 0.9' in momenta and '"momentum": 0.5' in momenta
    assert "local_steps=1 on worker 0, local_steps=4 on worker 1" in local_steps
    assert "where='gradient' on worker 0, where='update' on worker 1" in places
    assert "'learning_rate_g': 0.001" in of_gan and "'learning_rate_g': 0.002" in of_gan
    assert len(weights) == 2
