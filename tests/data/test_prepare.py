"""Preparation from original files, without the network."""

import gzip

import numpy as np
import pytest

from dqgan_tf import data
from dqgan_tf.config import DataConfig
from dqgan_tf.data import images
from dqgan_tf.data.catalogue import prepare


def test_unknown_name(tmp_path):
    with pytest.raises(data.DatasetError, match="no data set 'fashion_mnst'. Near it: fashion_mnist"):
        prepare("fashion_mnst", str(tmp_path))


def test_source_dir_must_exist(tmp_path):
    with pytest.raises(data.DatasetError, match="`source_dir` must be a folder. Received: source_dir='.*nowhere'"):
        prepare("fashion_mnist", str(tmp_path), str(tmp_path / "nowhere"))


def test_missing_files_are_named_before_any_download(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").touch()
    with pytest.raises(data.DatasetError, match="holds no train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz"):
        prepare("fashion_mnist", str(tmp_path / "prepared"), str(tmp_path))


@pytest.mark.slow
def test_fashion_mnist_from_its_files(data_dir, tmp_path):
    """The prepared images are those of the original file (60,000 after a header of 16 bytes), whatever their order."""
    source = data_dir / "fashion_mnist"
    if not source.is_dir():
        pytest.skip(f"no Fashion-MNIST in {source}; set DQGAN_DATA to a folder that holds it")
    directory = prepare("fashion_mnist", str(tmp_path), str(source))
    assert directory.startswith(str(tmp_path))
    assert prepare("fashion_mnist", str(tmp_path)) == directory
    loaded = images.load(DataConfig(dataset="fashion_mnist", data_dir=str(tmp_path)))
    with gzip.open(source / "train-images-idx3-ubyte.gz") as file:
        original = np.frombuffer(file.read(), np.uint8, offset=16).reshape(60_000, 28, 28, 1)
    assert loaded.shape == original.shape
    assert sorted(image.tobytes() for image in loaded) == sorted(image.tobytes() for image in original)
