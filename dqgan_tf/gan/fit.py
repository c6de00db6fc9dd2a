"""What Keras' `fit` and `evaluate` need of a model that has its own training step."""

import keras
import numpy as np
import tensorflow as tf

from dqgan_tf.gan import batches


class Fit(keras.Model):
    """`fit` and `evaluate` by a subclass's `train_steps`, `drain_metrics` and `_evaluate`."""

    def make_train_function(self, force=False):
        # Keras' own reduces scalar logs over axis 0 and fails under several workers (Keras 3.15.1).
        if self.train_function is not None and not force:
            return

        def train_function(iterator):
            if not self.train_steps(iterator, self.steps_per_execution):
                raise StopIteration
            return self.drain_metrics()

        self.train_function = train_function

    def make_test_function(self, force=False):
        if self.test_function is not None and not force:
            return

        @tf.function(autograph=False)
        def evaluate(iterator, num_steps):
            def step(batch, total):
                return total + self._first_local(self._strategy.run(self._replica_losses, args=(batch,)))

            return batches.fold(step, iterator, num_steps, tf.zeros([3]))

        def test_function(iterator):
            done, total = evaluate(iterator, tf.constant(self.steps_per_execution))
            if not int(done):
                raise StopIteration
            self._evaluated += total.numpy()
            generator_loss, discriminator_loss, samples = self._evaluated
            return {"generator_loss": generator_loss / samples, "discriminator_loss": discriminator_loss / samples}

        self.test_function = test_function

    def reset_metrics(self):
        super().reset_metrics()
        self._evaluated = np.zeros(3)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # The networks are built; Keras' symbolic build fails on per-replica values (Keras 3.15.1).
        del iterator, data_batch

    def _replica_losses(self, data):
        real = batches.real(data)
        weights = tuple([v.value for v in p.network.trainable_variables] for p in self._players)
        evaluation = self._evaluate(weights, batches.one_sample_at_least(real), self.step.value)
        samples = tf.cast(tf.shape(real)[0], tf.float32)
        sums = tf.stack([evaluation.generator_loss, evaluation.discriminator_loss, 1.0]) * samples
        sums = tf.where(samples > 0, sums, tf.zeros_like(sums))
        return tf.distribute.get_replica_context().all_reduce("sum", sums)
