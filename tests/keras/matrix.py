"""{SGD, Adam, AdamW, RMSprop, Adafactor, Lion} x dtype policies x {fit, custom loop}, also as a program.

Arguments of the program: output folder, replicas per worker, then cases `optimizer,policy,loop`.
"""

import hashlib
import json
import math
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import dqgan_tf
from dqgan_tf.distribute.message_board import MessageBoard
from tests.keras import small_models

STEPS, RATE = 6, 0.01
LINEAR, SIGN = "linear:bits=4,bucket=32", "sign:bucket=32"
opt = keras.optimizers
OPTIMIZERS = {
    "sgd": lambda **options: opt.SGD(RATE, momentum=0.9, nesterov=True, **options),
    "adam": lambda **options: opt.Adam(RATE, amsgrad=True, **options),
    "adamw": lambda **options: opt.AdamW(RATE, **options),
    "rmsprop": lambda **options: opt.RMSprop(RATE, centered=True, momentum=0.5, **options),
    "adafactor": lambda **options: opt.Adafactor(RATE, **options),
    "lion": lambda **options: opt.Lion(RATE, **options),
    "nadam": lambda **options: opt.Nadam(RATE, **options),
    "adagrad": lambda **options: opt.Adagrad(RATE, **options),
    "adadelta": lambda **options: opt.Adadelta(1.0, **options),
    "adamax": lambda **options: opt.Adamax(RATE, **options),
    "lamb": lambda **options: opt.Lamb(RATE, **options),
    "muon": lambda **options: opt.Muon(RATE, **options),
    "ftrl": lambda **options: opt.Ftrl(10 * RATE, **options),
    "schedule_free_adamw": lambda **options: opt.ScheduleFreeAdamW(RATE, **options),
}
MATRIX = ("sgd", "adam", "adamw", "rmsprop", "adafactor", "lion")
POLICIES, LOOPS = ("float32", "mixed_bfloat16", "mixed_float16"), ("fit", "custom")


def place(name, policy, loop):
    """`where`, in turn, so that each optimizer meets each place in some policy and some loop.

    Adafactor with "gradient" is the one combination that is refused.
    """
    if name == "adafactor":
        return "update"
    return ("gradient", "update")[(MATRIX.index(name) + len(policy) + len(loop)) % 2]


def train(strategy, name, policy, loop):
    """Returns (model, history) of one case."""
    where = place(name, policy, loop)
    make = lambda: dqgan_tf.compressed(OPTIMIZERS[name](), LINEAR, where=where)  # noqa: E731
    if loop == "custom":
        return custom_loop(strategy, make, policy)
    model, history, *_ = fit(strategy, make, policy=policy, epochs=4)
    return model, history


def fit(strategy, make, *, policy="float32", epochs=1, **options):
    """Returns (model, history, weights [M, n], optimizer state [M, k]) after `STEPS` steps an epoch."""
    keras.config.set_dtype_policy(policy)
    try:
        model = small_models.mlp(strategy, make, **options)
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = small_models.batches(STEPS, 2)
    history = model.fit(small_models.dataset(x, y), shuffle=False, epochs=epochs, verbose=0).history
    return model, history, *state(strategy, model)


def apply(strategy, make, gradients):
    """Returns (optimizer, weights [M, n], its state [M, k]) after `optimizer.apply` alone, which `fit` calls.

    Args:
      make: a function that returns an optimizer.
      gradients: float32 [T, M, n]; Keras' optimizers add up the replicas' gradients.
    """
    random = np.random.default_rng(5)
    with strategy.scope():
        weights = [
            keras.Variable(0.3 * random.standard_normal(shape), dtype="float32", name=name)
            for name, shape in zip(("kernel", "bias", "last_kernel", "last_bias"), small_models.SHAPES, strict=True)
        ]
        optimizer = make()
        optimizer.build(weights)

    def replica_step(flat):
        sizes = [math.prod(shape) for shape in small_models.SHAPES]
        parts = zip(tf.split(flat, sizes), small_models.SHAPES, strict=True)
        optimizer.apply([tf.reshape(part, shape) for part, shape in parts], weights)

    step = tf.function(lambda flat: strategy.run(replica_step, args=(flat,)), autograph=False)
    for rows in gradients:
        step(
            strategy.experimental_distribute_values_from_function(
                lambda context, rows=rows: tf.constant(rows[context.replica_id_in_sync_group])
            )
        )
    return optimizer, *[small_models.values(strategy, group) for group in (weights, optimizer.variables)]


def random_gradients(steps=STEPS):
    """float32 [T, 2, 44], a mean and a scale of its own for each replica."""
    random = np.random.default_rng(6)
    return (random.standard_normal((steps, 2, 44)) * [[[1.0], [0.3]]] + [[[0.2], [-0.5]]]).astype(np.float32)


def state(strategy, model):
    groups = (model.trainable_variables, model.optimizer.variables)
    return [small_models.values(strategy, group) for group in groups]


def custom_loop(strategy, make, policy):
    """Trains by `GradientTape` and `strategy.run`; the optimizer is built by its first step."""
    keras.config.set_dtype_policy(policy)
    try:
        model = small_models.mlp(strategy, make)
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = small_models.batches(STEPS, 2)
    optimizer = model.optimizer

    def replica_step(batch):
        inputs, targets = batch
        with tf.GradientTape() as tape:
            error = tf.cast(model(inputs, training=True), tf.float32) - targets
            loss = tf.reduce_mean(error**2) / strategy.num_replicas_in_sync
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return tf.distribute.get_replica_context().all_reduce("sum", loss)

    run = tf.function(lambda batch: strategy.experimental_local_results(strategy.run(replica_step, args=(batch,)))[0])
    distributed = strategy.experimental_distribute_dataset(small_models.dataset(x, y))
    losses = [np.mean([run(batch).numpy() for batch in distributed]) for _ in range(4)]
    return model, {"loss": losses}


def main(folder, replicas_per_worker, *cases):
    cpu, replicas_per_worker = tf.config.list_physical_devices("CPU")[0], int(replicas_per_worker)
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas_per_worker)
    strategy = dqgan_tf.CompressedStrategy(replicas_per_worker=replicas_per_worker)
    board = MessageBoard(strategy.worker_index, strategy.num_workers)
    report = {}
    for case in cases:
        print(case, flush=True)  # where a worker was if it fails
        model, history = train(strategy, *case.split(","))
        weights, slots = state(strategy, model)
        report[case] = {
            "weights": hashlib.sha256(weights.tobytes()).hexdigest(),
            "slots": hashlib.sha256(slots.tobytes()).hexdigest(),
            "finite": bool(np.all(np.isfinite(weights))),
            "equal": bool(np.all(weights == weights[0])),
            "losses": [float(loss) for loss in history["loss"]],
            "iterations": int(model.optimizer.iterations.numpy()),
        }
    (pathlib.Path(folder) / f"worker_{strategy.worker_index}.json").write_text(json.dumps(report))
    board.leave(60.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
