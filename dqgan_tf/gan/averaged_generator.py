"""The generator's weights averaged over the steps, which samples are drawn from."""

import tensorflow as tf

from dqgan_tf.distribute.replica_local import ReplicaLocal, first_local_value
from dqgan_tf.gan.flat import flatten
from dqgan_tf.gan.player import Player


class AveragedGenerator:
    """w_ema <- d w_ema + (1 - d) w_t with d = min(decay, (1 + t) / (10 + t)); equal on all replicas.

    Starts from the generator's own weights.

    Args:
      player: the generator.
      devices: the local replicas' devices.
      decay: the largest d.
    """

    def __init__(self, player: Player, devices, decay: float):
        self._player = player
        self._decay = decay
        self.variables = ReplicaLocal(devices, [player.layout.size], "generator_ema")
        self.reset()

    def reset(self) -> None:
        """Sets the average to the generator's weights."""
        weights = [first_local_value(v) for v in self._player.network.trainable_variables]
        for variable in self.variables.variables:
            variable.assign(flatten(weights))

    def update(self, weights: tf.Tensor, count: tf.Tensor, accepted: tf.Tensor) -> None:
        """Takes one step, or none if it was not accepted. Replica context.

        Args:
          weights: w_t, float32 [n], by the player's `layout`.
          count: t, accepted steps including this one, float32 scalar.
          accepted: bool scalar.
        """
        average = self.variables.local()
        decay = tf.minimum(self._decay, (1.0 + count) / (10.0 + count))
        old = average.read_value()
        average.assign(tf.where(accepted, decay * old + (1.0 - decay) * weights, old))

    def weights(self) -> list[tf.Tensor]:
        """Returns the average as tensors shaped like the generator's trainable weights. Cross-replica context."""
        return self._player.layout.unflatten(self.variables.variables[0].read_value())
