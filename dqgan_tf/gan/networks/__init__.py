"""Architectures of both players, as built Keras models."""

from dqgan_tf.config import NetworkConfig
from dqgan_tf.gan.networks import dcgan, mlp
from dqgan_tf.gan.networks.players import Players

__all__ = ["Players", "build"]

_NETWORKS = {"mlp": mlp.build, "dcgan": dcgan.build}


def build(config: NetworkConfig, data_shape: tuple[int, ...], seed: int) -> Players:
    """Returns both players for samples of `data_shape`: (dimensions,) for points, (height, width, channels) for images.

    Two calls with equal arguments give equal weights. To be called where variables may be created (eagerly, or in a
    strategy's scope).

    Raises:
      ValueError: unknown network, a size that the network does not draw, or a width or latent dimension below 1.
    """
    if config.network not in _NETWORKS:
        names = ", ".join(sorted(_NETWORKS))
        raise ValueError(f"`network` must be one of {names}. Received: network={config.network!r}")
    for field in ("latent_dim", "width"):
        value = getattr(config, field)
        if value is not None and value < 1:
            raise ValueError(f"`{field}` must be 1 or more, or None. Received: {field}={value}")
    return _NETWORKS[config.network](config, tuple(data_shape), seed)
