"""The point at which DQGAN takes its gradient."""

import tensorflow as tf


def half_step_point(
    weights: tf.Tensor, direction: tf.Tensor, residual: tf.Tensor, learning_rate: tf.Tensor
) -> tf.Tensor:
    """Returns w_half = w_{t-1} - (eta u_{t-1} + e_{t-1}), float32 [n].

    With both the last direction and the residual of the same worker inside, the virtual iterate z = w - mean(e) obeys
    exact optimistic mirror descent: mean(w_half) = z_{t-1} - eta mean(u_{t-1}). Without the residual the gradient is
    taken off that point by mean(e), which is as large as the optimistic correction itself.

    Args:
      weights: w_{t-1}, float32 [n], equal on all workers.
      direction: u_{t-1} of this worker, float32 [n]; zeros before the first step.
      residual: e_{t-1} of this worker, float32 [n], in units of parameters.
      learning_rate: eta, float32 scalar.

    Chen et al. 2020, arXiv 2010.13359.
    """
    return weights - (learning_rate * direction + residual)
