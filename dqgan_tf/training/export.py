"""The averaged generator of a run as a file that Keras, TensorFlow or ONNX loads without this library."""

import importlib.util
import os
import pathlib
import tempfile

import keras

from dqgan_tf.errors import UsageError
from dqgan_tf.training.restore import TrainedRun

_FILES = (".keras", ".onnx")
_OTHER_FORMATS = (".h5", ".hdf5", ".pb", ".tflite", ".pt", ".zip", ".npz", ".png")


def check(path: str) -> None:
    """Raises UsageError unless `write` can write to this path."""
    suffix = pathlib.Path(path).suffix
    small = suffix.lower()
    if small in _OTHER_FORMATS or (small in _FILES and small != suffix):
        raise UsageError(
            f"The output must be X.keras, X.onnx, or a folder for a SavedModel, such as generator. Received: {path!r}"
        )
    if suffix == ".onnx" and importlib.util.find_spec("tf2onnx") is None:
        raise UsageError(f"ONNX needs tf2onnx: pip install 'dqgan-tf[onnx]', or write X.keras. Received: {path!r}")
    if suffix in _FILES and os.path.isdir(path):
        raise UsageError(f"The output is a folder. Received: {path!r}")
    if suffix not in _FILES and os.path.exists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise UsageError(
            f"The output must be a new folder, or a file X.keras or X.onnx. Received: {path!r}, which exists"
        )


def write(path: str, run: TrainedRun) -> keras.Model:
    """Writes the averaged generator, latents float32 [batch, latent_dim] -> samples float32 [batch, *shape].

    X.keras is a file of Keras and X.onnx one of ONNX (by tf2onnx, in the extra `onnx`); any other path becomes the
    folder of a SavedModel with the signature `serve`. Images are in [-1, 1]. A file or folder appears as a whole or not
    at all.

    Returns:
      The generator that was written.

    Raises:
      UsageError: see `check`.
      OSError: the file cannot be written.
    """
    check(path)
    generator = run.model.averaged_generator()
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export_") as folder:
        part = pathlib.Path(folder) / ("generator" + target.suffix * (target.suffix in _FILES))
        if target.suffix == ".keras":
            generator.save(part)
        elif target.suffix == ".onnx":
            generator.export(part, format="onnx", verbose=False)
        else:
            generator.export(part, format="tf_saved_model", verbose=False)
        os.replace(part, target)
    return generator
