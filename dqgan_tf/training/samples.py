"""Samples of a generator: drawn from fixed latents, shown as pictures, written to files."""

import io
import math
import pathlib

import numpy as np
import tensorflow as tf

from dqgan_tf import data
from dqgan_tf.data.files import MEMORY_LIMIT_BYTES
from dqgan_tf.errors import UsageError
from dqgan_tf.gan import steps
from dqgan_tf.telemetry import pictures
from dqgan_tf.telemetry.json_lines import write_atomically
from dqgan_tf.telemetry.tensorboard import write_picture
from dqgan_tf.training.restore import TrainedRun

IMAGES_PER_PICTURE = 64
CLASSES_PER_PICTURE = 16
POINTS_PER_PICTURE = 2048
_BATCH = 500
_PICTURE_LIMIT = 10**6, 2**31  # of a PNG file: pixels of a side (libpng), and values (TensorFlow 2.21)


def draw(
    model,
    count: int,
    *,
    use_ema: bool,
    seed: int | None = None,
    interpolate: int | None = None,
    labels: np.ndarray | None = None,
    as_bytes: bool = False,
) -> np.ndarray:
    """Returns `count` generated samples, float32 [count, *shape]. Equal arguments give equal latents.

    Args:
      model: a `DQGAN`.
      count: number of samples.
      use_ema: draw from the averaged generator, not the raw one.
      seed: seed of the latents. None takes the model's, as the pictures of a run do.
      interpolate: see `latents`.
      labels: int [count], the classes of the samples of a conditional GAN; see `class_labels`.
      as_bytes: return images as uint8, by `to_uint8`, in a quarter of the memory.

    Raises:
      UsageError: `count` is below 1.
    """
    if count < 1:
        raise UsageError(f"The number of samples must be 1 or more, such as 64. Received: {count}")
    batches = []
    for first in range(0, count, _BATCH):
        latent = latents(model, first, first + _BATCH, seed=seed, interpolate=interpolate)
        if labels is not None:
            latent = latent[: count - first]
            drawn = model.generate(latent, labels[first : first + _BATCH].astype(np.int32), use_ema=use_ema)
        else:
            drawn = model.generate(latent, use_ema=use_ema)
        batches.append(pictures.to_uint8(drawn.numpy()) if as_bytes else drawn.numpy())
    return np.concatenate(batches)[:count]


def check_memory(spec: data.DataSpec, count: int) -> None:
    """Raises UsageError if `count` samples do not fit into the memory that a data set may take."""
    size = math.prod(spec.shape) * (1 if spec.kind == "images" else 4)  # bytes
    if count * size > MEMORY_LIMIT_BYTES:
        raise UsageError(
            f"{count} samples of shape {spec.shape} take {count * size / 1e9:.1f} GB of memory; the limit is "
            f"{MEMORY_LIMIT_BYTES / 1e9:.1f} GB. Draw at most {MEMORY_LIMIT_BYTES // size} at a time, for example in "
            "files with different seeds."
        )


def _check_picture(spec, count, columns):
    """Raises UsageError if a PNG file cannot hold a grid of `count` images."""
    columns = columns or max(math.ceil(math.sqrt(count)), 1)
    height, width = math.ceil(count / columns) * (spec.shape[0] + 2), columns * (spec.shape[1] + 2)
    if max(height, width) > _PICTURE_LIMIT[0] or height * width * 3 >= _PICTURE_LIMIT[1]:
        raise UsageError(
            f"The picture would have {width} x {height} pixels; a PNG file holds at most {_PICTURE_LIMIT[0]} on a side "
            f"and {_PICTURE_LIMIT[1] // 3} in all. Draw fewer images, with another number of columns, or write X.npz. "
            f"Received: {count} images, {columns} columns"
        )


def class_labels(spec: data.DataSpec, count: int, *, label: int | None = None, repeat: int = 1) -> np.ndarray | None:
    """Returns the classes of `count` samples of a conditional run, int64 [count]; None for any other run.

    Args:
      spec: description of the run's data.
      count: number of samples.
      label: class of all samples. None takes the classes in turn.
      repeat: number of samples of a class before the next class.

    Raises:
      UsageError: there is no such class.
    """
    if spec.num_classes is None:
        if label is not None:
            raise UsageError(f"The run is not conditional, so its samples have no class. Received: label={label}")
        return None
    if label is None:
        return np.arange(count) // repeat % spec.num_classes
    if not 0 <= label < spec.num_classes:
        raise UsageError(f"`label` must be 0 to {spec.num_classes - 1}. Received: label={label}")
    return np.full(count, label)


def latents(model, first: int, last: int, *, seed: int | None, interpolate: int | None) -> tf.Tensor:
    """Returns the latents of samples `first` to `last - 1` of an endless sequence, float32 [last - first, latent_dim].

    They are standard normal. With `interpolate` = K >= 2, each K samples lie on a great circle from one normal latent a
    to another one b (White 2016, arXiv:1609.04468): sin((1 - t) w) / sin w a + sin(t w) / sin w b with t = 0, 1/(K-1),
    ..., 1 and w the angle between a and b.
    """
    if interpolate is None:
        return _normal(model, first, last, seed)
    rows, places = np.divmod(np.arange(first, last), interpolate)
    ends = _normal(model, 2 * rows[0], 2 * rows[-1] + 2, seed)
    a, b = (tf.gather(ends, 2 * (rows - rows[0]) + end) for end in (0, 1))
    t = tf.constant(places / (interpolate - 1), tf.float32)[:, tf.newaxis]
    cosine = tf.reduce_sum(tf.nn.l2_normalize(a, 1) * tf.nn.l2_normalize(b, 1), 1, keepdims=True)
    w = tf.acos(tf.clip_by_value(cosine, -1.0, 1.0))
    is_arc = tf.sin(w) > 1e-4  # a straight line between latents of one direction, as a latent of one value has
    arc = (tf.sin((1 - t) * w) * a + tf.sin(t * w) * b) / tf.where(is_arc, tf.sin(w), 1.0)
    return tf.where(is_arc, arc, (1 - t) * a + t * b)


