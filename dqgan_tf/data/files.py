"""Image sets of one's own: a folder of image files, an array in an .npz or .npy file, a function that makes a data set.

| `dataset` | images | labels |
|---|---|---|
| `./pictures`, `/data/pictures`, `~/pictures` | PNG, JPEG, BMP, GIF, WebP files | place of the class folder |
| `x.npy`, `x.npz`, `x.npz:IMAGES`, `x.npz:IMAGES,LABELS` | array [n, h, w] or [n, h, w, c] | array [n] |
| `module:function`, which returns a tf.data.Dataset | its elements | (image, label), {"image", "label"} |

Every image becomes bytes. Floats in [0, 1] become round(255 x), floats in [-1, 1] round(127.5 (x + 1)); the range is
[-1, 1] iff a value of the set is negative. If the lowest value is in (-0.1, 0), the set is refused. The order is the
same in every process: files and class folders by their names (class folders by their numbers if all names are whole
numbers), arrays as they are stored, and the images of a function by their bytes, so that a function may shuffle.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import os
import pathlib
import re
import sys
import traceback
import zipfile
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import PIL.Image
import tensorflow as tf
import tensorflow_datasets as tfds

from dqgan_tf.data.spec import DatasetError

MEMORY_LIMIT_BYTES = 6 * 10**9
_UNDERSHOOT = -0.1  # bicubic and Lanczos filters give values down to about here from values in [0, 1]

# MODULE:FUNCTION. NAME:VERSION of TensorFlow Datasets has digits behind the colon.
_FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")
_ARRAYS = re.compile(r"(.+\.np[zy])(?::([^:/]+))?", re.DOTALL | re.IGNORECASE)
_PATH = re.compile(r"~|\.{0,2}/|\.{1,2}$|.*/$")
_SPLITS = re.compile("train|test|val|dev|eval|extra|unlabel", re.IGNORECASE)  # how names of splits begin
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of Pillow, by number of channels
_READ_ERRORS = (OSError, EOFError, ValueError, TypeError, KeyError, SyntaxError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class Source:
    """An image set of one's own, opened but not read.

    name: value of `DataConfig.dataset`.
    shape: (height, width, channels); a height or width that differs between images is None.
    num_examples: number of images.
    reader: function () -> (function: indices -> list of uint8 images [h, w, c]).
    has_labels: whether its images have labels.
    labels: function () -> int64 [num_examples], or None if there are no labels.
    class_names: names of the class folders, in the order of their numbers.
    other_arrays: shapes and types of the arrays beside the images, of a file in which none is that of the labels.
    """

    name: str
    shape: tuple[int | None, int | None, int]
    num_examples: int
    reader: Callable[[], Callable[[np.ndarray], list[np.ndarray]]]
    has_labels: bool
    labels: Callable[[], np.ndarray | None]
    class_names: tuple[str, ...] = ()
    other_arrays: str = ""


def find(dataset: str, split: str, is_known: Callable[[str], bool]) -> tuple[Source, np.ndarray] | None:
    """Returns the source that `dataset` names and the indices of the images of `split`; None for any other name.

    Args:
      dataset: see the table of this file. A folder whose name is also that of a set of TensorFlow Datasets is written
        `./NAME`.
      split: `train` for all images, or a slice such as `train[:90%]`. In a folder that has a subfolder of the split's
        name, that subfolder.
      is_known: whether TensorFlow Datasets has a set of this name.

    Raises:
      DatasetError: the source cannot be read, or the split does not exist.
    """
    if "://" in dataset:
        raise DatasetError(
            f"`dataset` must be a path, a name or MODULE:FUNCTION, not a URL: mount that storage. Received: {dataset!r}"
        )
    base, bracket, part = split.partition("[")
    arrays, function = _ARRAYS.fullmatch(dataset), _FUNCTION.fullmatch(dataset)
    path = pathlib.Path(dataset).expanduser()
    if arrays and not path.is_dir():  # before the functions: x.npz:IMAGES has the form of one
        source = _open_arrays(dataset, pathlib.Path(arrays[1]).expanduser(), arrays[2])
    elif function:
        source = _open_function(dataset, *function.groups())
    elif _PATH.match(dataset) or (dataset and not is_known(dataset) and path.exists()):
        if base and _is_split(dataset, path, base):
            path, split = path / base, "train" + bracket + part
        source = _open_folder(dataset, path)
    else:
        return None
    if source.num_examples < 2:
        raise DatasetError(f"{dataset!r} holds {source.num_examples} image; a data set needs 2 or more.")
    return source, _select(dataset, split, source.num_examples)


def _is_split(dataset, folder, name):
    """Returns whether a folder has a subfolder of the split's name, which is not one of several class folders."""
    if "/" in name or name in (".", "..") or not (folder / name).is_dir():
        return False
    others = [path.name for path in _visible(folder)[1] if not _SPLITS.match(path.name)]
    if name == "train" and others and _visible(folder / name)[0]:  # the default split, or the class of trains
        raise DatasetError(
            f"{dataset!r} holds the folder 'train', which is a split, beside {others[0]!r}, which is none: rename the "
            f"class folder, or give the split's own folder, dataset={os.path.join(dataset, name)!r}."
        )
    return True


