"""What all workers must have in common, compared before the first step."""

import hashlib
import json
import pathlib
import sys

import keras
import tensorflow as tf

import dqgan_tf
from dqgan_tf.config import RunConfig
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.training.errors import UsageError


def check(board: MessageBoard, config: RunConfig) -> None:
    """Compares configuration, code and versions of all workers.

    Raises:
      UsageError: on every worker, naming the first difference and each side's value.
    """
    texts = board.exchange("configuration", json.dumps(identity(config), sort_keys=True))
    differences = find_differences([json.loads(text) for text in texts])
    if differences:
        raise UsageError(
            "The workers disagree: " + "; ".join(differences[:3]) + ". Start all with the same flags and code."
        )


def identity(config: RunConfig) -> dict:
    """Returns what must be equal on all workers: shared configuration, hash of the library's code, versions."""
    return config.shared() | {
        "code": code_hash(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": ".".join(map(str, sys.version_info[:2])),
    }


def find_differences(identities: list[dict]) -> list[str]:
    """Returns a sentence for each key in which a worker differs from worker 0."""
    differences = []
    for key in sorted(set().union(*identities)):
        values = [identity_.get(key) for identity_ in identities]
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            name = "--" + key.split(".")[-1] if "." in key else key
            differences.append(f"{name} is {values[0]!r} on worker 0 and {values[other]!r} on worker {other}")
    return differences


def code_hash() -> str:
    """Returns the sha256 (hex, first 16 digits) of the library's Python files."""
    root = pathlib.Path(dqgan_tf.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
