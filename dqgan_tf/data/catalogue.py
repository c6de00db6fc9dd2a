"""Data sets of TensorFlow Datasets (TFDS): finds them on this machine without the network, and prepares them."""

import difflib
import os
import pathlib
import re

import tensorflow_datasets as tfds

from dqgan_tf.data.spec import DatasetError

# NAME[/CONFIG][:VERSION]. TFDS would look up any other form, such as `huggingface:mnist`, on the network.
_NAME = re.compile(r"([a-zA-Z]\w*)(/[\w+.-]+)?(:(\d+|\*)(\.(\d+|\*)){2})?")
_IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
SOURCE_FILES = {"fashion_mnist": _IDX_FILES, "mnist": _IDX_FILES}


def is_known(name: str, data_dir: str | None) -> bool:
    """Returns whether TFDS has code for a set of this name, or `data_dir` holds one."""
    match = _NAME.fullmatch(name)
    if match is None:
        return False
    return match[1] in tfds.list_builders(with_community_datasets=False) or bool(_on_disk(match[1], data_dir))


def builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Returns the builder of a data set, prepared or not.

    Args:
      name: `NAME`, `NAME/CONFIG`, `NAME:VERSION` or `NAME/CONFIG:VERSION` of a set that TFDS has code for, or that is
        prepared in `data_dir`.
      data_dir: folder of prepared data sets. None takes the default of TFDS.

    Raises:
      DatasetError: the name, configuration or version is unknown (the message lists what there is), or TFDS cannot open
        the files.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise _unknown(name)
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        on_disk = _on_disk(match[1], data_dir)
        raise (DatasetError(f"There is no data set {name!r}. {on_disk}") if on_disk else _unknown(name)) from error
    except Exception as error:  # Damaged metadata make TFDS raise errors of many types.
        text = " ".join(str(error).split()) or type(error).__name__
        # Drop the preamble and the unformatted list of configurations from the message of TFDS.
        reason = re.sub(r'^Failed to construct dataset .*?}": | Here are \d+ BuilderConfigs.*|\.$', "", text)
        known = match[1] in tfds.list_builders(with_community_datasets=False)
        names = list(tfds.builder_cls(match[1]).builder_configs) if known else []
        parts = [f"TensorFlow Datasets cannot open {name!r}: {reason}."]
        if names:
            parts.append(f"Its configurations are {', '.join(names)}.")
        if on_disk := _on_disk(match[1], data_dir):
            parts += [on_disk, "If a dataset_info.json or features.json there is damaged, prepare the set again."]
        raise DatasetError(" ".join(parts)) from error


def prepared_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Returns the builder of a prepared data set.

    Raises:
      DatasetError: see `builder`; or the data set is not prepared. The message contains the command that prepares it.
    """
    set_builder = builder(name, data_dir)
    if not set_builder.is_prepared():
        option = f" --data_dir={data_dir}" if data_dir else ""
        raise DatasetError(
            f"{name!r} is not prepared: there is nothing in {set_builder.data_dir}. "
            f"Run `python -m trainers.prepare --dataset={name}{option}` once, with --source_dir=FOLDER if you have the "
            "original files; or set `data_dir` to a folder where it is prepared. "
            f"{_on_disk(set_builder.name, data_dir)}"
            + (f" The folder {name!r} is --dataset=./{name}." if os.path.isdir(name) else "")
        )
    return set_builder


def prepare(name: str, data_dir: str | None, source_dir: str | None = None) -> str:
    """Prepares a data set under `data_dir` and returns its folder. Returns at once if it is prepared already.

    Args:
      name: see `builder`.
      data_dir: folder of prepared data sets. None takes the default of TFDS.
      source_dir: folder of the original files, under their published names. Files that are there are not downloaded.
        None downloads everything.

    Raises:
      DatasetError: see `builder`; or `source_dir` or a file in it is missing.
    """
    set_builder = builder(name, data_dir)
    if set_builder.is_prepared():
        return str(set_builder.data_dir)
    if source_dir is not None:
        if not os.path.isdir(source_dir):
            raise DatasetError(f"`source_dir` must be a folder. Received: source_dir={source_dir!r}")
        expected = SOURCE_FILES.get(set_builder.name, ())
        missing = [file for file in expected if not os.path.exists(os.path.join(source_dir, file))]
        if missing:
            raise DatasetError(f"{source_dir} holds no {', '.join(missing)}, which {name!r} is prepared from.")
        source_dir = os.path.abspath(source_dir)
    set_builder.download_and_prepare(
        # One folder per data set: TFDS 4.9 finds files by their published names, which mnist and fashion_mnist share.
        download_dir=os.path.join(set_builder.data_dir_root, "downloads", set_builder.name),
        download_config=tfds.download.DownloadConfig(manual_dir=source_dir, try_download_gcs=False),
    )
    return str(set_builder.data_dir)


def _unknown(name):
    known = tfds.list_builders(with_community_datasets=False)
    near = difflib.get_close_matches(re.split("[:/]", name)[0].lower(), known, n=5, cutoff=0.5)
    hint = f"Near it: {', '.join(near)}" if near else "`tfds.list_builders()` lists the names"
    return DatasetError(
        f"TensorFlow Datasets has no data set {name!r}. {hint}; mixtures: gaussian_ring, gaussian_grid. A name is "
        "written NAME, NAME/CONFIG, NAME:VERSION or NAME/CONFIG:VERSION, such as cifar10:3.0.2. Images of your own are "
        "a folder such as ./pictures, a file such as pictures.npz, or a function such as my_module:my_dataset."
    )


def _on_disk(base_name, data_dir):
    """Returns a sentence that lists the configurations and versions on disk, or "" if there are none."""
    root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    files = [*root.glob(f"{base_name}/[0-9]*/*.json"), *root.glob(f"{base_name}/*/[0-9]*/*.json")]
    names = {f"{file.parent.parent.relative_to(root)}:{file.parent.name}" for file in files}
    return f"{root} holds {', '.join(sorted(names))}." if names else ""
