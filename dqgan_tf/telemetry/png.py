"""PNG files."""

import os

import numpy as np
import tensorflow as tf

from dqgan_tf.telemetry import atomic


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes one image atomically.

    Args:
      path: of the file; its folder is made when missing.
      image: uint8 [H, W, 1 or 3].

    Raises:
      TypeError: the image is not uint8.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise TypeError(f"`image` must be uint8. Received: dtype={image.dtype}")
    atomic.write_bytes(path, tf.io.encode_png(image).numpy())
