"""Wall time inside a compiled function."""

import time
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from dqgan_tf import private_tensorflow


def now(after: Iterable[tf.Tensor]) -> tf.Tensor:
    """Returns seconds since the epoch, float64 scalar, once the tensors `after` exist.

    Nothing but what reads the time waits for it. On a GPU a tensor exists when its kernel is enqueued: there the phases
    of a step are for a profiler to tell.
    """
    with tf.control_dependencies(list(after)), tf.device("/device:CPU:0"):
        if private_tensorflow.is_op_determinism_enabled():
            # tf.timestamp refuses to run then (TensorFlow 2.21.0); only figures depend on the time, never weights.
            seconds = tf.numpy_function(_read_clock, [], tf.float64)
        else:
            seconds = tf.timestamp()
        if not tf.executing_eagerly():
            private_tensorflow.run_independently(seconds.op)  # else packets would wait for all that is computed
        return tf.ensure_shape(seconds, [])


def _read_clock():
    return np.float64(time.time())
