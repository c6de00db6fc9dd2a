"""Bytes that one worker sends per exchange, as declared, for any number of workers."""

from collections.abc import Sequence

import numpy as np

from dqgan_tf import compressors
from dqgan_tf.benchmarking import torch_baselines
from dqgan_tf.compressors import blocks, registry
from dqgan_tf.config import check_bucket_mb
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
    segment, topology, bucket_mb = channel_of(name, values)
    encoder = topologies.Encoder(error_feedback=False, block=blocks.CPU_BLOCK)
    built = topologies.build(topology, [segment], num_workers, encoder, bucket_mb * 2**20)
    return sum(reduction.sent_bytes for reduction in built)


def channel_of(name: str, values: int) -> tuple[Segment, str, float]:
    """Returns (segment, topology, bucket_mb) of `<spec>`, `<spec>@<topology>` or `<spec>@<topology>@<bucket_mb>`.

    Compressors of matrices see matrices of 2048 x 512 values, as a DCGAN's widest layers, and what is left as rows of
    128.

    Raises:
      ValueError: unknown spec, a bucket size that is no number of MiB, or something after it.
    """
    spec, topology, bucket, *more = [*name.split("@"), *("auto", "0")[name.count("@") :]]
    if more:
        raise ValueError(f"Nothing may follow the bucket_mb. Received: {'@'.join(['', *more])}")
    bucket_mb = registry.read_number("bucket_mb", bucket, float)
    check_bucket_mb(bucket_mb)
    whole, left = divmod(values, 2048 * 512)
    shapes = [(2048, 512)] * whole + [(left // 128, 128)] * (left >= 128) + [(left % 128,)] * (left % 128 > 0)
    return Segment("vector", values, compressors.get(spec), tuple(shapes)), topology, bucket_mb


def curves(names: Sequence[str], values: int, workers: Sequence[int] = WORKERS) -> dict[str, list[int]]:
    """Returns the bytes for each number of workers, by variant; a compressor without a topology stands under every one
    of `TOPOLOGIES`."""
    full = []
    for name in names:
        dense = name in DENSE or name.startswith(torch_baselines.PREFIX) or "@" in name
        full += [name] if dense else [f"{name}@{topology}" for topology in TOPOLOGIES]
    return {name: [sent_bytes(name, values, count) for count in workers] for name in dict.fromkeys(full)}
