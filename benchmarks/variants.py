"""The names of --variant: their meaning, their checks, and the bytes that one worker sends."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import torch_baselines, worker
from dqgan_tf import config
from dqgan_tf.distribute.topologies import choice
from dqgan_tf.errors import UsageError

DENSE = ("float32", "float16")
WORKERS = (2, 4, 8, 16, 32, 64)
TOPOLOGIES = ("two_step", "all_gather")

EXCHANGE = (
    *DENSE,
    "none",
    "fp16",
    *(f"linear:bits={bits},bucket=512" for bits in (8, 4, 2)),
    "ternary:bucket=512",
    "sign:bucket=512",
    "natural",
    "topk:fraction=0.01+linear:bits=8,bucket=512",
    "adaptive:bits=3,bucket=512",
    "powersgd:rank=2",
    *(f"linear:bits={bits},bucket=512@auto@4" for bits in (8, 4)),
    "sign:bucket=512@auto@4",
)
WHOLE_STEP = ("none@auto@4", "linear:bits=4,bucket=512@auto@4", "sign:bucket=512@auto@4")
CODEC = (
    *(f"linear:bits={bits}" for bits in range(2, 9)),
    *("linear:bits=4,rounding=stochastic", "sign", "ternary", "natural", "qsgd", "nuqsgd", "fp16", "bf16"),
    *("topk:fraction=0.01", "topk:fraction=0.01+linear:bits=8", "randomk:fraction=0.01", "blocktopk:fraction=0.01"),
    *(f"adaptive:bits={bits}" for bits in (3, 4, 5)),
)


def check(name: str, num_workers: int) -> None:
    """Refuses a variant that a worker cannot build.

    Raises:
      UsageError: unknown spec, topology or torch baseline, or a packet size that is no number of MiB.
    """
    try:
        sent_bytes(name, 1 << 16, num_workers)
        if name.startswith(torch_baselines.PREFIX):
            torch_baselines.check_installed(name)
    except ValueError as error:
        raise UsageError(
            f"A variant is {', '.join(DENSE)}, one of {', '.join(torch_baselines.NAMES)}, or a compressor with an "
            f"optional topology and packet_mb: linear:bits=8,bucket=512@two_step@4. Received: {name!r}. {error}"
        ) from error


def settings(name: str, values: int, *, whole_step: bool) -> dict[str, Any]:
    """Returns the settings from which `worker.exchange` and `worker.whole_step` build the variant over `values` values.

    In a whole step `float32` and `float16` are the compressors `none` and `fp16` over TensorFlow's collectives. Error
    feedback is on if the compressor is contractive.
    """
    transport = "auto"
    if name in DENSE and whole_step:
        transport = "ring"
    elif name in (*DENSE, "copy", "plain"):
        return {"name": name}
    spec, topology, packet_mb = parse({"float32": "none", "float16": "fp16"}.get(name, name))
    shapes = shapes_of(spec, values)
    return {
        "name": name,
        "spec": spec,
        "topology": topology,
        "packet_mb": packet_mb,
        "transport": transport,
        "error_feedback": worker.vector(spec, shapes).delta > 0,
        "shapes": shapes,
    }


def parse(name: str) -> tuple[str, str, float]:
    """Returns (spec, topology, packet_mb) of `<spec>`, `<spec>@<topology>` or `<spec>@<topology>@<packet_mb>`.

    The default topology is `auto`, the default packet_mb is 0: one packet.

    Raises:
      UsageError: unknown topology, or the packet_mb is not a plain decimal number, or something follows it.
    """
    spec, topology, packet_mb, *rest = [*name.split("@"), *("auto", "0")[name.count("@") :]]
    if rest or not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", packet_mb):
        text = "@".join([packet_mb, *rest])
        raise UsageError(f"`packet_mb` must be a number of MiB, such as 4 or 0.5. Received: packet_mb={text}")
    config.check_setting("compression.topology", topology)
    return spec, topology, float(packet_mb)


def shapes_of(spec: str, values: int) -> list[tuple[int, ...]]:
    """Returns the shapes of the weights that make up the vector: one flat weight, or matrices for PowerSGD.

    So the measured time contains no concatenation of weights in any checkout. The matrices have 2048 x 512 values,
    like the widest layers of a DCGAN; the remaining values are rows of 128.
    """
    if not spec.startswith("powersgd"):
        return [(values,)]
    matrices, rest = divmod(values, 2048 * 512)
    rows, tail = divmod(rest, 128)
    return [(2048, 512)] * matrices + [(rows, 128)] * (rows > 0) + [(tail,)] * (tail > 0)


def sent_bytes(name: str, values: int, num_workers: int) -> int:
    """Returns the declared bytes that one worker sends per exchange of `values` float32 values.

    Dense variants send 2(M-1)/M times the bytes of the vector, as a ring all-reduce does.

    Raises:
      ValueError: unknown variant.
    """
    if name in DENSE:
        return 2 * (num_workers - 1) * np.dtype(name).itemsize * values // num_workers
    if name.startswith(torch_baselines.PREFIX):
        return torch_baselines.sent_bytes(name, values, num_workers)
    spec, topology, _ = parse(name)
    vectors = [worker.vector(spec, shapes_of(spec, values))]
    return choice.sent_bytes(choice.choose(topology, vectors, num_workers).topology, vectors, num_workers)


def curves(names: Sequence[str], values: int, workers: Sequence[int] = WORKERS) -> dict[str, list[int]]:
    """Returns the bytes for each number of workers, by variant.

    A compressor without a topology appears under each of `TOPOLOGIES`.
    """
    complete = []
    for name in names:
        fixed = name in DENSE or name.startswith(torch_baselines.PREFIX) or "@" in name
        complete += [name] if fixed else [f"{name}@{topology}" for topology in TOPOLOGIES]
    return {name: [sent_bytes(name, values, count) for count in workers] for name in dict.fromkeys(complete)}
