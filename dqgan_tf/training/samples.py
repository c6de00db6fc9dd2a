"""Samples of a generator: drawn from fixed latents, shown as pictures, written to files."""

import io
import pathlib

import numpy as np
import tensorflow as tf

from dqgan_tf import data
from dqgan_tf.errors import UsageError
from dqgan_tf.gan import steps
from dqgan_tf.telemetry import pictures
from dqgan_tf.telemetry.json_lines import write_atomically
from dqgan_tf.training.restore import TrainedRun

IMAGES_PER_PICTURE = 64
POINTS_PER_PICTURE = 2048
_BATCH = 500


def draw(model, count: int, *, use_ema: bool) -> np.ndarray:
    """Returns `count` generated samples, float32 [count, *shape]. Every call uses the same latents.

    Raises:
      UsageError: `count` is below 1.
    """
    if count < 1:
        raise UsageError(f"The number of samples must be 1 or more, such as 64. Received: {count}")
    batches = []
    for first in range(0, count, _BATCH):
        seed = steps.stream_seed(model.seed, steps.SAMPLE, tf.constant(first), tf.constant(0), 1)
        latent = tf.random.stateless_normal([_BATCH, model.latent_dim], seed)
        batches.append(model.generate(latent, use_ema=use_ema).numpy())
    return np.concatenate(batches)[:count]


def picture(spec: data.DataSpec, samples: np.ndarray) -> np.ndarray:
    """Returns samples as one picture, uint8 [H, W, 1 or 3]: a scatter plot with the modes, or a grid of images."""
    return pictures.scatter(samples, spec.modes) if spec.kind == "points" else pictures.image_grid(samples)


def take(dataset: tf.data.Dataset, spec: data.DataSpec) -> np.ndarray:
    """Returns the first samples of a data set of batches, as many as a picture shows."""
    return next(iter(dataset.unbatch().batch(_count(spec)))).numpy()


def write_pictures(
    folder,
    step: int,
    spec: data.DataSpec,
    model,
    tensorboard: tf.summary.SummaryWriter,
    real: np.ndarray | None = None,
) -> None:
    """Writes pictures of the raw and the averaged generator, drawn from the same latents, and of real samples.

    The files are `raw_<step>.png`, `ema_<step>.png` and, if there are real samples, `real_<step>.png` in `folder`.
    TensorBoard shows them as `samples/raw`, `samples/ema` and `samples/real`.
    """
    drawn = {name: draw(model, _count(spec), use_ema=use_ema) for name, use_ema in (("raw", False), ("ema", True))}
    for name, values in (drawn | ({} if real is None else {"real": real})).items():
        image = picture(spec, values)
        pictures.write_png(pathlib.Path(folder) / f"{name}_{step:08d}.png", image)
        with tensorboard.as_default(step):
            tf.summary.image(f"samples/{name}", image[np.newaxis])


def _count(spec):
    return POINTS_PER_PICTURE if spec.kind == "points" else IMAGES_PER_PICTURE


def write_file(path: str, run: TrainedRun, count: int, *, use_ema: bool) -> None:
    """Writes `count` samples of a run's generator to a file.

    X.png is one picture. X.npz holds `samples`, uint8 images or float32 points, and `step`.

    Raises:
      UsageError: the path ends in neither .npz nor .png, or `count` is below 1.
      OSError: the file cannot be written.
    """
    if not path.endswith((".npz", ".png")):
        raise UsageError(f"The output must be a file such as samples.npz or samples.png. Received: {path!r}")
    samples = draw(run.model, count, use_ema=use_ema)
    if path.endswith(".png"):
        pictures.write_png(path, picture(run.data_spec, samples))
        return
    if run.data_spec.kind == "images":
        samples = pictures.to_uint8(samples)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, samples=samples, step=np.int64(run.step))
    write_atomically(path, buffer.getvalue())
