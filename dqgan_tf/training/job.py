"""From a `RunConfig` to a strategy, a model and its data."""

import os
import sys
from typing import NamedTuple

import keras
import tensorflow as tf

from dqgan_tf import data
from dqgan_tf.config import RunConfig
from dqgan_tf.distribute import tf_config
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.distribute.strategy import CompressedStrategy
from dqgan_tf.errors import UsageError
from dqgan_tf.gan import networks
from dqgan_tf.gan.model import DQGAN


class Job(NamedTuple):
    """A run on one worker.

    config: its settings.
    strategy, board: the worker's place among the others.
    data_spec: shape and size of the data set.
    model: the compiled model.
    """

    config: RunConfig
    strategy: CompressedStrategy
    board: MessageBoard
    data_spec: data.DataSpec
    model: DQGAN

    def iterator(self, start_step: int):
        """Returns a distributed iterator over the batches from `start_step` on."""
        replicas = self.strategy.num_replicas_in_sync

        def dataset(context):
            del context
            return data.build(
                self.config.data,
                per_replica_batch_size=self.config.train.batch_size // replicas,
                num_replicas=replicas,
                replica_ids=self.strategy.local_replica_ids,
                seed=self.config.train.seed,
                start_step=start_step,
            )

        return iter(self.strategy.distribute_datasets_from_function(dataset))


def check(config: RunConfig) -> None:
    """Makes the model_dir before TensorFlow starts.

    Raises:
      UsageError: it has no name or cannot be written.
    """
    if not config.model_dir:
        raise UsageError("--model_dir must name a folder, such as --model_dir=runs/ring")
    try:
        os.makedirs(config.model_dir, exist_ok=True)
        probe = os.path.join(config.model_dir, f".writable_{os.getpid()}")
        with open(probe, "w"):
            pass
        os.unlink(probe)
    except OSError as error:
        raise UsageError(f"--model_dir={config.model_dir} cannot be written: {error.strerror}.") from None


def start_strategy(config: RunConfig) -> CompressedStrategy:
    """Configures TensorFlow and joins the cluster of TF_CONFIG, waiting for the other workers.

    Raises:
      UsageError: TF_CONFIG is malformed.
    """
    place = tf_config.read(os.environ)
    _configure_devices(config.train.replicas_per_worker)
    if place is not None and place.num_workers > 1:
        where = f"worker {place.worker_index} of {place.num_workers}"
        print(f"This is {where}; waiting for the others at {place.addresses[0]}.", file=sys.stderr, flush=True)
    transport = config.compression.transport
    implementation = transport.upper() if transport in ("ring", "nccl") else "AUTO"
    return CompressedStrategy(
        cluster_resolver=None if place else no_cluster(),
        communication_options=tf.distribute.experimental.CommunicationOptions(implementation=implementation),
        replicas_per_worker=config.train.replicas_per_worker,
        start_timeout=config.train.start_timeout,
    )


def no_cluster() -> tf.distribute.cluster_resolver.ClusterResolver:
    """Returns the cluster of this process alone, whatever TF_CONFIG holds; TensorFlow fails on an empty TF_CONFIG."""
    return tf.distribute.cluster_resolver.SimpleClusterResolver(tf.train.ClusterSpec({}))


def describe(config: RunConfig, strategy: CompressedStrategy) -> data.DataSpec:
    """Returns shape and size of the data set, after checking the batch size against the cluster. Uses no collective.

    Raises:
      UsageError: the global batch does not divide among the replicas, or the data set cannot be used.
    """
    replicas = strategy.num_replicas_in_sync
    if config.train.batch_size % replicas or config.train.batch_size < replicas:
        raise UsageError(
            f"--batch_size counts samples over all replicas and must be a multiple of their number, {replicas}. "
            f"Received: batch_size={config.train.batch_size}"
        )
    return data.describe(config.data)


def build(config: RunConfig, spec: data.DataSpec, strategy: CompressedStrategy, board: MessageBoard) -> Job:
    """Builds networks and model. All workers must have agreed on `config` before: initial values are broadcast.

    Raises:
      UsageError: a setting does not fit the data.
    """
    # Op determinism needs a seed for every random op of Keras' initializers.
    keras.utils.set_random_seed(config.train.seed)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    model = build_model(config, spec, strategy)
    model.compile(
        config.optimizer,
        config.compression,
        total_steps=config.train.steps,
        steps_per_execution=config.train.steps_per_call,
    )
    return Job(config, strategy, board, spec, model)


def build_model(config: RunConfig, spec: data.DataSpec, strategy: CompressedStrategy) -> DQGAN:
    """Returns both networks as a `DQGAN` on `strategy`, not compiled: enough to draw samples.

    Raises:
      UsageError: a setting does not fit the data.
    """
    with strategy.scope():
        players = networks.build(config.network, spec.shape, seed=config.train.seed)
        return DQGAN(
            players.generator,
            players.discriminator,
            latent_dim=players.latent_dim,
            loss=config.loss,
            seed=config.train.seed,
            ema_decay=config.train.ema_decay,
        )


def _configure_devices(replicas_per_worker):
    if tf.config.list_physical_devices("GPU"):
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    elif replicas_per_worker > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas_per_worker)
