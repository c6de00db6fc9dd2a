"""Generated samples as files."""

import io

import numpy as np

from dqgan_tf.telemetry import atomic, image_grid
from dqgan_tf.telemetry.png import write_png
from dqgan_tf.training import samples
from dqgan_tf.training.restore import Trained


def write(path: str, trained: Trained, count: int, *, use_ema: bool) -> None:
    """Writes `count` samples: `.npz` with `samples` (uint8 images or float32 points) and `step`, or one `.png` picture.

    Raises:
      OSError: the file cannot be written.
    """
    drawn = samples.draw(trained.model, count, use_ema=use_ema)
    if path.endswith(".png"):
        write_png(path, samples.picture(trained.data_spec, drawn))
        return
    values = image_grid.to_uint8(drawn) if trained.data_spec.kind == "images" else drawn
    buffer = io.BytesIO()
    np.savez_compressed(buffer, samples=values, step=np.int64(trained.step))
    atomic.write_bytes(path, buffer.getvalue())
