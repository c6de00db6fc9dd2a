"""Run by every worker of tests/distributed/test_exchange.py: compressed and exact reductions, written to a file.

Arguments: output folder, replicas per worker, then compressor specs, each with `@` and a topology behind it.
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf


def main(folder, replicas_per_worker, *specs):
    replicas_per_worker = int(replicas_per_worker)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas_per_worker)
    from dqgan_tf import compressors
    from dqgan_tf.distribute.message_board import MessageBoard
    from dqgan_tf.distribute.segment import Segment
    from dqgan_tf.distribute.strategy import CompressedStrategy

    strategy = CompressedStrategy(replicas_per_worker=replicas_per_worker)
    assert isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    board = MessageBoard(strategy.worker_index, strategy.num_workers)
    results = {}
    for spec in specs:
        text, _, topology = spec.partition("@")
        vectors = (("first", 1000, ((25, 40),)), ("second", 33, ((33,),)))
        segments = [Segment(name, size, compressors.get(text), shapes) for name, size, shapes in vectors]
        channel = strategy.open_channel(spec, segments, error_feedback=True, topology=topology)
        results |= reductions(strategy, channel, spec)
    results["board"] = board.exchange("hello", f"worker {strategy.worker_index}")
    np.savez(pathlib.Path(folder) / f"worker_{strategy.worker_index}.npz", **results)
    board.exchange("end", "")


def reductions(strategy, channel, spec, rounds=3):
    """Sends `inputs(replica, round)` through the channel and, beside it, through an exact reduction."""
    ids = strategy.local_replica_ids

    def replica_fn(first, second, tag):
        context = tf.distribute.get_replica_context()
        # An argument that is passed on as it is has no device, which stock batch_reduce refuses (TensorFlow 2.21.0).
        first, second = tf.identity(first), tf.identity(second)
        exact = context.all_reduce("mean", [first, second])
        sent = context.all_reduce("mean", [first, second], options=tag)
        return exact, sent

    @tf.function
    def reduce_once(first, second):
        return strategy.run(replica_fn, args=(first, second), kwargs={"tag": channel.options})

    results = {}
    for number in range(rounds):
        per_replica = [inputs(replica, number) for replica in ids]
        exact, sent = reduce_once(*(distribute(strategy, [pair[i] for pair in per_replica]) for i in range(2)))
        for index in range(2):
            for kind, values in (("exact", exact), ("sent", sent)):
                local = [v.numpy() for v in strategy.experimental_local_results(values[index])]
                for replica, value in zip(ids, local, strict=True):
                    results[f"{spec}/{number}/{kind}/{index}/{replica}"] = value
    for index, residual in enumerate(channel.residuals):
        for replica, variable in zip(ids, residual.variables, strict=True):
            results[f"{spec}/residual/{index}/{replica}"] = variable.numpy()
    return results


def distribute(strategy, values):
    """One value per local replica, as a distributed value."""
    first = strategy.local_replica_ids[0]
    return strategy.experimental_distribute_values_from_function(
        lambda context: values[context.replica_id_in_sync_group - first]
    )


def inputs(replica, number):
    """Two float32 vectors that differ between replicas and rounds."""
    random = np.random.RandomState(1000 * number + replica)
    return random.randn(1000).astype(np.float32), (1e-3 * random.randn(33)).astype(np.float32)


if __name__ == "__main__":
    main(*sys.argv[1:])
