"""From a `RunConfig` to a strategy, a model and its data."""

import os
import sys
import tempfile
from typing import NamedTuple

import keras
import tensorflow as tf

from dqgan_tf import data
from dqgan_tf.config import RunConfig
from dqgan_tf.distribute import tf_config
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.distribute.strategy import CompressedStrategy
from dqgan_tf.distribute.transport.transports import implementation_of
from dqgan_tf.errors import UsageError
from dqgan_tf.gan import networks
from dqgan_tf.gan.model import DQGAN


class Job(NamedTuple):
    """A run on one worker.

    config: settings of the run.
    strategy: replicas of all workers.
    board: message board of the workers.
    data_spec: shape and size of the data set.
    model: the compiled model.
    """

    config: RunConfig
    strategy: CompressedStrategy
    board: MessageBoard
    data_spec: data.DataSpec
    model: DQGAN

    def dataset(self, start_step: int) -> tf.data.Dataset:
        """Returns the batches of the local replicas from `start_step` on; see `data.build`.

        Raises:
          DatasetError: see `data.build`; also if the data are no longer as `data_spec` says.
        """
        replicas = self.strategy.num_replicas_in_sync
        return data.build(
            self.config.data,
            per_replica_batch_size=self.config.train.batch_size // replicas,
            num_replicas=replicas,
            replica_ids=self.strategy.local_replica_ids,
            seed=self.config.train.seed,
            start_step=start_step,
            spec=self.data_spec,
        )

    def iterator(self, dataset: tf.data.Dataset):
        """Returns a distributed iterator over `dataset`."""
        return iter(self.strategy.distribute_datasets_from_function(lambda context: dataset))


def check(config: RunConfig) -> None:
    """Creates the model_dir, before TensorFlow starts.

    Raises:
      UsageError: model_dir is empty or cannot be written.
    """
    if not config.model_dir:
        raise UsageError("--model_dir must name a folder, such as --model_dir=runs/ring")
    try:
        os.makedirs(config.model_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=config.model_dir):  # its name is no other worker's
            pass
    except OSError as error:
        raise UsageError(f"--model_dir={config.model_dir} cannot be written: {error.strerror}.") from None


def start_strategy(config: RunConfig) -> CompressedStrategy:
    """Configures TensorFlow, joins the cluster of TF_CONFIG and waits for the other workers.

    Raises:
      UsageError: TF_CONFIG is malformed.
    """
    place = tf_config.read(os.environ)
    gpus, replicas = tf.config.list_physical_devices("GPU"), config.train.replicas_per_worker
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if not gpus and replicas > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    if place is not None and place.num_workers > 1:
        where = f"worker {place.worker_index} of {place.num_workers}"
        print(f"This is {where}; waiting for the others at {place.addresses[0]}.", file=sys.stderr, flush=True)
    # For TensorFlow's own collectives, e.g. means of batch statistics. Updates use the transport of their channel.
    implementation = implementation_of(config.compression.transport, bool(gpus))
    return CompressedStrategy(
        communication_options=tf.distribute.experimental.CommunicationOptions(implementation=implementation),
        replicas_per_worker=replicas,
        start_timeout=config.train.start_timeout,
        silence_timeout=config.train.silence_timeout,
    )


def describe(config: RunConfig, strategy: CompressedStrategy) -> data.DataSpec:
    """Returns shape and size of the data set after a check of the batch size. Uses no collective.

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
    """Builds networks and model. All workers must have equal `config`, because initial values are broadcast.

    Raises:
      UsageError: a setting does not fit the data.
    """
    # Deterministic ops need a seed for every random op of Keras' initializers.
    keras.utils.set_random_seed(config.train.seed)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    model = build_model(config, spec, strategy)
    if config.train.warm_start:
        model.set_warm()
    model.compile(
        config.optimizer,
        config.compression,
        total_steps=config.train.steps,
        steps_per_execution=steps_per_execution(config),
    )
    return Job(config, strategy, board, spec, model)


def steps_per_execution(config: RunConfig) -> int:
    """Returns `steps_per_call`, or the next multiple of `local_steps`: a call ends with an exchange."""
    local_steps = config.compression.local_steps
    return -(-config.train.steps_per_call // local_steps) * local_steps


def build_model(config: RunConfig, spec: data.DataSpec, strategy: CompressedStrategy) -> DQGAN:
    """Returns an uncompiled `DQGAN` of both networks on `strategy`. It can draw samples.

    Raises:
      UsageError: a setting does not fit the data.
    """
    with strategy.scope():
        players = networks.build(config.network, spec.shape, config.train.seed, spec.num_classes)
        return DQGAN(
            players.generator,
            players.discriminator,
            latent_dim=players.latent_dim,
            loss=config.loss,
            seed=config.train.seed,
            ema_decay=config.train.ema_decay,
        )
