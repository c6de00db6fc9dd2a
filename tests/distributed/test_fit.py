"""`model.fit` in two real processes; run as a program by each of them."""

import json
import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.distributed import cluster

BATCH, BATCHES = 32, 10  # over both workers: 16 samples each


@pytest.mark.slow  # keras/test_two_processes.py has fit in two processes
def test_fit_in_two_processes_keeps_the_workers_equal(tmp_path):
    """Callbacks, validation, 10 batches in calls of 4, over two epochs: both workers end alike, and having learned."""
    cluster.run(["-m", "tests.distributed.test_fit", str(tmp_path)], tmp_path / "logs")
    first, second = (json.loads((tmp_path / f"worker_{i}.json").read_text()) for i in range(2))
    assert first == second
    assert first["step"] == 2 * BATCHES and first["skipped"] == 0
    assert first["seen"] == [4, 8, 10, 14, 18, 20]
    assert first["epochs"] == [0, 1]
    for name in ("generator_loss", "discriminator_loss", "val_generator_loss", "val_discriminator_loss"):
        assert len(first["history"][name]) == 2 and np.all(np.isfinite(first["history"][name])), name
    assert np.array_equal(np.array(first["digests"])[0], np.array(first["digests"])[1])
    for index in range(2):
        assert list((tmp_path / f"board_{index}" / "train").glob("events.*"))
        # What each wrote, the other reads as its own weights.
        assert (tmp_path / f"{index}_2.weights.h5").exists()
    assert first["reloaded"] == [True, True]


def main(folder):
    folder = pathlib.Path(folder)
    from dqgan_tf.config import CompressionConfig, OptimizerConfig
    from dqgan_tf.distribute.message_board import MessageBoard
    from dqgan_tf.distribute.strategy import CompressedStrategy
    from dqgan_tf.training import summary
    from tests.gan import tiny_gan

    strategy = CompressedStrategy()
    index, board = strategy.worker_index, MessageBoard(strategy.worker_index, strategy.num_workers)
    model = tiny_gan.build(
        strategy, OptimizerConfig(), CompressionConfig(compressor="sign:bucket=32"), steps_per_execution=4
    )
    seen = []
    callbacks = [
        keras.callbacks.TensorBoard(folder / f"board_{index}", update_freq=1),
        keras.callbacks.ModelCheckpoint(folder / f"{index}_{{epoch}}.weights.h5", save_weights_only=True),
        keras.callbacks.EarlyStopping("wire_bytes", mode="min", patience=1),  # bytes never improve
        keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(int(model.step.numpy()))),
    ]
    values = np.random.default_rng(0).standard_normal((BATCH * BATCHES, 2)).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((values, np.zeros(len(values)))).batch(BATCH)
    history = model.fit(
        dataset, epochs=5, validation_data=dataset.take(3), callbacks=callbacks, shuffle=False, verbose=0
    )
    sha = summary.weights_sha256(model)
    report = {
        "step": int(model.step.numpy()),
        "skipped": int(model.skipped.numpy()),
        "seen": seen,
        "epochs": history.epoch,
        "history": {name: [float(v) for v in values] for name, values in history.history.items() if "loss" in name},
        "weights": sha,
        "digests": model.weight_digests().tolist(),
    }
    board.exchange("saved", "")
    report["reloaded"] = []
    for writer in range(2):
        model.load_weights(folder / f"{writer}_2.weights.h5")
        report["reloaded"].append(summary.weights_sha256(model) == sha)
    (folder / f"worker_{index}.json").write_text(json.dumps(report))
    board.leave(60.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
