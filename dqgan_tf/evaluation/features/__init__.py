"""Feature networks: fixed networks that image figures are taken with."""

from dqgan_tf.evaluation.features.base import FeatureNetwork, Features

__all__ = ["FeatureNetwork", "Features"]
