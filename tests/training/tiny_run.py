"""A run of two small networks and what the tests of its checkpoints do with it."""

import dataclasses

import keras
import numpy as np

from dqgan_tf.config import CompressionConfig, DataConfig, NetworkConfig, OptimizerConfig, RunConfig
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.gan import networks
from dqgan_tf.gan.model import DQGAN
from dqgan_tf.training import checkpoint
from dqgan_tf.training.checkpoint import Checkpoints
from dqgan_tf.training.job import Job
from tests.gan import model_state
from tests.gan.local_strategy import local_strategy

CONFIG = RunConfig(
    model_dir="here",
    data=DataConfig("fashion_mnist"),
    network=NetworkConfig("dcgan", width=2, latent_dim=3),
    compression=CompressionConfig("sign:bucket=32", shift=0.1),
)


def build(replicas, width=2):
    """An untraced DCGAN: batch-norm statistics, moments, residuals and all, in a moment."""
    strategy = local_strategy(replicas)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        players = networks.build(NetworkConfig("dcgan", width=width, latent_dim=3), (28, 28, 1), 0)
        model = DQGAN(players.generator, players.discriminator)
    model.compile(OptimizerConfig(second_moment="averaged"), CONFIG.compression)
    return strategy, model


def checkpoints(folder, built, config=CONFIG, keep=None, board=None):
    """The checkpoints of `built` in a model_dir."""
    strategy, model = built
    train = dataclasses.replace(config.train, keep_checkpoints=keep) if keep else config.train
    config = dataclasses.replace(config, model_dir=str(folder), train=train)
    return Checkpoints(Job(config, strategy, board or MessageBoard(0, 1), data_spec=None, model=model))


def fill(built, seed, step=7):
    """Gives every variable values of its own: per replica where replicas may differ."""
    random, (_, model) = np.random.default_rng(seed), built

    def drawn(values):
        return {name: draw(value) for name, value in values.items()}

    def draw(value):
        if value.dtype.is_integer:
            return random.integers(1, 1000)
        return random.standard_normal(value.shape).astype(np.float32)

    model.set_shared_values(drawn(model.shared_values()) | {"step": step})
    for replica in range(len(model.channel.calls.variables)):
        model.set_replica_values(replica, drawn(model.replica_values(replica)))


def bits(built):
    """The bytes of all state, by name and replica."""
    return model_state.bits(built[1])


def steps(folder):
    return [int(path.name[5:]) for path in checkpoint.committed(folder / "checkpoints")]
