"""Batches whose sizes differ between workers: one worker traces its step again, and the others do not."""

import json

import numpy as np

from tests.distributed import cluster

PROGRAM = """
import json

import keras
import numpy as np
import tensorflow as tf

import dqgan_tf

strategy = dqgan_tf.CompressedStrategy()
worker = strategy.worker_index
x = np.random.RandomState(0).standard_normal([16, 3]).astype(np.float32)
y = x.sum(1, keepdims=True)


def compiled():
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
        model.compile(dqgan_tf.keras.compressed(keras.optimizers.SGD(0.05), "sign:bucket=32"), "mse")
    return model


model = compiled()
for rows in (8, 8 - worker, 8, 5 + worker):
    model.train_on_batch(x[:rows], y[:rows])
    model.test_on_batch(x[: rows - 1], y[: rows - 1])
found = [model.get_weights()[0].ravel().tolist()]

model = compiled()


@tf.function
def step(batch):
    def replica_step(batch):
        inputs, targets = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(inputs, training=True) - targets) ** 2) / 2
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))

    strategy.run(replica_step, args=(batch,))


for batch in strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices((x[:7], y[:7])).batch(4)):
    step(batch)  # 2 and 2 rows, then 2 and 1
found.append(model.get_weights()[0].ravel().tolist())
strategy.close()
print(json.dumps(found))
"""


def test_no_worker_waits_for_another(tmp_path):
    workers = cluster.run(["-c", PROGRAM], tmp_path, timeout=120)
    first, second = (json.loads(log.read_text().splitlines()[-1]) for log in workers.logs)
    np.testing.assert_array_equal(first, second)
    assert np.all(np.isfinite(first))
    assert not np.array_equal(first[0], first[1])
