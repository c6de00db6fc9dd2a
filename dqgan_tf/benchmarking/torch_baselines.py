"""What PyTorch's DistributedDataParallel does with the same vector: its own communication hooks, on gloo.

| name | hook of torch.distributed.algorithms.ddp_comm_hooks (PyTorch 2.13.0) |
|---|---|
| torch_float32 | default_hooks.allreduce_hook |
| torch_float16 | default_hooks.fp16_compress_hook |
| torch_uint8 | quantization_hooks.quantization_pertensor_hook, mended: as it stands it fails on gloo |
| torch_powersgd | powerSGD_hook.powerSGD_hook, rank 1, warm start, error feedback |

PyTorch is no dependency: it is imported where a baseline is built, and the baselines are left out where it is missing.
"""

import importlib.util
import math
from collections.abc import Callable
from typing import Any

PREFIX = "torch_"
DENSE = ("torch_float32", "torch_float16")
NAMES = (*DENSE, "torch_uint8", "torch_powersgd")
_MIN_COMPRESSION_RATE = 2  # PowerSGDState's default


def available() -> tuple[str, ...]:
    """Returns the names of the baselines that can run here: all or none."""
    return NAMES if importlib.util.find_spec("torch") else ()


def check(name: str) -> None:
    """Refuses a baseline that cannot run.

    Raises:
      ValueError: it is unknown, or torch is not installed.
    """
    if name not in NAMES:
        raise ValueError(f"The baselines of PyTorch are {', '.join(NAMES)}. Received: {name!r}")
    if not available():
        raise ValueError(f"The variant {name!r} needs PyTorch: pip install torch==2.13.0")


def shapes(values: int) -> list[tuple[int, ...]]:
    """Returns the shapes of the gradients that make up a bucket of `values` values.

    Those of the customary DCGAN-64 (6,342,272 values, batch normalisation in both players) if they fit; else one square
    matrix and a vector for the rest.
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
      ValueError: unknown baseline.
    """
    if name == "torch_uint8":
        return (num_workers - 1) * (values + 8)  # and a float32 scale and zero point
    reduced = {
        "torch_float32": 4 * values,
        "torch_float16": 2 * values,
        "torch_powersgd": 4 * sum(_rank_1_numbers(shape) for shape in shapes(values)),
    }
    if name not in reduced:
        raise ValueError(f"The baselines of PyTorch are {', '.join(NAMES)}. Received: {name!r}")
    return 2 * (num_workers - 1) * reduced[name] // num_workers


def build(name: str, gradient) -> Callable[[], Any]:
    """Returns a function that exchanges `gradient`, a float32 torch tensor [n], once and returns the mean.

    torch.distributed must be initialised. The hooks but torch_uint8 leave the mean in `gradient` too.
    """
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    if name == "torch_uint8":
        return lambda: _mean_of_uint8(gradient)
    bucket = _Bucket(gradient)
    if name == "torch_powersgd":
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
        return lambda: powerSGD_hook.powerSGD_hook(state, bucket).wait()
    hook = default_hooks.allreduce_hook if name == "torch_float32" else default_hooks.fp16_compress_hook
    return lambda: hook(None, bucket).wait()


def _mean_of_uint8(gradient):
    """quantization_pertensor_hook line by line; it takes the first gathered tensor for the list of all of them."""
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


class _Bucket:
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


def _rank_1_numbers(shape):
    rows, columns = shape[0], math.prod(shape[1:])
    low_rank, full = rows + columns, rows * columns
    return low_rank if low_rank * _MIN_COMPRESSION_RATE < full else full


# Layer by layer, as PyTorch lays them out: generator, then discriminator; 4x4 kernels.
_DCGAN_64 = (
    *((100, 512, 4, 4), (512,), (512,), (512, 256, 4, 4), (256,), (256,), (256, 128, 4, 4), (128,), (128,)),
    *((128, 64, 4, 4), (64,), (64,), (64, 3, 4, 4)),
    *((64, 3, 4, 4), (128, 64, 4, 4), (128,), (128,), (256, 128, 4, 4), (256,), (256,)),
    *((512, 256, 4, 4), (512,), (512,), (1, 512, 4, 4)),
)
