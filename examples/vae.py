"""A variational autoencoder of Fashion-MNIST with a `train_step` of its own; updates of 1 bit, Adam on each worker.

    python examples/vae.py

Start it once on every worker, each with its TF_CONFIG; without TF_CONFIG it is one worker.
"""

import argparse

import keras
import tensorflow as tf

import dqgan_tf

LATENT = 16

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--samples", type=int, default=60_000)
arguments = parser.parse_args()


class Autoencoder(keras.Model):
    def __init__(self):
        super().__init__()
        layers = keras.layers
        self.encoder = keras.Sequential(
            [keras.Input((784,)), layers.Dense(512, "relu"), layers.Dense(256, "relu"), layers.Dense(2 * LATENT)]
        )
        self.decoder = keras.Sequential(
            [keras.Input((LATENT,)), layers.Dense(256, "relu"), layers.Dense(512, "relu"), layers.Dense(784)]
        )
        self.trackers = [keras.metrics.Mean(name="loss"), keras.metrics.Mean(name="kl")]

    def call(self, images):
        return tf.sigmoid(self.decoder(self.encoder(images)[:, :LATENT]))

    @property
    def metrics(self):
        return self.trackers

    def train_step(self, images):
        context = tf.distribute.get_replica_context()
        # Keras' and TensorFlow's generators draw the same numbers on every replica. These differ.
        seed = tf.stack([tf.cast(self.optimizer.iterations, tf.int32), context.replica_id_in_sync_group])
        with tf.GradientTape() as tape:
            mean, log_variance = tf.split(self.encoder(images, training=True), 2, axis=1)
            noise = tf.random.stateless_normal(tf.shape(mean), seed)
            logits = self.decoder(mean + tf.exp(0.5 * log_variance) * noise, training=True)
            likelihood = tf.nn.sigmoid_cross_entropy_with_logits(labels=images, logits=logits)
            kl = 0.5 * tf.reduce_mean(tf.reduce_sum(tf.exp(log_variance) + mean**2 - 1 - log_variance, 1))
            loss = tf.reduce_mean(tf.reduce_sum(likelihood, 1)) + kl
            # Keras' optimizers add up the gradients of all replicas, so each takes its share of the loss.
            share = loss / context.num_replicas_in_sync
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(share, weights), weights)
        for tracker, value in zip(self.trackers, (loss, kl), strict=True):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}


strategy = dqgan_tf.CompressedStrategy()
keras.utils.set_random_seed(0)
with strategy.scope():
    model = Autoencoder()
    model.compile(dqgan_tf.compressed(keras.optimizers.Adam(1e-3), "sign:bucket=512", where="update"))

(x, _), _ = keras.datasets.fashion_mnist.load_data()
images = x[: arguments.samples].reshape(-1, 784).astype("float32") / 255
history = model.fit(images, batch_size=256, epochs=arguments.epochs, verbose=2 if strategy.is_chief else 0).history
if strategy.is_chief:
    print(f"loss {history['loss'][0]:.1f} in the first epoch, {history['loss'][-1]:.1f} in the last")
