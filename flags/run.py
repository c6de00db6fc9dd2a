"""All flags of a training run and the configuration that they make."""

import sys
from collections.abc import Sequence

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
from dqgan_tf.training.errors import EXIT_USAGE
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


def parse(arguments: Sequence[str]) -> list[str]:
    """Parses the command line for `app.run(main, flags_parser=parse)`; returns what is no flag, the binary first.

    A flag that is unknown or has a bad value ends the process with one line on stderr and `EXIT_USAGE`, as every error
    of the user does: absl's own parser would leave with 1, which a launcher takes for a crash that is worth another
    start.
    """
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        print("ERROR: " + " ".join(str(error).split()) + " See --helpshort.", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_USAGE) from None


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
