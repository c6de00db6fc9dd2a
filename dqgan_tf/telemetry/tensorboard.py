"""TensorBoard's event files, written by the chief alone."""

import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf


class TensorBoardWriter:
    """Scalars, images and text of one run as TensorBoard events. Called eagerly, outside of `tf.function`.

    A resumed run adds a second event file to the same folder; TensorBoard draws the steps between the last checkpoint
    and the crash twice. `metrics.jsonl` holds each step once.

    Args:
      log_dir: folder of the event files; made when missing.
    """

    def __init__(self, log_dir: str | os.PathLike):
        self._writer = tf.summary.create_file_writer(os.fspath(log_dir))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one point of each named curve at `step`. Names group before the first slash."""
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes one image, uint8 [H, W, 1 or 3]."""
        with self._writer.as_default(step=step):
            tf.summary.image(name, image[np.newaxis])

    def text(self, step: int, name: str, text: str) -> None:
        """Writes text, shown as Markdown: indent by four spaces what is to stay as it is."""
        with self._writer.as_default(step=step):
            tf.summary.text(name, text)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class NullWriter:
    """Takes what `TensorBoardWriter` takes and writes nothing: the writer of every worker but the chief."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        pass

    def text(self, step: int, name: str, text: str) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def writer_for(is_chief: bool, log_dir: str | os.PathLike) -> TensorBoardWriter | NullWriter:
    """Returns a writer into `log_dir` on the chief and a `NullWriter` elsewhere, which makes no folder."""
    return TensorBoardWriter(log_dir) if is_chief else NullWriter()
