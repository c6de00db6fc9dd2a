"""`fit` of an MLP on Fashion-MNIST or of ResNet-20 on CIFAR-10, in each of two processes, for `test_two_processes`.

Arguments: output folder, folder of the data sets, settings as JSON.
"""

import gzip
import hashlib
import json
import os
import pathlib
import signal
import sys

import keras
import numpy as np
import tensorflow_datasets as tfds

import dqgan_tf
from dqgan_tf.distribute.message_board import MessageBoard


def fashion_mnist(folder, part, count):
    """Returns (images [count, 784] in [0, 1], labels) of `train` or `t10k`."""
    path = pathlib.Path(folder) / "fashion_mnist" / f"{part}-images-idx3-ubyte.gz"
    images = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(
        gzip.decompress(path.with_name(f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8
    )
    return images.reshape(-1, 784)[:count].astype(np.float32) / 255, labels[:count].astype(np.int32)


def digest(variables):
    """sha256 of the local values of variables."""
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in variables)).hexdigest()


def mlp(width=512):
    return keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(width, "relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(10, "softmax"),
        ]
    )


def cifar10(folder, split, count):
    """Returns (images [count, 32, 32, 3] in [0, 1], labels)."""
    builder = tfds.builder("cifar10", data_dir=str(pathlib.Path(folder) / "tfds"))
    examples = next(iter(tfds.as_numpy(builder.as_dataset(split=split, batch_size=count))))
    return examples["image"].astype(np.float32) / 255, examples["label"].astype(np.int32)


def resnet20():
    """He et al. 2015, arXiv 1512.03385, section 4.2: 3 x 3 blocks of 16, 32 and 64 filters, 272,474 weights."""
    layers = keras.layers

    def convolution(x, filters, kernel, stride=1):
        x = layers.Conv2D(filters, kernel, stride, "same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(convolution(inputs, 16, 3))
    for filters in (16, 32, 64):
        for block in range(3):
            stride = 2 if block == 0 and filters > 16 else 1
            y = layers.ReLU()(convolution(x, filters, 3, stride))
            shortcut = convolution(x, filters, 1, stride) if stride > 1 else x
            x = layers.ReLU()(layers.Add()([convolution(y, filters, 3), shortcut]))
    return keras.Model(inputs, layers.Dense(10, "softmax")(layers.GlobalAveragePooling2D()(x)))


class Kill(keras.callbacks.Callback):
    """Kills this process inside an epoch, as the kernel would."""

    def __init__(self, epoch):
        super().__init__()
        self._epoch, self._now = epoch, None

    def on_epoch_begin(self, epoch, logs=None):
        self._now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self._now == self._epoch:
            os.kill(os.getpid(), signal.SIGKILL)


def callbacks(folder, worker):
    return [
        keras.callbacks.TensorBoard(folder / f"board_{worker}"),
        keras.callbacks.ModelCheckpoint(folder / f"worker_{worker}.keras"),
        keras.callbacks.EarlyStopping("loss", patience=3),
        keras.callbacks.ReduceLROnPlateau("val_loss"),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.CSVLogger(folder / f"log_{worker}.csv"),
        dqgan_tf.callbacks.Checkpoint(folder / "checkpoints"),
    ]


def leaf(model):
    """The compressed optimizer."""
    is_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    return model.optimizer.inner_optimizer if is_scaled else model.optimizer


def main(folder, data_dir, settings):
    folder, settings = pathlib.Path(folder), json.loads(settings)
    strategy = dqgan_tf.CompressedStrategy()
    worker = strategy.worker_index
    board = MessageBoard(worker, strategy.num_workers)
    keras.utils.set_random_seed(7 + worker)  # the chief's numbers count
    keras.config.set_dtype_policy(settings.pop("policy", "float32"))
    epochs, kill_at = settings.pop("epochs", 2), settings.pop("kill_at", None)
    name, spec = settings.pop("optimizer", "Adam"), settings.pop("spec", "linear:bits=4,bucket=512")
    if settings.pop("network", "mlp") == "resnet20":
        network, batch = resnet20, 32
        (x, y), validation = cifar10(data_dir, "train", 6 * batch), cifar10(data_dir, "test", 64)
    else:
        network, batch = mlp, 128
        (x, y), validation = fashion_mnist(data_dir, "train", 20 * batch), fashion_mnist(data_dir, "t10k", 500)
    with strategy.scope():
        model = network()
        optimizer = getattr(keras.optimizers, name)(1e-3)
        model.compile(
            dqgan_tf.compressed(optimizer, spec, logs=True, **settings),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
            steps_per_execution=8,
        )
    history = model.fit(
        x,
        y,
        batch_size=batch,
        epochs=epochs,
        shuffle=False,
        validation_data=validation,
        callbacks=callbacks(folder, worker) + ([Kill(kill_at)] if kill_at is not None and worker == 1 else []),
        verbose=0,
    )
    (channel,) = leaf(model).compression.channels.values()
    prediction = model.predict(x[:133], batch_size=50, verbose=0)
    alone = model(x[:133]).numpy()
    loss, accuracy = model.evaluate(*validation, batch_size=64, verbose=0)
    probabilities = model(validation[0]).numpy().astype(np.float64)
    report = {
        "weights": digest(model.variables),
        "optimizer": digest(model.optimizer.variables),
        "residuals": hashlib.sha256(
            b"".join(e.numpy().tobytes() for e in channel.residuals(0) if e is not None)
        ).hexdigest(),
        "epochs": history.epoch,
        "history": {k: [float(v) for v in vs] for k, vs in history.history.items() if "milli" not in k},
        "bytes": [channel.wire_bytes, channel.sent_bytes, channel.dense_bytes],
        "prediction": hashlib.sha256(prediction.tobytes()).hexdigest(),
        "deviation": float(np.max(np.abs(prediction.astype(np.float64) - alone.astype(np.float64)))),
        "evaluation": [loss, accuracy],
        "expected": [
            float(np.mean(-np.log(probabilities[np.arange(len(validation[1])), validation[1]]))),
            float(np.mean(np.argmax(probabilities, 1) == validation[1])),
        ],
    }
    (folder / f"worker_{worker}.json").write_text(json.dumps(report))
    board.leave(60.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