def _select(dataset, split, count):
    """Returns the indices of a split, in the syntax of TensorFlow Datasets."""
    splits = tfds.core.SplitDict([tfds.core.SplitInfo(name="train", shard_lengths=[count], num_bytes=0)])
    try:
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
    except (ValueError, AssertionError) as error:
        raise DatasetError(
            f"`split` of {dataset!r} must be train, which is all of it, or a slice such as train[:90%]"
            f"{'' if _ARRAYS.fullmatch(dataset) else ', or the name of a subfolder'}. Received: split={split!r}"
        ) from error
    rows = np.concatenate([np.arange(part.from_ or 0, count if part.to is None else part.to) for part in parts])
    if not len(rows):
        raise DatasetError(f"Split {split!r} of {dataset!r} is empty.")
    return rows


def to_bytes(name: str, images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """Returns images as uint8; see the head of this file.

    Raises:
      DatasetError: a value is not finite or outside of [-1, 1], the lowest one may be of either range, or the type is
        another one.
    """
    types = {image.dtype for image in images}
    if types == {np.dtype(np.uint8)}:
        return images
    if not all(np.issubdtype(kind, np.floating) for kind in types):
        received = ", ".join(sorted(map(str, types)))
        raise DatasetError(
            f"The images of {name!r} must be uint8, or floats in [0, 1] or [-1, 1]. Received: dtype={received}"
        )
    lows, highs = np.array([(np.min(image), np.max(image)) for image in images]).T
    is_finite = np.isfinite(lows) & np.isfinite(highs)  # a minimum is NaN where a value is
    if not np.all(is_finite):
        raise DatasetError(f"Image {np.argmin(is_finite)} of {name!r} holds a NaN or an infinity.")
    low, high = np.min(lows), np.max(highs)
    if low < -1 or high > 1:
        raise DatasetError(
            f"Floats in {name!r} must be in [0, 1] or [-1, 1]; store values of 0 to 255 as uint8. "
            f"Received: values from {low:.6g} to {high:.6g}"
        )
    if _UNDERSHOOT < low < 0:
        raise DatasetError(
            f"Floats in {name!r} may be meant as [0, 1] or as [-1, 1]: clip them to [0, 1], or store uint8. "
            f"Received: values from {low:.6g} to {high:.6g}"
        )
    scale, shift = (127.5, 127.5) if low < 0 else (255.0, 0.0)
    return [np.rint(image.astype(np.float64) * scale + shift).astype(np.uint8) for image in images]


# A folder of image files.


def _open_folder(dataset, folder):
    if not folder.is_dir():
        problem = "is neither a folder nor an .npz or .npy file" if folder.exists() else "does not exist"
        raise DatasetError(
            f"{str(folder)!r} {problem}. `dataset` takes a folder of images, an .npz or .npy file, a name of "
            "TensorFlow Datasets such as cifar10, or MODULE:FUNCTION."
        )
    try:
        files, labels, names = _list_files(dataset, folder)
    except OSError as error:
        raise DatasetError(f"{dataset!r} cannot be read: {error}") from error
    headers = [_header(file) for file in files]
    sizes = {size for size, _ in headers}
    height, width = next(iter(sizes)) if len(sizes) == 1 else (None, None)
    modes = {channels for _, channels in headers}
    channels = modes.pop() if len(modes) == 1 else 3

    def read(rows):
        return [_decode(files[row], channels) for row in rows]

    return Source(dataset, (height, width, channels), len(files), lambda: read, bool(names), lambda: labels, names)


def _list_files(dataset, folder):
    """Returns the paths of the images by class and name, their labels or None, and the names of the classes."""
    files, classes = _visible(folder)
    if files and classes:
        raise DatasetError(
            f"{dataset!r} must hold either images or class folders. Received: the file {files[0].name!r} beside the "
            f"folder {classes[0].name!r}"
        )
    if not files and not classes:
        raise DatasetError(f"The folder {dataset!r} holds no images.")
    if files:
        return files, None, ()
    if all(_SPLITS.match(path.name) for path in classes):
        received = ", ".join(repr(path.name) for path in classes)
        raise DatasetError(
            f"The folders in {str(folder)!r} have names of splits, not of classes: give one of them as the data set, "
            f"such as dataset={str(classes[0])!r}. Received: the folders {received}"
        )
    if all(path.name.isdecimal() for path in classes):  # 2 before 10
        classes.sort(key=lambda path: int(path.name))
    labels = []
    for number, class_folder in enumerate(classes):
        members, deeper = _visible(class_folder)
        if deeper or not members:
            content = f"the folder {deeper[0].name!r} in it" if deeper else "no file in it"
            raise DatasetError(f"The class folder {str(class_folder)!r} must hold images only. Received: {content}")
        files += members
        labels += [number] * len(members)
    return files, np.asarray(labels, np.int64), tuple(path.name for path in classes)


def _visible(folder):
    """Returns the files and the folders in a folder, by name, without those whose names begin with a dot."""
    paths = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)
    return [path for path in paths if not path.is_dir()], [path for path in paths if path.is_dir()]


