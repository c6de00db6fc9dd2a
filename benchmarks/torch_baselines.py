"""PyTorch's own communication hooks (DistributedDataParallel, gloo) on the same vector, and the worker that runs them.

| name | hook of torch.distributed.algorithms.ddp_comm_hooks (PyTorch 2.13.0) |
|---|---|
| torch_float32 | default_hooks.allreduce_hook |
| torch_float16 | default_hooks.fp16_compress_hook |
| torch_uint8 | quantization_hooks.quantization_pertensor_hook, corrected: it fails on gloo as published |
| torch_powersgd | powerSGD_hook.powerSGD_hook, rank 1, warm start, error feedback |

PyTorch is no dependency: it is imported where a baseline is built. The benchmark leaves the baselines out where PyTorch
is not installed. The worker is `python -P benchmarks/torch_baselines.py JSON`, see `worker`; it never imports
TensorFlow, since both in one process have crashed.
"""

import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import worker
from dqgan_tf.errors import UsageError

PREFIX = "torch_"
DENSE = ("torch_float32", "torch_float16")
NAMES = (*DENSE, "torch_uint8", "torch_powersgd")
_MIN_COMPRESSION_RATE = 2  # PowerSGDState's default
# Layer by layer, as PyTorch lays them out: generator, then discriminator; 4x4 kernels.
_DCGAN_64 = (
    *((100, 512, 4, 4), (512,), (512,), (512, 256, 4, 4), (256,), (256,), (256, 128, 4, 4), (128,), (128,)),
    *((128, 64, 4, 4), (64,), (64,), (64, 3, 4, 4)),
    *((64, 3, 4, 4), (128, 64, 4, 4), (128,), (128,), (256, 128, 4, 4), (256,), (256,)),
    *((512, 256, 4, 4), (512,), (512,), (1, 512, 4, 4)),
)


def available() -> tuple[str, ...]:
    """Returns the names of the baselines that can run here: all or none."""
    return NAMES if importlib.util.find_spec("torch") else ()


def check_installed(name: str) -> None:
    """Refuses a baseline if PyTorch is not installed.

    Raises:
      UsageError: torch cannot be imported.
    """
    if not available():
        raise UsageError(f"The variant {name!r} needs PyTorch: pip install torch==2.13.0")


def shapes(values: int) -> list[tuple[int, ...]]:
    """Returns the shapes of the gradients that make up a DDP bucket of `values` values.

    The shapes are those of the usual DCGAN-64 (6,342,272 values, batch normalisation in both players) if they fit; else
    one square matrix and a vector for the rest.
    """
    if values == sum(map(math.prod, _DCGAN_64)):
        return list(_DCGAN_64)
    side = math.isqrt(values)
    rest = values - side * side
    return [(side, side), *([(rest,)] if rest else [])]


def sent_bytes(name: str, values: int, num_workers: int) -> int:
    """Returns the bytes that one worker sends per exchange: 2(M-1)/M times what is all-reduced in a ring, (M-1) times
    what is all-gathered.

    Raises:
      UsageError: unknown baseline.
    """
    if name == "torch_uint8":
        return (num_workers - 1) * (values + 8)  # one byte a value; a float32 scale and zero point
    reduced = {
        "torch_float32": 4 * values,
        "torch_float16": 2 * values,
        "torch_powersgd": 4 * sum(_rank_1_numbers(shape) for shape in shapes(values)),
    }
    if name not in reduced:
        raise UsageError(f"The baselines of PyTorch are {', '.join(NAMES)}. Received: {name!r}")
    return 2 * (num_workers - 1) * reduced[name] // num_workers


def build(name: str, gradient) -> Callable[[], Any]:
    """Returns a function that exchanges `gradient`, a float32 torch tensor [n], once and returns the mean.

    torch.distributed must be initialised. All hooks but torch_uint8 write the mean into `gradient` too.
    """
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    if name == "torch_uint8":
        return lambda: _mean_of_uint8(gradient)
    bucket = GradBucket(gradient)
    if name == "torch_powersgd":
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
        return lambda: powerSGD_hook.powerSGD_hook(state, bucket).wait()
    hook = default_hooks.allreduce_hook if name == "torch_float32" else default_hooks.fp16_compress_hook
    return lambda: hook(None, bucket).wait()


class GradBucket:
    """The part of torch.distributed.GradBucket that the hooks use; only DDP's reducer can make a real one."""

    def __init__(self, gradient):
        self._gradient = gradient

    def buffer(self):
        return self._gradient

    def index(self):
        return 0

    def is_last(self):
        return True

    def gradients(self):
        all_shapes = shapes(self._gradient.numel())
        pieces = self._gradient.split([math.prod(shape) for shape in all_shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, all_shapes, strict=True)]


def _mean_of_uint8(gradient):
    """quantization_pertensor_hook line by line; the original takes the first gathered tensor for the list of all."""
    import torch
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks import quantization_hooks as hooks

    observer = torch.ao.quantization.MinMaxObserver()
    observer(gradient)
    scale_and_zero = torch.FloatTensor(observer.calculate_qparams())
    all_scales = hooks._get_allgather_out_list(scale_and_zero, dist.get_world_size())
    dist.all_gather(all_scales, scale_and_zero)
    quantized = hooks._quantize_per_tensor_backend(gradient, *all_scales[dist.get_rank()])
    gathered = hooks._get_allgather_out_list(quantized, dist.get_world_size())
    dist.all_gather(gathered, quantized)
    total = torch.zeros_like(gradient)
    for codes, (scale, zero) in zip(gathered, all_scales, strict=True):
        total += hooks._dequantize_per_tensor_backend(codes, scale, zero)
    return total / dist.get_world_size()


def _rank_1_numbers(shape):
    rows, columns = shape[0], math.prod(shape[1:])
    low_rank, full = rows + columns, rows * columns
    return low_rank if low_rank * _MIN_COMPRESSION_RATE < full else full


def exchange(arguments: Mapping[str, Any]) -> list[worker.Measured]:
    """Returns the baselines over one float32 vector, normal with standard deviation 1e-3, seeded by the index."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(arguments["threads"])
    torch.manual_seed(arguments["index"])
    os.environ["GLOO_SOCKET_IFNAME"] = arguments["interface"]
    addresses, values = arguments["addresses"], arguments["values"]
    first, rank = f"tcp://{addresses[0]}", arguments["index"]
    dist.init_process_group("gloo", init_method=first, rank=rank, world_size=len(addresses))

    def measured(name):
        declared = {"declared_bytes": sent_bytes(name, values, len(addresses))}
        return worker.Measured(build(name, 1e-3 * torch.randn(values)), dict, lambda: declared)

    return [measured(variant["name"]) for variant in arguments["variants"]]


if __name__ == "__main__":
    process_arguments = json.loads(sys.argv[1])
    worker.serve(exchange(process_arguments), process_arguments)
