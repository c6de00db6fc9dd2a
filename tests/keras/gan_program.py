"""`fit` of a small DQGAN with the checkpoint callback in each of two processes, for `test_two_processes`.

Arguments: output folder, then the epoch in which worker 1 is killed, or nothing.
"""

import hashlib
import json
import pathlib
import sys

import numpy as np
import tensorflow as tf

import dqgan_tf
from dqgan_tf.distribute.message_board import MessageBoard
from tests.gan import tiny_gan
from tests.keras.program import Kill


def digest(values):
    """sha256 of named values."""
    return hashlib.sha256(b"".join(np.asarray(values[name]).tobytes() for name in sorted(values))).hexdigest()


def main(folder, *kill_at):
    folder, strategy = pathlib.Path(folder), dqgan_tf.CompressedStrategy()
    worker = strategy.worker_index
    board = MessageBoard(worker, strategy.num_workers)
    compression = dqgan_tf.CompressionConfig(compressor="sign:bucket=32")
    model = tiny_gan.build(strategy, dqgan_tf.OptimizerConfig(), compression)
    batches = tiny_gan.real_batches(5)[:, :2].reshape(5, -1, 2)
    callbacks = [dqgan_tf.callbacks.Checkpoint(folder / "checkpoints")]
    callbacks += [Kill(int(epoch)) for epoch in kill_at if worker == 1]
    data = tf.data.Dataset.from_tensor_slices(batches)
    history = model.fit(data, epochs=4, shuffle=False, callbacks=callbacks, verbose=0)
    report = {
        "epochs": history.epoch,
        "shared": digest(model.shared_values()),
        "replica": digest(model.replica_values(0)),
    }
    (folder / f"worker_{worker}.json").write_text(json.dumps(report))
    board.leave(60.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
