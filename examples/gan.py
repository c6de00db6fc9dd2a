"""A GAN on Fashion-MNIST with a `train_step` of its own and two compressed optimizers, trained by DQGAN.

    python examples/gan.py

Start it once on every worker, each with its TF_CONFIG; without TF_CONFIG it is one worker. With `optimistic=True` both
gradients are taken at the half step of each worker, which game-like losses need (docs/algorithm.md). `dqgan_tf.DQGAN`
is the other way, with averaged moments, losses, samples and counters ready.
"""

import argparse

import keras
import tensorflow as tf

import dqgan_tf

LATENT = 64

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--samples", type=int, default=60_000)
arguments = parser.parse_args()


class Gan(keras.Model):
    def __init__(self):
        super().__init__()
        layers = keras.layers
        self.generator = keras.Sequential(
            [keras.Input((LATENT,)), layers.Dense(256, "relu"), layers.Dense(512, "relu"), layers.Dense(784, "tanh")]
        )
        self.discriminator = keras.Sequential(
            [keras.Input((784,)), layers.Dense(512, "leaky_relu"), layers.Dense(256, "leaky_relu"), layers.Dense(1)]
        )
        self.trackers = [keras.metrics.Mean(name="generator_loss"), keras.metrics.Mean(name="discriminator_loss")]

    def compile(self, generator_optimizer, discriminator_optimizer):
        super().compile()
        self.generator_optimizer, self.discriminator_optimizer = generator_optimizer, discriminator_optimizer
        generator_optimizer.build(self.generator.trainable_variables)
        discriminator_optimizer.build(self.discriminator.trainable_variables)

    @property
    def metrics(self):
        return self.trackers

    def train_step(self, real):
        context = tf.distribute.get_replica_context()
        # Keras' and TensorFlow's generators draw the same numbers on every replica. These differ.
        step = tf.cast(self.generator_optimizer.iterations, tf.int32)
        latent = tf.random.stateless_normal([tf.shape(real)[0], LATENT], [step, context.replica_id_in_sync_group])
        # `fit` has moved both networks to this worker's half step. The first `apply` of each moves it back to the
        # weights, so both gradients are taken before.
        with tf.GradientTape() as generator_tape, tf.GradientTape() as discriminator_tape:
            fake = self.generator(latent, training=True)
            real_logits = self.discriminator(real, training=True)
            fake_logits = self.discriminator(fake, training=True)
            discriminator_loss = tf.reduce_mean(tf.nn.softplus(-real_logits) + tf.nn.softplus(fake_logits))
            generator_loss = tf.reduce_mean(tf.nn.softplus(-fake_logits))
            # Keras' optimizers add up the gradients of all replicas, so each takes its share of the losses.
            discriminator_share = discriminator_loss / context.num_replicas_in_sync
            generator_share = generator_loss / context.num_replicas_in_sync
        discriminator, generator = self.discriminator.trainable_variables, self.generator.trainable_variables
        discriminator_gradients = discriminator_tape.gradient(discriminator_share, discriminator)
        generator_gradients = generator_tape.gradient(generator_share, generator)
        self.discriminator_optimizer.apply(discriminator_gradients, discriminator)
        self.generator_optimizer.apply(generator_gradients, generator)
        for tracker, value in zip(self.trackers, (generator_loss, discriminator_loss), strict=True):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}


def compressed_adam():
    adam = keras.optimizers.Adam(2e-4, beta_1=0.5)
    return dqgan_tf.compressed(adam, "linear:bits=4,bucket=512", where="update", optimistic=True)


strategy = dqgan_tf.CompressedStrategy()
keras.utils.set_random_seed(0)
with strategy.scope():
    gan = Gan()
    gan.compile(compressed_adam(), compressed_adam())

(x, _), _ = keras.datasets.fashion_mnist.load_data()
images = x[: arguments.samples].reshape(-1, 784).astype("float32") / 127.5 - 1
# The last, smaller batch is left out: its latents would differ in number.
data = tf.data.Dataset.from_tensor_slices(images).shuffle(10_000, seed=0).batch(256, drop_remainder=True)
gan.fit(data, epochs=arguments.epochs, verbose=2 if strategy.is_chief else 0)
if strategy.is_chief:
    samples = gan.generator(tf.random.stateless_normal([64, LATENT], [0, 0]))
    print(f"samples {tuple(samples.shape)} in [{tf.reduce_min(samples):.2f}, {tf.reduce_max(samples):.2f}]")
