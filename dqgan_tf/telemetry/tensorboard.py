"""TensorBoard event files."""

import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf


class TensorBoardWriter:
    """Writes scalars, images and text of one run as TensorBoard events. Works eagerly, outside of `tf.function`.

    A resumed run adds a second event file to the folder, and TensorBoard draws the steps between the last checkpoint
    and the crash twice. `metrics.jsonl` holds each step once.

    Args:
      log_dir: folder of the event files, created if missing.
    """

    def __init__(self, log_dir: str | os.PathLike):
        self._writer = tf.summary.create_file_writer(os.fspath(log_dir))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one point of each named curve. TensorBoard groups curves by the part before the first slash."""
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes one image, uint8 [H, W, 1 or 3]."""
        with self._writer.as_default(step=step):
            tf.summary.image(name, image[np.newaxis])

    def text(self, step: int, name: str, text: str) -> None:
        """Writes text, which TensorBoard shows as Markdown."""
        with self._writer.as_default(step=step):
            tf.summary.text(name, text)

    def close(self) -> None:
        self._writer.close()
