"""All flags of a training run and the configuration that they make."""

import sys

from absl import flags

from dqgan_tf.config import (
    CompressionConfig,
    DataConfig,
    LossConfig,
    NetworkConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
)
from dqgan_tf.training.command_line import parse  # noqa: F401  the binaries take it from here
from flags import compression, data, loss, network, optimizer, train  # noqa: F401  each defines its flags
from flags.define import collect

flags.DEFINE_string(
    "model_dir",
    None,
    "Folder of the run: configuration, metrics, checkpoints, pictures, TensorBoard. Shared by all workers. The same "
    "command over an unfinished one resumes it.",
    required=True,
)

for _module in (data, network, loss, optimizer, compression, train, sys.modules[__name__]):
    for _flag in flags.FLAGS.get_flags_for_module(_module.__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], _flag)  # --helpshort of the binary shows them


def run_config() -> RunConfig:
    """Returns the configuration that the parsed flags describe."""
    return RunConfig(
        model_dir=flags.FLAGS.model_dir,
        data=collect(DataConfig),
        network=collect(NetworkConfig),
        loss=collect(LossConfig),
        optimizer=collect(OptimizerConfig),
        compression=collect(CompressionConfig),
        train=collect(TrainConfig),
    )
