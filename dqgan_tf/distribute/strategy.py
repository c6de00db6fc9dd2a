"""A MultiWorkerMirroredStrategy with compressed channels."""

import contextlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from dqgan_tf import config
from dqgan_tf.config import CompressionConfig
from dqgan_tf.distribute import rendezvous, tf_config
from dqgan_tf.distribute.channel import Channel, encoding_threads, plain_options
from dqgan_tf.distribute.layout import Vector
from dqgan_tf.distribute.message_board import MessageBoard
from dqgan_tf.distribute.transport.transports import Transports
from dqgan_tf.errors import LostConnectionError, PeerLostError, UsageError
from dqgan_tf.private_tensorflow import (
    ClusterPlace,
    WorkerStrategy,
    cluster_place,
    joined_cluster,
    joined_silence_seconds,
    other_threads_run,
)
from dqgan_tf.tensorflow_texts import first_line

# Types that CollectiveGatherV2 does not take (TensorFlow 2.21.0) -> a type that it takes and that holds their values.
_GATHERED_AS = {tf.bfloat16: tf.float32} | dict.fromkeys((tf.bool, tf.int8, tf.uint8, tf.int16, tf.uint16), tf.int32)
# Number of strategies of several workers that this process has built, part of the name of a message board: all workers
# build them in the same order.
_strategies = itertools.count()
# How long a worker that opens a channel waits for one that is alive and has not come yet: it may still read its data.
OPEN_SECONDS = 7200.0


