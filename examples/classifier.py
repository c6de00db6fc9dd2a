"""A classifier of Fashion-MNIST: stock `fit` on several workers, gradients of 4 bits.

    python examples/classifier.py

Start it once on every worker, each with its TF_CONFIG; without TF_CONFIG it is one worker.
"""

import argparse

import keras

import dqgan_tf

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--samples", type=int, default=60_000)
parser.add_argument("--checkpoints", help="folder that all workers share; a killed run resumes from it")
arguments = parser.parse_args()

strategy = dqgan_tf.CompressedStrategy()
keras.utils.set_random_seed(0)
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(512, "relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(10, "softmax"),
        ]
    )
    model.compile(
        optimizer=dqgan_tf.compressed(keras.optimizers.Adam(1e-3), "linear:bits=4,bucket=512", logs=True),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=10,
    )

(x, y), test = keras.datasets.fashion_mnist.load_data()
callbacks = [dqgan_tf.callbacks.Checkpoint(arguments.checkpoints)] if arguments.checkpoints else []
history = model.fit(
    x[: arguments.samples],
    y[: arguments.samples],
    batch_size=256,
    epochs=arguments.epochs,
    validation_data=test,
    callbacks=callbacks,
    verbose=2 if strategy.is_chief else 0,
).history

if strategy.is_chief:
    print(f"validation accuracy {history['val_accuracy'][-1]:.3f}")
    print(f"{history['compression/sent_bytes'][-1]:,.0f} bytes per worker and step")
