"""Prepares an image data set on this machine. Training does not download data.

python -m trainers.prepare --dataset=fashion_mnist --data_dir=~/tensorflow_datasets --source_dir=fashion_mnist_files
"""

from absl import flags

from dqgan_tf.errors import UsageError
from dqgan_tf.training import command

_DATASET = flags.DEFINE_string("dataset", None, "Name of the data set in TensorFlow Datasets.", required=True)
_DATA_DIR = command.define_path("data_dir", "Folder of the prepared data sets. Default: that of TensorFlow Datasets.")
_SOURCE_DIR = command.define_path("source_dir", "Folder of the original files. Default: download them.")


def main(arguments):
    del arguments
    command.load_tensorflow()
    from dqgan_tf.data.catalogue import prepare

    try:
        directory = prepare(_DATASET.value, _DATA_DIR.value, _SOURCE_DIR.value)
    except OSError as error:  # the folder cannot be written, or the network cannot be reached
        raise UsageError(f"{_DATASET.value!r} cannot be prepared: {error}") from None
    print(f"{_DATASET.value} is prepared in {directory}")


if __name__ == "__main__":
    command.run(main)
