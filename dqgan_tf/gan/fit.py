"""Keras' `fit` and `evaluate` for a model that has its own training loop."""

import numpy as np
import tensorflow as tf

from dqgan_tf.distribute import loop
from dqgan_tf.gan import steps
from dqgan_tf.private_keras import LoopModel


class KerasFit(LoopModel):
    """Implements Keras' `fit` and `evaluate` for `DQGAN`, the only subclass."""

    def train_on(self, iterator):
        if not self.train_steps(iterator, self.steps_per_execution):
            raise StopIteration
        return self.drain_metrics()

    def test_on(self, iterator):
        done, total = self._sum_losses(iterator, tf.constant(self.steps_per_execution))
        if not int(done):
            raise StopIteration
        self._evaluated += total.numpy()
        generator_loss, discriminator_loss, samples = self._evaluated
        return {"generator_loss": generator_loss / samples, "discriminator_loss": discriminator_loss / samples}

    def reset_metrics(self):
        super().reset_metrics()
        self._evaluated = np.zeros(3)

    @tf.function(autograph=False)
    def _sum_losses(self, iterator, num_steps):
        def step(batch, total):
            return total + self._first_local(self._strategy.run(self._replica_losses, args=(batch,)))

        return loop.fold(step, iterator, num_steps, tf.zeros([3]))

    def _replica_losses(self, data):
        real = steps.real_samples(data)
        weights = tuple([v.value for v in p.network.trainable_variables] for p in self._players)
        evaluation = self._evaluate(weights, steps.one_sample_at_least(real), self.step.value)
        samples = tf.cast(tf.shape(real)[0], tf.float32)
        sums = tf.stack([evaluation.generator_loss, evaluation.discriminator_loss, 1.0]) * samples
        sums = tf.where(samples > 0, sums, tf.zeros_like(sums))
        return tf.distribute.get_replica_context().all_reduce("sum", sums)