class CompressedStrategy(WorkerStrategy):
    """`tf.distribute.MultiWorkerMirroredStrategy` with compressed channels.

    Works with TF_CONFIG, without it, and with several local replicas. Build it before any other TensorFlow operation.
    All reductions stay exact, except those whose options name a channel:

    >>> from dqgan_tf import compressors
    >>> from dqgan_tf.distribute import layout
    >>> strategy = CompressedStrategy()
    >>> vectors = layout.vectors("weights", ["kernel"], [(3,)], compressors.get("sign:bucket=32"))
    >>> channel = strategy.open_channel("updates", vectors)
    >>> @tf.function
    ... def mean(update):
    ...     def replica_mean():
    ...         return tf.distribute.get_replica_context().all_reduce("mean", [update], options=channel.options)
    ...     return strategy.run(replica_mean)
    >>> mean(tf.constant([1.0, -2.0, 3.0]))[0].numpy()  # of one replica: what its packet decodes to
    array([ 2., -2.,  2.], dtype=float32)
    >>> strategy.close()

    The strategy owns the TCP connections between workers. `close`, or garbage collection of the strategy, closes them.
    Import it from `dqgan_tf`: this also repairs Keras' `fit` for several workers (`private_keras.repair`).

    Args:
      cluster_resolver: argument of the base class; None reads TF_CONFIG. With both, the cluster is checked, and all
        workers meet before TensorFlow starts: see `rendezvous`.
      communication_options: `tf.distribute.experimental.CommunicationOptions` of reductions without a channel. Pass
        NCCL on GPUs: TensorFlow's AUTO selects RING. Channels choose NCCL without this option.
      replicas_per_worker: local replicas on a machine without GPUs, on as many logical CPUs
        (`tf.config.set_logical_device_configuration`). With GPUs every visible one is a replica.
      start_timeout: seconds that the workers wait for each other.
      silence_timeout: seconds without a sign of life after which a worker counts as lost. All workers and all
        strategies of a process must have the same: TensorFlow sends a heartbeat every half of the sender's limit.

    Raises:
      UsageError: other devices, replicas or communication options on another worker; fewer logical CPUs than replicas;
        another silence_timeout than that of the first strategy; TF_CONFIG, or the cluster of `cluster_resolver`, cannot
        be used: see `tf_config.read`, `rendezvous.meet`.
      PeerLostError: a worker did not come in time.
    """

    def __init__(
        self,
        cluster_resolver: Any = None,
        communication_options: Any = None,
        replicas_per_worker: int = 1,
        start_timeout: float = config.TrainConfig.start_timeout,
        silence_timeout: float = config.TrainConfig.silence_timeout,
    ):
        for setting, value in (("start_timeout", start_timeout), ("silence_timeout", silence_timeout)):
            config.check_setting(f"train.{setting}", value)
        joined = joined_silence_seconds()
        if joined is not None and abs(joined - silence_timeout) > 1e-3:  # TensorFlow keeps whole milliseconds
            raise UsageError(
                "All strategies of a process must have the same silence_timeout, because TensorFlow joins the cluster "
                f"once. Received: silence_timeout={silence_timeout:g} after silence_timeout={joined:g}"
            )
        connecting: contextlib.AbstractContextManager = contextlib.nullcontext()
        if cluster_resolver is not None:
            place = tf_config.of_resolver(cluster_resolver)
        elif (place := tf_config.read(os.environ)) is None:
            cluster_resolver = no_cluster()  # TensorFlow fails if TF_CONFIG is an empty text
        if place is not None and not joined_cluster():  # a second strategy finds TensorFlow at the port
            rendezvous.meet(place, start_timeout)
            connecting = rendezvous.limit(start_timeout)
        options = plain_options(communication_options)
        with connecting, other_threads_run():
            super().__init__(cluster_resolver, options, replicas_per_worker, silence_timeout)
        self._channels: dict[str, Channel] = {}
        self._options = options
        self._silence_seconds = silence_timeout
        self._board = self.message_board(f"strategy/{next(_strategies) if self.num_workers > 1 else 0}")
        self._threads = self._agree_on_threads(start_timeout)
        self._transports = Transports(
            self._place, self.local_devices, self.launchers(), self.new_launcher, options, silence_timeout
        )

    def open_channel(
        self,
        name: str,
        vectors: Sequence[Vector],
        *,
        error_feedback: bool = True,
        shift: float = CompressionConfig.shift,
        seed: int = 0,
        topology: str = CompressionConfig.topology,
        packet_mb: float = CompressionConfig.packet_mb,
        allow_non_contractive: bool = False,
        transport: str = CompressionConfig.transport,
        agreed: Mapping[str, Any] | None = None,
    ) -> Channel:
        """Opens a compressed all-reduce; see `Channel` for the mathematics and `CompressionConfig` for the settings.

        Must be called eagerly, before the function that uses it is traced, on every worker in the same order. With
        several replicas on each of several hosts, topology `auto` is `hierarchical`, except for values that are not
        compressed: these are added up over all replicas.

        Args:
          agreed: further values that all workers must have alike, such as a learning rate, by name. Their `repr` is
            compared.

        Raises:
          UsageError: the name is taken, a value is out of bounds, a transport does not fit, another worker has other
            arguments; or see `Channel`.
          LostConnectionError, tf.errors.OpError: another worker is lost, or does not open the channel.
        """
        for setting, value in (("packet_mb", packet_mb), ("shift", shift)):
            config.check_setting(f"compression.{setting}", value)
        config.check_shift(shift, error_feedback)
        if name in self._channels:
            raise UsageError(f"Channel {name!r} is open already.")
        options: dict[str, Any] = {
            "error_feedback": error_feedback,
            "shift": shift,
            "seed": seed,
            "topology": topology,
            "packet_mb": packet_mb,
            "allow_non_contractive": allow_non_contractive,
        }
        self._check_agreement(name, dict(agreed or {}) | _described(vectors) | options | {"transport": transport})
        replicas = len(self.local_devices)
        compressed = not all(vector.is_exact for vector in vectors)
        by_host = topology == "auto" and self.num_workers > 1 and replicas > 1 and compressed
        hierarchical = topology == "hierarchical" or by_host
        self._channels[name] = Channel(
            name,
            vectors,
            **options,
            devices=self.local_devices,
            threads=self._threads,
            collectives=self._transports.collectives(transport, hierarchical),
            streams=[self.worker_index] * replicas if hierarchical else self.local_replica_ids,
            options=self._options,
        )
        return self._channels[name]

    def message_board(self, name: str = "run") -> MessageBoard:
        """Returns a board of this strategy's workers."""
        return MessageBoard(self.worker_index, self.num_workers, name, self._silence_seconds)

    def transport_of(self, transport: str) -> str:
        """Returns what carries packets between workers under this value of `CompressionConfig.transport`, as a value
        other than `auto`."""
        return self._transports.name_of(transport)

    def close_channel(self, name: str) -> None:
        """Forgets a channel and its residuals."""
        del self._channels[name]

    def check_scope(self, variables: Sequence[Any], owner: str = "the model and all of its layers") -> None:
        """Refuses variables that are one for all replicas of a process: each replica would add its update to them.

        Args:
          variables: `keras.Variable`s of a model.
          owner: what they belong to, for the message.

        Raises:
          UsageError: there are several replicas, and a variable was created outside of the scope.
        """
        for variable in variables if self.num_replicas_in_sync > 1 else ():
            if not self.extended.variable_created_in_scope(variable.value):
                raise UsageError(
                    f"Create {owner} in the scope of the strategy, `with strategy.scope():`; each of the "
                    f"{self.num_replicas_in_sync} replicas needs variables of its own. Received: {variable.path}, "
                    "which was created outside"
                )

    def close(self) -> None:
        """Sends what was handed over to the other workers, for up to 3 s, and closes the connections."""
        self._transports.close()

    def reduce_in_channel(
        self, reduce_op: tf.distribute.ReduceOp, values: Sequence[tf.Tensor], replica: int, options: Any
    ) -> list[tf.Tensor]:
        """See the base class."""
        if options.channel not in self._channels:
            raise UsageError(f"No channel {options.channel!r} is open. Open: {sorted(self._channels)}")
        if reduce_op != tf.distribute.ReduceOp.MEAN:
            raise UsageError(f"A channel computes means only. Received: reduce_op={reduce_op}")
        return self._channels[options.channel].mean(values, replica, options)

    def gather(self, value: Any, axis: int) -> tf.Tensor:
        """As in the base class, and also for bfloat16, bool and short integers, which `predict` may return."""
        dtype = self.experimental_local_results(value)[0].dtype
        if dtype not in _GATHERED_AS:
            return super().gather(value, axis)
        carried = tf.nest.map_structure(lambda v: tf.cast(v, _GATHERED_AS[dtype]), value, expand_composites=True)
        return tf.cast(super().gather(carried, axis), dtype)

    def _agree_on_threads(self, timeout_seconds: float) -> int:
        """Compares what must be alike, and returns the smallest number of encoding threads of a worker.

        It decides how packets are cut into slices, so a worker with another number would misread what it receives.
        """
        own = {
            "replicas on": tf.DeviceSpec.from_string(self.local_devices[0]).device_type,
            "replicas per worker": len(self.local_devices),
            "communication implementation": self._options.implementation.value,
        }
        try:
            texts = self._board.exchange(
                "start", json.dumps([own, encoding_threads(self.local_devices)]), timeout_seconds
            )
        except (tf.errors.OpError, LostConnectionError) as error:
            raise PeerLostError(
                f"Worker {self.worker_index} lost another worker at the start ({first_line(error)})."
            ) from None
        strategies, threads = zip(*map(json.loads, texts), strict=True)
        if difference := _first_difference(strategies):
            self._board.leave()
            raise UsageError(
                "The strategies of all workers must be alike; CUDA_VISIBLE_DEVICES=-1 hides GPUs. Received: "
                + difference
            )
        return min(threads)

    def _check_agreement(self, name: str, arguments: dict[str, Any]) -> None:
        """Refuses what another worker does not have alike: it would misread what it receives, wait, or drift away."""
        own = {key: repr(value) for key, value in arguments.items()}
        texts = self._board.exchange("channel", json.dumps(own), OPEN_SECONDS)
        if difference := _first_difference([json.loads(text) for text in texts]):
            raise UsageError(f"All workers must open channel {name!r} with the same arguments. Received: {difference}")

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the files that workers share."""
        return self._place.is_chief

    @property
    def worker_index(self) -> int:
        """This worker's index in the cluster."""
        return self._place.worker_index

    @property
    def num_workers(self) -> int:
        """Number of workers in the cluster."""
        return self._place.num_workers

    @property
    def local_devices(self) -> tuple[str, ...]:
        """The local replicas' devices, in replica order."""
        return tuple(self.extended.worker_devices)

    @property
    def local_replica_ids(self) -> list[int]:
        """Global ranks of the local replicas."""
        count = len(self.local_devices)
        return [self.worker_index * count + i for i in range(count)]

    @property
    def _place(self) -> ClusterPlace:
        return cluster_place(self)


