"""Prepares an image data set once, so that training never needs the network.

python -m trainers.prepare --dataset=fashion_mnist --data_dir=~/tensorflow_datasets --source_dir=fashion_mnist_files
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags

from dqgan_tf.training import command_line

_DATASET = flags.DEFINE_string("dataset", None, "Name of the data set in TensorFlow Datasets.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where prepared data sets lie. Default: that of TensorFlow Datasets.")
_SOURCE_DIR = flags.DEFINE_string("source_dir", None, "Folder of the original files. Default: download them.")


def _expanded(path):
    return path and os.path.expanduser(path)


def main(argv):
    del argv
    from dqgan_tf.data.catalogue import prepare
    from dqgan_tf.training import command

    with command.errors_in_one_line():
        try:
            directory = prepare(_DATASET.value, _expanded(_DATA_DIR.value), _expanded(_SOURCE_DIR.value))
        except OSError as error:  # a folder that cannot be written, no network
            command_line.refuse(f"{_DATASET.value!r} cannot be prepared: {error}")
        print(f"{_DATASET.value} lies prepared in {directory}")


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
