"""From gradients to update directions: pure functions on flat float32 vectors, one replica at a time."""

from dqgan_tf.config import OptimizerConfig
from dqgan_tf.optimizers.adam import Adam
from dqgan_tf.optimizers.sgd import Sgd

__all__ = ["Adam", "Sgd", "get"]


def get(config: OptimizerConfig) -> Adam | Sgd:
    """Returns the direction that `config` names.

    Raises:
      ValueError: unknown direction, or a setting that the direction refuses.
    """
    if config.direction == "sgd":
        return Sgd()
    if config.direction == "adam":
        return Adam(
            beta_1=config.beta_1,
            beta_2=config.beta_2,
            epsilon=config.epsilon,
            second_moment=config.second_moment,
            second_moment_period=config.second_moment_period,
        )
    raise ValueError(f"`direction` must be sgd or adam. Received: direction={config.direction!r}")