def _described(vectors: Sequence[Vector]) -> dict[str, Any]:
    """Returns what decides how vectors are encoded."""
    return {
        "compressors": [f"{v.compressor.spec} of {v.size} values" for v in vectors],
        "mean_compressors": [v.mean_compressor and v.mean_compressor.spec for v in vectors],
        "weights": [[v.weights, v.shapes, v.order] for v in vectors],
    }


def _first_difference(answers: Sequence[dict[str, Any]]) -> str:
    """Returns the first value in which a worker differs from worker 0, and worker 0's; empty if there is none."""
    for index, answer in enumerate(answers):
        for key in answers[0] | answer:
            own, other = (str(values.get(key, "nothing")) for values in (answers[0], answer))
            if own != other:
                start = max(0, len(os.path.commonprefix([own, other])) - 60)
                own, other = _excerpt(own, start), _excerpt(other, start)
                return f"{key}={own} on worker 0, {key}={other} on worker {index}"
    return ""


def _excerpt(text: str, start: int, length: int = 200) -> str:
    return "..." * (start > 0) + text[start : start + length] + "..." * (start + length < len(text))


def no_cluster() -> tf.distribute.cluster_resolver.ClusterResolver:
    """Returns a cluster of this process alone, independent of TF_CONFIG."""
    return tf.distribute.cluster_resolver.SimpleClusterResolver(tf.train.ClusterSpec({}))
