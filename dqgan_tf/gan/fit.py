"""Keras' `fit` and `evaluate` for a model that has its own training loop."""

import numpy as np
import tensorflow as tf

from dqgan_tf.distribute import loop
from dqgan_tf.errors import TrainingError, UsageError
from dqgan_tf.gan import steps
from dqgan_tf.private_keras import LoopModel


class KerasFit(LoopModel):
    """Implements Keras' `fit` and `evaluate` for `DQGAN`, the only subclass."""

    def train_on(self, iterator):
        skipped = int(self.skipped.numpy())
        if not self.train_steps(iterator, self.steps_per_execution):
            raise StopIteration
        self._check_skipped_in_row()
        self._trained = self._trained + self._drained()
        self._skipped_in_epoch += int(self.skipped.numpy()) - skipped
        return _with_sum(self.figures(self._trained) | {"skipped": self._skipped_in_epoch})

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """Takes a step on this worker's batch.

        Returns:
          [generator_loss, discriminator_loss], or a dict of all figures.
        """
        _refuse_labels(y=y, sample_weight=sample_weight, class_weight=class_weight)
        if (local_steps := self.compression_config.local_steps) > 1:
            raise UsageError(
                "train_on_batch takes one step, but an exchange ends several: call fit, or compile with local_steps=1. "
                f"Received: local_steps={local_steps}"
            )
        self.reset_metrics()
        return _losses(self.train_on(self._iterator_of(x)), return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """As `train_on_batch`, without a change of the weights."""
        _refuse_labels(y=y, sample_weight=sample_weight)
        self.reset_metrics()
        return _losses(self.test_on(self._iterator_of(x)), return_dict)

    def _iterator_of(self, x):
        dataset = tf.data.Dataset.from_tensors(x)
        if len(self._strategy.local_devices) > 1 or self._strategy.num_workers > 1:
            parts = len(self._strategy.local_devices)
            dataset = dataset.unbatch().batch(-(-len(tf.nest.flatten(x)[0]) // parts))
        return iter(self._strategy.distribute_datasets_from_function(lambda _: dataset))

    def _check_skipped_in_row(self):
        in_row = int(self.skipped_in_row.numpy())
        noun = "steps" if self.compression_config.local_steps == 1 else "exchanges"
        if self.max_skipped_in_row and in_row >= self.max_skipped_in_row:
            raise TrainingError(
                f"The last {in_row} {noun} up to step {int(self.step.numpy())} were skipped, because an update was not "
                "finite on some replica. Lower the learning rates, or raise max_skipped_in_row of `compile`."
            )

    def test_on(self, iterator):
        done, total = self._sum_losses(iterator, tf.constant(self.steps_per_execution))
        if not int(done):
            raise StopIteration
        self._evaluated += total.numpy()
        generator_loss, discriminator_loss, samples = self._evaluated
        return _with_sum(
            {"generator_loss": generator_loss / samples, "discriminator_loss": discriminator_loss / samples}
        )

    def reset_metrics(self):
        super().reset_metrics()
        self._evaluated = np.zeros(3)
        self._trained, self._skipped_in_epoch = 0.0, 0

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


def _refuse_labels(**values):
    for name, value in values.items():
        if value is not None:
            raise UsageError(f"DQGAN has no use for `{name}`: pass real samples alone. Received: {name}={value!r}")


def _with_sum(figures):
    """Adds `loss`, the sum of both losses, which `TerminateOnNaN` and the progress bar look for."""
    return {"loss": figures["generator_loss"] + figures["discriminator_loss"]} | figures


def _losses(figures, return_dict):
    return figures if return_dict else [figures["generator_loss"], figures["discriminator_loss"]]
