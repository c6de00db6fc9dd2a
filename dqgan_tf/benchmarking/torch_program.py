"""A worker that exchanges one float32 vector through PyTorch's communication hooks on gloo; see `serving`."""

import json
import os
import sys

from dqgan_tf.benchmarking import serving, torch_baselines


def main(text: str) -> None:
    """Serves the baselines `names` over `values` values, normal with standard deviation 1e-3."""
    import torch
    import torch.distributed as dist

    arguments = json.loads(text)
    torch.set_num_threads(1)
    torch.manual_seed(arguments["index"])
    os.environ["GLOO_SOCKET_IFNAME"] = arguments["interface"]
    addresses = arguments["addresses"]
    dist.init_process_group(
        "gloo", init_method=f"tcp://{addresses[0]}", rank=arguments["index"], world_size=len(addresses)
    )
    serving.serve([_measured(name, arguments["values"], len(addresses)) for name in arguments["names"]], arguments)


def _measured(name, values, num_workers):
    import torch

    def describe():
        return {
            "declared_bytes": torch_baselines.sent_bytes(name, values, num_workers),
            "library": f"torch {torch.__version__}",
        }

    return serving.Measured(torch_baselines.build(name, 1e-3 * torch.randn(values)), dict, describe)


if __name__ == "__main__":
    main(sys.argv[1])
