"""From gradients to updates: directions, the half step, the learning rate. Pure functions on one replica."""

from dqgan_tf.optimizers.directions import Adam, Direction, Sgd, get
from dqgan_tf.optimizers.half_step import half_step_point
from dqgan_tf.optimizers.schedule import learning_rate

__all__ = ["Adam", "Direction", "Sgd", "get", "half_step_point", "learning_rate"]
