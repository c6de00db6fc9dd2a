"""Pictures of what the generator draws."""

import pathlib

import numpy as np
import tensorflow as tf

from dqgan_tf import data
from dqgan_tf.gan import noise
from dqgan_tf.telemetry import image_grid, scatter
from dqgan_tf.telemetry.png import write_png

PICTURED_IMAGES = 64
PICTURED_POINTS = 2048
_BATCH = 500


def draw(model, count: int, *, use_ema: bool) -> np.ndarray:
    """Returns `count` generated samples, float32 [count, *shape]; the same latents at every call."""
    batches = []
    for first in range(0, count, _BATCH):
        seed = noise.stream_seed(model.seed, noise.SAMPLE, tf.constant(first), tf.constant(0), 1)
        latent = tf.random.stateless_normal([_BATCH, model.latent_dim], seed)
        batches.append(model.generate(latent, use_ema=use_ema).numpy())
    return np.concatenate(batches)[:count]


def picture(spec: data.DataSpec, samples: np.ndarray) -> np.ndarray:
    """Returns samples as one image, uint8 [H, W, C]: a scatter plot with the modes, or a grid."""
    if spec.kind == "points":
        return scatter.scatter(samples, spec.modes)
    return image_grid.image_grid(samples)


def pictures(spec: data.DataSpec, model) -> dict[str, np.ndarray]:
    """Returns `{"raw": image, "ema": image}`, what the raw and the averaged generator draw from the same latents."""
    count = PICTURED_POINTS if spec.kind == "points" else PICTURED_IMAGES
    return {
        name: picture(spec, draw(model, count, use_ema=use_ema)) for name, use_ema in (("raw", False), ("ema", True))
    }


def write(folder, step: int, images: dict[str, np.ndarray], tensorboard) -> None:
    """Writes each of `pictures` as `<name>_<step>.png` into `folder` and to TensorBoard. The chief's part alone."""
    for name, image in images.items():
        write_png(pathlib.Path(folder) / f"{name}_{step:08d}.png", image)
        tensorboard.image(step, f"samples/{name}", image)