@contextlib.contextmanager
def _naming(file):
    """Turns errors of Pillow, which are of many types, into one that names the file."""
    try:
        yield
    except (*_READ_ERRORS, PIL.Image.DecompressionBombError) as error:
        reason = "it is no PNG, JPEG, BMP, GIF or WebP image"
        if not isinstance(error, PIL.UnidentifiedImageError):
            reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"The file {str(file)!r} cannot be read: {reason}.") from error


def _header(file):
    """Returns (height, width) and the number of channels of an image, without decoding it."""
    with _naming(file), PIL.Image.open(file, formats=_FORMATS) as image:
        if image.mode in ("I", "F"):
            raise ValueError(f"it has pixels of 32 bits (mode {image.mode})")
        has_alpha = image.has_transparency_data
        is_grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I;16") or _has_grey_palette(image)
        return image.size[::-1], 4 if has_alpha else 1 if is_grey else 3


def _has_grey_palette(image):
    """Whether an image has a palette, and only grey colours in it."""
    colours = np.reshape(image.getpalette("RGB") if image.mode == "P" else [], [-1, 3])
    return len(colours) > 0 and bool(np.all(colours == colours[:, :1]))


def _decode(file, channels):
    """Returns an image, uint8 [height, width, channels]."""
    with _naming(file), PIL.Image.open(file, formats=_FORMATS) as image:
        if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 255.
            image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        pixels = np.asarray(image.convert(_MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


# An array in a file of numpy.


def _open_arrays(dataset, path, keys):
    headers = _array_headers(dataset, path)
    listed = _listed(headers)
    key, label_key = _choose_keys(dataset, headers, listed, keys)
    shape, dtype = headers[key]
    if dtype.hasobject:
        raise DatasetError(f"The images in {dataset!r} must be one array of numbers. Received: an array of objects")
    if len(shape) not in (3, 4) or 0 in shape[1:]:
        raise DatasetError(f"The images in {dataset!r} must be [n, h, w] or [n, h, w, c]. Received: shape={shape}")
    height, width, channels = (*shape[1:], 1)[:3]
    if not _channels_are_last(height, width, channels):
        raise DatasetError(
            f"The channels in {dataset!r} must come last: store images.transpose(0, 2, 3, 1). Received: shape={shape}"
        )

    def reader():
        images = to_bytes(dataset, _read_array(path, key).reshape(shape[0], height, width, channels))
        return lambda rows: [images[row] for row in rows]

    def labels():
        if label_key is None:
            return None
        array = _read_array(path, label_key)
        return _check_labels(dataset, array[:, 0] if array.shape == (shape[0], 1) else array, shape[0])

    others = "" if label_key else _listed({name: header for name, header in headers.items() if name != key})
    size, has_labels = (height, width, channels), label_key is not None
    return Source(dataset, size, shape[0], reader, has_labels, labels, other_arrays=others)


def _listed(headers):
    return ", ".join(f"{key} {shape} {dtype}" for key, (shape, dtype) in headers.items())


def _channels_are_last(height, width, channels):
    """Returns whether [height, width, channels] is an image: more than 4 channels need a square or larger sides."""
    return channels <= 4 or height == width or channels < min(height, width)


def _array_headers(dataset, path):
    """Returns shape and dtype of every array in the file, by key, without reading the arrays; "" for an .npy file."""
    if not path.is_file():
        raise DatasetError(f"There is no file {str(path)!r}. Received: dataset={dataset!r}")
    with _naming(path):
        if path.suffix.lower() == ".npy":
            with open(path, "rb") as file:
                return {"": _array_header(file)}
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            headers = {}
            for name in names:
                with archive.open(name) as member:
                    headers[name.removesuffix(".npy")] = _array_header(member)
            return headers


def _array_header(file):
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def _choose_keys(dataset, headers, listed, keys):
    """Returns the keys of the images and of the labels; the latter is None if there are none."""
    if keys is not None:
        chosen = keys.split(",")
        missing = [key for key in chosen if key not in headers]
        if missing or len(chosen) > 2 or "" in headers:
            raise DatasetError(
                f"`dataset` must be FILE.npy, FILE.npz, FILE.npz:IMAGES or FILE.npz:IMAGES,LABELS. The file holds "
                f"{listed}. Received: dataset={dataset!r}"
            )
        if len(chosen) == 2:
            return chosen[0], chosen[1]
        key = chosen[0]
    else:
        names = [key for key, (shape, _) in headers.items() if len(shape) in (3, 4)] or list(headers)
        if len(names) != 1:
            example = f", such as {dataset}:{names[0]}" if names else ""
            raise DatasetError(
                f"{dataset!r} must hold one array of images, or `dataset` must name one{example}. It holds: "
                f"{listed or 'nothing'}"
            )
        [key] = names
    count = headers[key][0][:1]
    labels = [k for k, (s, t) in headers.items() if s in (count, (*count, 1)) and np.issubdtype(t, np.integer)]
    labels = [label for label in labels if label != key]
    return key, labels[0] if len(labels) == 1 else None


def _read_array(path, key):
    with _naming(path):
        if not key:
            return np.load(path)
        with np.load(path) as archive:
            return archive[key]


def _check_labels(dataset, labels, count):
    is_whole = labels.shape == (count,) and np.issubdtype(labels.dtype, np.integer)
    if not is_whole or np.any(labels < 0):
        raise DatasetError(
            f"The labels of {dataset!r} must be whole numbers from 0, one for each of {count} images. Received: "
            + (f"label {labels.min()}" if is_whole else f"shape={labels.shape}, dtype={labels.dtype}")
        )
    return labels.astype(np.int64)


# A function that returns a tf.data.Dataset.


def _open_function(dataset, module, function):
    images, labels = _call(dataset, module, function)
    channels = {image.shape[2] for image in images}
    if len(channels) > 1:
        raise DatasetError(f"The images of {dataset!r} must have one number of channels. Received: {sorted(channels)}")
    sizes = {image.shape[:2] for image in images}
    height, width = sizes.pop() if len(sizes) == 1 else (None, None)

    def read(rows):
        return [images[row] for row in rows]

    shape = (height, width, min(channels, default=1))
    return Source(dataset, shape, len(images), lambda: read, labels is not None, lambda: labels)


def _call(dataset, module, function):
    """Returns the images of a function's data set in the order of their bytes, uint8 [h, w, c], and their labels."""
    made = _import(dataset, module, function)
    try:
        examples = made()
        if not isinstance(examples, tf.data.Dataset):
            raise DatasetError(f"{dataset!r} must return a tf.data.Dataset. Received: {type(examples).__name__}")
        if examples.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise DatasetError(f"{dataset!r} must return a data set that ends: leave out its repeat().")
        images, labels = _read_examples(dataset, examples)
    except DatasetError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise DatasetError(f"{dataset!r} failed{_where(error)}: {type(error).__name__}: {error}") from error
    images = to_bytes(dataset, images) if images else []
    labels = _check_labels(dataset, np.asarray(labels), len(images)) if labels else None
    keys = [hashlib.sha256(image).digest() for image in images]
    order = sorted(range(len(images)), key=lambda i: (keys[i], images[i].shape, 0 if labels is None else labels[i]))
    return [images[i] for i in order], None if labels is None else labels[order]


def _import(dataset, module, function):
    """Returns the function. The working folder is searched last: a console script does not have it in `sys.path`."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        value = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise DatasetError(f"{dataset!r} cannot be imported: {error}") from error
        raise DatasetError(
            f"There is no data set {dataset!r}: Python finds no module {error.name!r} from {os.getcwd()}."
        ) from error
    except Exception as error:
        raise DatasetError(f"{dataset!r} failed{_where(error)}: {type(error).__name__}: {error}") from error
    if not callable(value):
        raise DatasetError(f"There is no data set {dataset!r}: the module {module!r} has no function {function!r}.")
    return value


def _where(error):
    """Returns the place in which an exception was raised: its innermost frame outside of this file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    return f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


def _read_examples(dataset, examples):
    """Returns the images, [h, w, c] of any dtype, and their labels, a list that is empty if there are none."""
    image, label = _parts(dataset, examples.element_spec)
    spec = image.shape
    if spec.rank == 4:
        examples = examples.unbatch()
    elif spec.rank is not None and (spec.rank not in (2, 3) or _is_batch(spec.as_list())):
        raise DatasetError(
            f"The images of {dataset!r} must be [h, w], [h, w, c], or batches [n, h, w, c]: leave out its batch(), or "
            f"give grey images an axis of 1 channel. Received: shape={spec}"
        )
    images, labels, size = [], [], 0
    for example in examples.as_numpy_iterator():
        image, label = _parts(dataset, example)
        if image.ndim not in (2, 3):  # decode_image does not say its rank beforehand
            raise DatasetError(
                f"The images of {dataset!r} must be [h, w] or [h, w, c]; batches say their shape, by "
                f"ensure_shape([None, None, None, 3]). Received: shape={image.shape}"
            )
        image = image if image.ndim == 3 else image[..., np.newaxis]
        if not _channels_are_last(*image.shape):
            raise DatasetError(
                f"The channels of {dataset!r} must come last, [h, w, c], and batches of grey images need an axis of 1 "
                f"channel, [n, h, w, 1]. Received: shape={spec}, of which {image.shape} would be an image"
            )
        label = label[0] if np.shape(label) == (1,) else label
        if np.shape(label):
            raise DatasetError(
                f"The labels of {dataset!r} must be whole numbers from 0, one for each image. Received: a label of "
                f"shape {np.shape(label)}"
            )
        images.append(image)
        labels += [] if label is None else [label]
        size += image.nbytes
        if size > MEMORY_LIMIT_BYTES:
            raise DatasetError(
                f"{dataset!r} exceeds the limit of {MEMORY_LIMIT_BYTES / 1e9:.1f} GB after {len(images)} images. Give "
                "it fewer or smaller ones, as uint8."
            )
    return images, labels


def _is_batch(shape):
    """Returns whether the shape [h, w] or [h, w, c] of a specification is that of batches without an axis of channels.

    Their first axis has an unknown size before a known one, or all three axes have one size.
    """
    height, width, channels = (*shape, None)[:3]
    if channels is not None and channels <= 4:
        return False
    return width is not None and (height is None or height == width == channels)


def _parts(dataset, example):
    """Returns image and label, or None, of an element of a data set or of its specification."""
    if isinstance(example, dict):
        parts = example.get("image"), example.get("label")
    elif isinstance(example, tuple):
        parts = (*example, None)[:2]
    else:
        parts = example, None
    if isinstance(parts[0], tuple | dict | None):
        raise DatasetError(
            f"The elements of {dataset!r} must be an image, (image, label) or {{'image': ..., 'label': ...}}. "
            f"Received: {example}"
        )
    return parts