def _normal(model, first, last, seed):
    """Returns elements `first` to `last - 1` of an endless sequence of normal latents, drawn in batches of _BATCH."""
    batches = []
    for start in range(first - first % _BATCH, last, _BATCH):
        key = model.seed if seed is None else seed
        stream = steps.stream_seed(key, steps.SAMPLE, tf.constant(start), tf.constant(0), 1)
        batches.append(tf.random.stateless_normal([_BATCH, model.latent_dim], stream))
    return tf.concat(batches, 0)[first % _BATCH :][: last - first]


def picture(spec: data.DataSpec, samples: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Returns samples as one picture, uint8 [H, W, 1 or 3]: a scatter plot with the modes, or a grid of images."""
    return pictures.scatter(samples, spec.modes) if spec.kind == "points" else pictures.image_grid(samples, columns)


def take(dataset: tf.data.Dataset, spec: data.DataSpec) -> np.ndarray:
    """Returns the first samples of a data set of batches, as many as a picture shows.

    Of a conditional run, the classes are in turn, as in the pictures; a class that is rare has black images.
    """
    labels = _picture_labels(spec)
    count = _count(spec) * (1 if labels is None else 8)
    batch = next(iter(dataset.unbatch().batch(count)))
    if labels is None:
        return batch.numpy()
    samples, classes = batch[0].numpy(), batch[1].numpy()
    taken = np.full([len(labels), *spec.shape], -1.0, np.float32)
    for label in np.unique(labels):
        places, of_class = np.flatnonzero(labels == label), samples[classes == label]
        taken[places[: len(of_class)]] = of_class[: len(places)]
    return taken


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
    TensorBoard shows them in its group of samples. Of a conditional run, a column of images
    is a class: the first `CLASSES_PER_PICTURE` are shown.
    """
    labels, sets = _picture_labels(spec), {} if real is None else {"real": real}
    for name, use_ema in (("raw", False), ("ema", True)):
        sets[name] = draw(model, _count(spec), use_ema=use_ema, labels=labels)
    for name, values in sets.items():
        image = picture(spec, values, _columns(spec))
        pictures.write_png(pathlib.Path(folder) / f"{name}_{step:08d}.png", image)
        with tensorboard.as_default(step):
            write_picture(name, image)


def _columns(spec):
    """Returns the images in a row of a picture: the classes that are shown; None without classes."""
    return min(spec.num_classes, CLASSES_PER_PICTURE) if spec.num_classes and spec.kind == "images" else None


def _count(spec):
    if spec.kind == "points":
        return POINTS_PER_PICTURE
    columns = _columns(spec)
    return IMAGES_PER_PICTURE if columns is None else columns * max(IMAGES_PER_PICTURE // columns, 4)


def _picture_labels(spec):
    """Returns the classes of the samples in a picture, int64; None without classes."""
    columns = _columns(spec)
    return class_labels(spec, _count(spec)) if columns is None else np.arange(_count(spec)) % columns


def write_file(
    path: str,
    run: TrainedRun,
    count: int,
    *,
    use_ema: bool,
    seed: int | None = None,
    interpolate: int | None = None,
    columns: int | None = None,
    label: int | None = None,
) -> None:
    """Writes `count` samples of a run's generator to a file.

    X.png is one picture, of images with `columns` in a row. X.npz holds `samples`, uint8 images or float32 points,
    `step`, and `labels` of a conditional run, whose samples are of the class `label`, or of the classes in turn: a row
    of the interpolation is of one class. The other arguments are those of `draw`.

    Raises:
      UsageError: the path ends in neither .npz nor .png, `count` is below 1 or too many, there is no grid for
        `columns`, or there is no class `label`.
      OSError: the file cannot be written.
    """
    if not path.endswith((".npz", ".png")):
        raise UsageError(f"The output must be a file such as samples.npz or samples.png. Received: {path!r}")
    if columns is not None and (path.endswith(".npz") or run.data_spec.kind == "points"):
        raise UsageError(
            f"`columns` is for a grid of images in a .png file. Received: {path!r} of {run.data_spec.kind}"
        )
    check_memory(run.data_spec, count)
    in_row = columns or interpolate or (None if label is not None else _columns(run.data_spec))
    if path.endswith(".png") and run.data_spec.kind == "images":
        _check_picture(run.data_spec, count, in_row)
    labels = class_labels(run.data_spec, count, label=label, repeat=interpolate or 1)
    as_bytes = run.data_spec.kind == "images"
    samples = draw(
        run.model, count, use_ema=use_ema, seed=seed, interpolate=interpolate, labels=labels, as_bytes=as_bytes
    )
    if path.endswith(".png"):
        pictures.write_png(path, picture(run.data_spec, samples, in_row))
        return
    buffer = io.BytesIO()
    arrays = {"samples": samples, "step": np.int64(run.step)} | ({} if labels is None else {"labels": labels})
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy 2 annotates all keywords as allow_pickle
    write_atomically(path, buffer.getvalue())
