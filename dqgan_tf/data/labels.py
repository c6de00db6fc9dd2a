"""The classes of an image set, for a judge that is trained on it."""

import numpy as np
import tensorflow_datasets as tfds

from dqgan_tf.config import DataConfig
from dqgan_tf.data import catalogue


def load(config: DataConfig) -> np.ndarray | None:
    """Returns the split's labels, int64 [num_examples], in the order of `images.load`; None where there are none.

    Raises:
      DatasetError: the data set is unknown or not prepared.
    """
    builder = catalogue.prepared_builder(config.dataset, config.data_dir)
    if "label" not in builder.info.features:
        return None
    decoders = tfds.decode.PartialDecoding({"label": True})
    reading = tfds.ReadConfig(try_autocache=False)
    examples = builder.as_dataset(split=config.split, shuffle_files=False, decoders=decoders, read_config=reading)
    batches = examples.map(lambda example: example["label"]).batch(4096).as_numpy_iterator()
    return np.concatenate(list(batches)).astype(np.int64)
