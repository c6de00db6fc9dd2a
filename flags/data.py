"""Flags of `DataConfig`."""

from dqgan_tf.config import DataConfig
from flags.define import define

define(
    DataConfig,
    "dataset",
    "What is learned: gaussian_ring (8 modes), gaussian_grid (25 modes), or the name of any image set of TensorFlow "
    "Datasets, such as fashion_mnist, mnist, cifar10, celeb_a.",
)
define(DataConfig, "data_dir", "Prepared TensorFlow Datasets directory on this machine; default: the library's own.")
define(
    DataConfig,
    "image_size",
    "Height and width in pixels after resizing; default: the data set's own.",
    lower=1,
    works=64,
)
define(DataConfig, "split", "Split of the image set that is trained on, for example train or train[:90%].")
