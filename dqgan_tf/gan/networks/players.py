"""What every architecture returns, and the seeds of its layers."""

from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np


class Players(NamedTuple):
    """Both players, built.

    generator: f32 [batch, latent_dim] -> f32 [batch, *data_shape].
    discriminator: f32 [batch, *data_shape] -> logits f32 [batch, 1]; treats samples separately (no batch statistics).
    latent_dim: dimension of the standard normal latent.
    """

    generator: keras.Model
    discriminator: keras.Model
    latent_dim: int


def layer_seeds(seed: int, player: str) -> Iterator[int]:
    """Yields one 32-bit seed per layer, a function of (seed, player, index of the layer)."""
    entropy = [seed % 2**64, *player.encode()]
    layer = 0
    while True:
        yield int(np.random.SeedSequence([*entropy, layer]).generate_state(1)[0])
        layer += 1
