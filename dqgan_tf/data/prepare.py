"""Preparing a data set of TensorFlow Datasets, once, from the network or from the original files."""

import os

import tensorflow_datasets as tfds

from dqgan_tf.data import catalogue
from dqgan_tf.data.errors import DatasetError

_IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
SOURCE_FILES = {"fashion_mnist": _IDX_FILES, "mnist": _IDX_FILES}


def prepare(name: str, data_dir: str | None, source_dir: str | None = None) -> str:
    """Prepares a data set under `data_dir` and returns its directory; returns at once if it is there already.

    Args:
      name: as TensorFlow Datasets knows it.
      data_dir: where prepared data sets lie (None: the TFDS default).
      source_dir: folder of the original files, under the names they are published with. Files found there are not
        downloaded; None downloads everything.

    Raises:
      DatasetError: unknown data set, or `source_dir` or a file in it is missing.
    """
    builder = catalogue.builder(name, data_dir)
    if not builder.is_prepared():
        if source_dir is not None:
            _check_source(name, source_dir)
        builder.download_and_prepare(download_dir=_download_dir(builder), download_config=_download_config(source_dir))
    return str(builder.data_dir)


def _check_source(name, source_dir):
    if not os.path.isdir(source_dir):
        raise DatasetError(f"`source_dir` must be a folder. Received: source_dir={source_dir!r}")
    expected = SOURCE_FILES.get(catalogue.base_name(name), ())
    missing = [file for file in expected if not os.path.exists(os.path.join(source_dir, file))]
    if missing:
        raise DatasetError(f"{source_dir} holds no {', '.join(missing)}, which {name!r} is prepared from.")


def _download_dir(builder):
    # One folder per data set: TFDS 4.9 finds files by their published names, which mnist and fashion_mnist share.
    return os.path.join(builder.data_dir_root, "downloads", builder.name)


def _download_config(source_dir):
    manual_dir = None if source_dir is None else os.path.abspath(source_dir)
    return tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
