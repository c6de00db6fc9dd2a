"""What PyTorch's hooks make of one worker's gradient, for test_torch_baselines: JSON on stdout.

A process of its own: PyTorch beside TensorFlow in one process has crashed (PyTorch 2.13.0, TensorFlow 2.21.0).
"""

import json

import torch
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

from benchmarks import torch_baselines

DCGAN_64 = 6_342_272


def main():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    gradient = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    means = {
        name: torch_baselines.build(name, gradient.clone())().tolist()
        for name in ("torch_float32", "torch_float16", "torch_uint8")
    }
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
    bucket = torch_baselines.GradBucket(torch.randn(DCGAN_64))
    for _ in range(3):
        powerSGD_hook.powerSGD_hook(state, bucket).wait()
    print(json.dumps({"gradient": gradient.tolist(), "reduced": state.total_numel_after_compression, **means}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
