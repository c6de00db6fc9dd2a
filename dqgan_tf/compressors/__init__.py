"""Compressors: flat float32 vector <-> payload of 32-bit tensors. Pure functions of (vector, seed).

`get("linear:bits=4,bucket=512")` returns one by its spec, `available()` lists them. The classes, such as
`compressors.Linear`, are imported when first used; nothing here imports TensorFlow before a tensor is needed.

Less used compressors are in `contrib/`, one file each; they pass the same contract tests.
"""

import pkgutil
from typing import Any

from dqgan_tf.compressors.base import Compression, Compressor
from dqgan_tf.compressors.registry import COMPRESSORS, available, get

_PATH_OF = {path.partition(":")[2]: path for path in COMPRESSORS.values()}

__all__ = ["Compression", "Compressor", "available", "get", *_PATH_OF]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _PATH_OF:
        return pkgutil.resolve_name(_PATH_OF[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
