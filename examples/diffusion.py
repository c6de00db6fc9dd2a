"""A small diffusion model of points on a spiral, trained by a custom loop; gradients of 4 bits.

    python examples/diffusion.py

Start it once on every worker, each with its TF_CONFIG; without TF_CONFIG it is one worker.
Ho, Jain, Abbeel 2020, arXiv 2006.11239: x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise, and the network predicts the noise.
"""

import argparse
import math

import keras
import tensorflow as tf

import dqgan_tf

LEVELS = 100
BATCH = 256  # per replica

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=3000)
arguments = parser.parse_args()

strategy = dqgan_tf.CompressedStrategy()
keras.utils.set_random_seed(0)
kept = tf.math.cumprod(1 - tf.linspace(1e-4, 0.1, LEVELS))  # a_t

with strategy.scope():
    inputs = keras.Input((4,))  # a point, and its level as sine and cosine
    hidden = inputs
    for _ in range(3):
        hidden = keras.layers.Dense(256, "swish")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, arguments.steps)
    optimizer = dqgan_tf.compressed(keras.optimizers.Adam(schedule, clipnorm=1.0), "linear:bits=4,bucket=512")
    optimizer.build(model.trainable_variables)


def predicted_noise(points, level, training):
    angle = tf.cast(level, tf.float32) * (math.pi / 2 / LEVELS)
    return model(tf.concat([points, tf.stack([tf.sin(angle), tf.cos(angle)], 1)], 1), training=training)


def replica_step(step):
    """Points, levels and noise of this replica, a function of the step and of the replica's rank alone."""
    rank = tf.distribute.get_replica_context().replica_id_in_sync_group
    turn, level, noise = (
        tf.random.stateless_uniform([BATCH], [3 * step, rank]),
        tf.random.stateless_uniform([BATCH], [3 * step + 1, rank], 0, LEVELS, tf.int32),
        tf.random.stateless_normal([BATCH, 2], [3 * step + 2, rank]),
    )
    angle = 4 * math.pi * tf.sqrt(turn)
    points = tf.stack([tf.cos(angle), tf.sin(angle)], 1) * tf.sqrt(turn)[:, None] * 2
    a = tf.gather(kept, level)[:, None]
    with tf.GradientTape() as tape:
        found = predicted_noise(tf.sqrt(a) * points + tf.sqrt(1 - a) * noise, level, training=True)
        loss = tf.reduce_mean((found - noise) ** 2)
        share = loss / strategy.num_replicas_in_sync  # Keras' optimizers add up the gradients of all replicas
    optimizer.apply(tape.gradient(share, model.trainable_variables), model.trainable_variables)
    return tf.distribute.get_replica_context().all_reduce("mean", loss)


@tf.function
def train_step(step):
    return strategy.experimental_local_results(strategy.run(replica_step, args=(step,)))[0]


def sample(count):
    """Returns points from noise by the reverse process, float32 [count, 2]."""
    points = tf.random.stateless_normal([count, 2], [0, 0])
    for level in reversed(range(LEVELS)):
        noise = predicted_noise(points, tf.fill([count], level), training=False)
        before = kept[level - 1] if level else tf.constant(1.0)
        clean = (points - tf.sqrt(1 - kept[level]) * noise) / tf.sqrt(kept[level])
        points = tf.sqrt(before) * clean + tf.sqrt(1 - before) * noise  # Song et al. 2020, arXiv 2010.02502
    return points


losses = [train_step(tf.constant(step)) for step in range(arguments.steps)]
if strategy.is_chief:
    tenth = max(1, len(losses) // 10)
    first, last = (float(tf.reduce_mean(part)) for part in (losses[:tenth], losses[-tenth:]))
    print(f"loss {first:.3f} in the first tenth, {last:.3f} in the last")
    radius = tf.norm(sample(500), axis=1)
    print(f"samples between the radii {float(tf.reduce_min(radius)):.2f} and {float(tf.reduce_max(radius)):.2f}")
