"""The former place of `dqgan_tf.errors`, for files that still import it from here."""

from dqgan_tf.errors import CheckpointError, PeerLostError, TrainingError, UsageError
from dqgan_tf.tensorflow_texts import first_line

__all__ = ["CheckpointError", "PeerLostError", "TrainingError", "UsageError", "first_line"]
