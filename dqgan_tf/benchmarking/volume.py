"""Bytes that one worker sends per exchange, as declared, for any number of workers."""

from collections.abc import Sequence

import numpy as np

from dqgan_tf import compressors
from dqgan_tf.benchmarking import torch_baselines
from dqgan_tf.distribute import topologies
from dqgan_tf.distribute.segment import Segment

DENSE = ("float32", "float16")
WORKERS = (2, 4, 8, 16, 32, 64)
TOPOLOGIES = ("two_step", "all_gather")


def sent_bytes(name: str, values: int, num_workers: int) -> int:
    """Returns the declared bytes of a variant over `values` float32 values; see `variants.build`, `torch_baselines`.

    Dense: 2(M-1)/M times the bytes of the vector, a ring all-reduce.

    Raises:
      ValueError: unknown variant.
    """
    if name in DENSE:
        return 2 * (num_workers - 1) * np.dtype(name).itemsize * values // num_workers
    if name.startswith(torch_baselines.PREFIX):
        return torch_baselines.sent_bytes(name, values, num_workers)
    spec, _, topology = name.partition("@")
    segments = [Segment("vector", values, compressors.get(spec))]
    built = topologies.build(topology or "auto", segments, num_workers, error_feedback=False, block=None)
    return built.sent_bytes


def curves(names: Sequence[str], values: int, workers: Sequence[int] = WORKERS) -> dict[str, list[int]]:
    """Returns the bytes for each number of workers, by variant; a compressor without a topology stands under every one
    of `TOPOLOGIES`."""
    full = []
    for name in names:
        dense = name in DENSE or name.startswith(torch_baselines.PREFIX) or "@" in name
        full += [name] if dense else [f"{name}@{topology}" for topology in TOPOLOGIES]
    return {name: [sent_bytes(name, values, count) for count in workers] for name in dict.fromkeys(full)}
