"""A worker that takes whole training steps of DCGAN players on synthetic images; see `serving`."""

import json
import os
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import tensorflow as tf

from dqgan_tf.benchmarking import serving
from dqgan_tf.benchmarking.volume import channel_of
from dqgan_tf.config import CompressionConfig, NetworkConfig, RunConfig, TrainConfig
from dqgan_tf.data import DataSpec
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.training import job

PIXELS = 64
_SPECS = {"float32": "none", "float16": "fp16"}
_VALUES = 1 << 20  # any size will do to ask whether a compressor is contractive


def config_of(name: str, batch_size: int, width: int | None) -> RunConfig:
    """Returns the run behind a variant; its batch size counts the samples of one replica.

    Everything else is the default of `RunConfig`, but determinism is off, and error feedback where the compressor is
    not contractive. The dense baselines travel by TensorFlow's own collectives.
    """
    segment, topology, bucket_mb = channel_of(_SPECS.get(name, name), _VALUES)
    compression = CompressionConfig(
        compressor=segment.compressor.spec,
        error_feedback=segment.delta > 0,
        topology=topology,
        bucket_mb=bucket_mb,
        communication="ring" if name in _SPECS else "auto",
    )
    return RunConfig(
        network=NetworkConfig(network="dcgan", width=width),
        compression=compression,
        train=TrainConfig(batch_size=batch_size, steps_per_call=1, deterministic=False),
    )


def main(text: str) -> None:
    """Serves one step of every variant `names` with `batch_size` images a worker and networks of `width`."""
    arguments = json.loads(text)
    configs = [config_of(name, arguments["batch_size"], arguments["width"]) for name in arguments["names"]]
    strategy = job.start_strategy(configs[0])
    board = MessageBoard(strategy.worker_index, strategy.num_workers)
    spec = DataSpec("images", (PIXELS, PIXELS, 3), None, "synthetic")
    jobs = [job.build(config, spec, strategy, board) for config in configs]
    serving.serve([_measured(one, arguments["batch_size"]) for one in jobs], arguments)


def _measured(one, batch_size):
    iterator = iter(
        one.strategy.distribute_datasets_from_function(lambda context: _images(batch_size, one.data_spec.shape))
    )

    def phases():
        figures = one.model.drain_metrics()
        prefix = "milliseconds/"
        return {key.removeprefix(prefix): value for key, value in figures.items() if key.startswith(prefix)}

    def describe():
        return {
            "declared_bytes": one.model.channel.sent_bytes,
            "topology": one.model.channel.topology,
            "library": f"tensorflow {tf.__version__}",
            "values": sum(segment.size for segment in one.model.channel.segments),
        }

    return serving.Measured(lambda: one.model.train_steps(iterator, 1), phases, describe)


def _images(batch_size, shape):
    images = np.random.RandomState(0).uniform(-1, 1, (batch_size, *shape)).astype(np.float32)
    return tf.data.Dataset.from_tensors(images).repeat()


if __name__ == "__main__":
    main(sys.argv[1])
