"""Run by every worker of tests/distributed/test_exchange.py: compressed and exact reductions, written to a file.

Arguments: output folder, replicas per worker, then for each channel `number=spec@topology`: the draw of the updates,
the compressor, how it is sent.
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf

from tests.distributed import exchange_cases

WEIGHTS = [shape for shapes in exchange_cases.MATRICES for shape in shapes]


def main(folder, replicas_per_worker, *channels):
    replicas_per_worker = int(replicas_per_worker)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas_per_worker)
    from dqgan_tf import compressors
    from dqgan_tf.distribute.layout import Vector
    from dqgan_tf.distribute.message_board import MessageBoard
    from dqgan_tf.distribute.strategy import CompressedStrategy

    strategy = CompressedStrategy(replicas_per_worker=replicas_per_worker)
    assert isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    board = MessageBoard(strategy.worker_index, strategy.num_workers)
    results = {}
    for argument in channels:
        data, _, name = argument.partition("=")
        spec, _, topology = name.partition("@")
        first, second = exchange_cases.MATRICES
        vectors = [Vector("first", compressors.get(spec), first, (0, 1))]
        vectors += [Vector("second", compressors.get(spec), second, (2,))]
        channel = strategy.open_channel(name, vectors, topology=topology, allow_non_contractive=True)
        print(name, flush=True)  # where a worker was if it fails
        results |= reductions(strategy, channel, name, int(data))
        strategy.close_channel(name)
    results["board"] = board.exchange("hello", f"worker {strategy.worker_index}")
    np.savez(pathlib.Path(folder) / f"worker_{strategy.worker_index}.npz", **results)
    board.leave(60.0)


def reductions(strategy, channel, name, data):
    """Sends the updates of all calls through the channel and, beside it, through an exact reduction."""
    ids, replicas = strategy.local_replica_ids, strategy.num_replicas_in_sync

    def replica_fn(first, second, tag):
        context = tf.distribute.get_replica_context()
        # An argument that is passed on as it is has no device, which stock batch_reduce refuses (TensorFlow 2.21.0).
        first, second = tf.identity(first), tf.identity(second)
        exact = context.all_reduce("mean", [first, second])
        sent = context.all_reduce("mean", [*by_weight(first), second], options=tag)
        return exact, by_vector(sent)

    @tf.function(autograph=False)
    def reduce_once(first, second):
        return strategy.run(replica_fn, args=(first, second), kwargs={"tag": channel.options})

    results = {}
    for call in range(exchange_cases.CALLS):
        per_replica = [exchange_cases.inputs(data, replica, replicas, call) for replica in ids]
        exact, sent = reduce_once(*(distribute(strategy, [pair[i] for pair in per_replica]) for i in range(2)))
        for local, replica in enumerate(ids):
            residuals = [whole(e, w) for e, w in zip(channel.residuals(local), WEIGHTS, strict=True)]
            residuals = [value.numpy() for value in by_vector(residuals)]
            for index in range(2):
                place = f"{index}/{replica}"
                results[f"{name}/{call}/exact/{place}"] = strategy.experimental_local_results(exact[index])[local]
                results[f"{name}/{call}/sent/{place}"] = strategy.experimental_local_results(sent[index])[local]
                results[f"{name}/{call}/residual/{place}"] = residuals[index]
            results[f"{name}/{call}/accepted/{replica}"] = channel.accepted.variables[local].numpy()
    return results


def by_weight(first):
    """The two weights of the first vector."""
    (matrix, bias) = WEIGHTS[:2]
    return tf.reshape(first[: np.prod(matrix)], matrix), tf.reshape(first[np.prod(matrix) :], bias)


def by_vector(values):
    """The two vectors of three weights, flat."""
    flats = [tf.reshape(value, [-1]) for value in values]
    return tf.concat(flats[:2], 0), flats[2]


def whole(residual, shape):
    """A weight's residual; zeros where nothing is kept."""
    return tf.zeros(shape) if residual is None else residual


def distribute(strategy, values):
    """One value per local replica, as a distributed value."""
    first = strategy.local_replica_ids[0]
    return strategy.experimental_distribute_values_from_function(
        lambda context: values[context.replica_id_in_sync_group - first]
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
