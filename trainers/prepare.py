"""Prepares an image data set once, so that training never needs the network.

python -m trainers.prepare --dataset=fashion_mnist --data_dir=~/tensorflow_datasets --source_dir=fashion_mnist_files
"""

import os

from absl import app, flags, logging

from dqgan_tf.data import DatasetError
from dqgan_tf.data.prepare import prepare

_DATASET = flags.DEFINE_string("dataset", None, "Name of the data set in TensorFlow Datasets.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where prepared data sets lie. Default: that of TensorFlow Datasets.")
_SOURCE_DIR = flags.DEFINE_string("source_dir", None, "Folder of the original files. Default: download them.")


def _expanded(path):
    return path and os.path.expanduser(path)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    try:
        directory = prepare(_DATASET.value, _expanded(_DATA_DIR.value), _expanded(_SOURCE_DIR.value))
    except DatasetError as error:
        raise app.UsageError(str(error)) from error
    logging.info("Prepared %s in %s", _DATASET.value, directory)


if __name__ == "__main__":
    app.run(main)
