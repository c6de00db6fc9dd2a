"""A GAN of 38 + 33 weights on three replicas that disagree, and its state as flat float64 arrays [M, n]."""

import keras
import numpy as np
import tensorflow as tf

from dqgan_tf.gan.model import DQGAN

REPLICAS, BATCH, LATENT, SEED = 3, 16, 3, 5
SIZES = (("generator", 38), ("discriminator", 33))  # 3-6-2 and 2-8-1: with buckets of 32 each player has two


def build(strategy, optimizer, compression, **compile_options):
    """Returns the compiled model."""
    keras.utils.set_random_seed(8)
    with strategy.scope():
        generator = keras.Sequential([keras.Input((LATENT,)), _dense(6, "tanh"), _dense(2)])
        discriminator = keras.Sequential([keras.Input((2,)), _dense(8, "tanh"), _dense(1)])
        model = DQGAN(generator, discriminator, seed=SEED)
    model.compile(optimizer, compression, **compile_options)
    return model


def real_batches(steps, seed=10):
    """float32 [T, M, batch, 2]: every replica has a gaussian of its own."""
    centres = np.array([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]])
    noise = np.random.default_rng(seed).standard_normal((steps, REPLICAS, BATCH, 2))
    return (centres[:, None] + 0.3 * noise).astype(np.float32)


def distributed_iterator(strategy, batches):
    """Replica m's step t sees batches[t - 1, m]: a worker's data set serves its replicas in turn."""
    flat = batches.reshape((-1,) + batches.shape[2:])
    return iter(strategy.distribute_datasets_from_function(lambda _: tf.data.Dataset.from_tensor_slices(flat)))


def weights(model):
    """Every replica's flat weights, generator first."""
    variables = [v.value for p in (model.generator, model.discriminator) for v in p.trainable_variables]
    count = len(variables[0].values)
    flat = [np.concatenate([v.values[m].numpy().ravel() for v in variables]) for m in range(count)]
    return np.array(flat, np.float64)


def replica_state(model, kind):
    """The state `kind` of all weights on every replica, generator first."""
    rows = []
    for replica in range(len(model.channel.calls.variables)):
        named = model.replica_values(replica)
        rows.append(np.concatenate([np.ravel(value) for name, value in named.items() if name.startswith(f"{kind}/")]))
    return np.array(rows, np.float64)


def _dense(units, activation=None):
    # Zero biases would leave their first updates to chance: the sign of a rounding error.
    return keras.layers.Dense(units, activation, bias_initializer=keras.initializers.RandomNormal(stddev=0.3))
