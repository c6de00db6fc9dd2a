"""Compression for any Keras model: one line in `compile`, and `fit` that works under several workers."""

from dqgan_tf import private_keras
from dqgan_tf.distribute.strategy import CompressedStrategy
from dqgan_tf.keras import fit, nested
from dqgan_tf.keras.optimizer import compressed

private_keras.repair(
    CompressedStrategy,
    private_keras.Repairs(
        fit.check,
        fit.train_loop,
        fit.test_loop,
        fit.is_outdated,
        fit.predict_step,
        fit.epoch_logs,
        nested.check_scaled,
        nested.apply_scaled,
    ),
)

__all__ = ["CompressedStrategy", "compressed"]
