"""For type checkers: the names that `__init__.py` imports when they are first used."""

from dqgan_tf import callbacks as callbacks
from dqgan_tf import compressors as compressors
from dqgan_tf.config import CompressionConfig as CompressionConfig
from dqgan_tf.config import LossConfig as LossConfig
from dqgan_tf.config import OptimizerConfig as OptimizerConfig
from dqgan_tf.config import RunConfig as RunConfig
from dqgan_tf.config import algorithm as algorithm
from dqgan_tf.distribute.strategy import CompressedStrategy as CompressedStrategy
from dqgan_tf.gan.model import DQGAN as DQGAN
from dqgan_tf.keras.optimizer import compressed as compressed

__version__: str
