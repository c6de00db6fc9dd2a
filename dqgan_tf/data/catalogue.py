"""Finding a prepared data set of TensorFlow Datasets, without ever reaching for the network."""

import difflib
import re

import tensorflow_datasets as tfds

from dqgan_tf.data.errors import DatasetError


def base_name(name: str) -> str:
    """Returns `cifar10` for `cifar10`, `cifar10:3.0.2` or `cifar10/config:3.0.2`."""
    return re.split("[:/]", name)[0]


def builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Returns the builder, prepared or not.

    Raises:
      DatasetError: no such data set, with the names nearest to it; or no such configuration or version of it.
    """
    known = tfds.list_builders(with_community_datasets=False)
    if base_name(name) not in known and not _is_plain(name):
        raise _unknown(name, known)
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise _unknown(name, known) from error
    except (AssertionError, ValueError) as error:
        raise DatasetError(f"TensorFlow Datasets cannot open {name!r}: {error}") from error


def prepared_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Returns the builder of a data set that lies on disk.

    Raises:
      DatasetError: as `builder`, or the data set is not prepared, with the command that prepares it.
    """
    found = builder(name, data_dir)
    if not found.is_prepared():
        directory = f" --data_dir={data_dir}" if data_dir else ""
        raise DatasetError(
            f"{name!r} is not prepared: there is nothing in {found.data_dir}. "
            f"Run `python -m trainers.prepare --dataset={name}{directory}` once, with --source_dir=FOLDER where the "
            "original files are at hand; or point `data_dir` at a directory where it is prepared."
        )
    return found


def _is_plain(name):
    # A name without a namespace is looked up in the installed code and on disk only, a namespace on the network.
    return re.fullmatch(r"\w+", name) is not None


def _unknown(name, known):
    near = difflib.get_close_matches(base_name(name).lower(), known, n=5, cutoff=0.5)
    hint = f"Near it: {', '.join(near)}" if near else "`tfds.list_builders()` lists the names"
    return DatasetError(
        f"TensorFlow Datasets has no data set {name!r}. {hint}; mixtures: gaussian_ring, gaussian_grid."
    )
