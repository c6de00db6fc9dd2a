"""DQGAN for TensorFlow and Keras 3: distributed GAN training with compressed optimistic updates and error feedback.

Chen, Yang, Shen, Pang 2020, arXiv 2010.13359. The names below are imported when first used, so that
`import dqgan_tf` alone does not import TensorFlow:

  DQGAN: the Keras model; its `train_step` is one step of the algorithm (`dqgan_tf.gan.model`).
  CompressedStrategy: a `tf.distribute.MultiWorkerMirroredStrategy` that can compress (`dqgan_tf.distribute.strategy`).
  compressed: makes a Keras optimizer exchange compressed gradients or updates, in any model (`dqgan_tf.keras`).
  RunConfig: all settings of a run, with OptimizerConfig, CompressionConfig and LossConfig (`dqgan_tf.config`).
  algorithm: the settings of a method by its name; docs/methods.md lists them (`dqgan_tf.config`).
  callbacks: for Keras' `fit` (`dqgan_tf.callbacks`).
  compressors: encode a flat vector as a payload, and decode it (`dqgan_tf.compressors`).
"""

import importlib

__version__ = "0.2.0"

_MODULE_OF = {
    "CompressedStrategy": "dqgan_tf.keras",  # its import repairs Keras' `fit` for several workers: private_keras.repair
    "CompressionConfig": "dqgan_tf.config",
    "DQGAN": "dqgan_tf.gan.model",
    "LossConfig": "dqgan_tf.config",
    "OptimizerConfig": "dqgan_tf.config",
    "RunConfig": "dqgan_tf.config",
    "algorithm": "dqgan_tf.config",
    "compressed": "dqgan_tf.keras",
}

__all__ = [*_MODULE_OF, "__version__", "callbacks", "compressors"]


def __getattr__(name):
    if name in ("callbacks", "compressors"):
        return importlib.import_module(f"dqgan_tf.{name}")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'dqgan_tf' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
