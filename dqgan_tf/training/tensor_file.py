"""Named tensors in one TensorFlow checkpoint file pair: crc-checked, readable by tf.train.load_checkpoint."""

import os
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from dqgan_tf.errors import CheckpointError
from dqgan_tf.tensorflow_texts import first_line


def write(prefix: str | os.PathLike, tensors: Mapping[str, tf.Tensor]) -> list[pathlib.Path]:
    """Writes `tensors` to `prefix`.index and `prefix`.data-00000-of-00001 and waits for the disk.

    Returns:
      The files written.

    Raises:
      OSError, tf.errors.OpError: the disk is full or cannot be written.
    """
    prefix = os.fspath(prefix)
    names = list(tensors)
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=[tensors[n] for n in names]
    )
    files = [pathlib.Path(f"{prefix}.index"), pathlib.Path(f"{prefix}.data-00000-of-00001")]
    for file in files:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
    return files


def read(prefix: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the tensors of `write` by name.

    Raises:
      CheckpointError: a file is missing, truncated or damaged.
    """
    try:
        reader = tf.train.load_checkpoint(os.fspath(prefix))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, ValueError) as error:
        raise CheckpointError(f"Checkpoint file {prefix} cannot be read: {first_line(error)}") from None
