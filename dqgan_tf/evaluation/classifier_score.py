"""Classifier score: the Inception score (IS) when the classifier is Inception.

Salimans et al. 2016, arXiv:1606.03498, sec. 4.
"""

import numpy as np


def classifier_score(logits, num_splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL divergence between each image's classes and the classes of its split.

    ```
    log p_i = log_softmax(logits_i);   q = mean_{i in split} p_i
    score(split) = exp( mean_{i in split} sum_c p_ic (log p_ic - log q_c) )
    ```

    Splits are consecutive: split s holds rows s n // splits to (s + 1) n // splits. All in float64.

    Args:
      logits: float [n, classes], n >= num_splits. Images should come in random order of class.
      num_splits: the convention is 10.

    Returns:
      (mean, population standard deviation) over the splits; a score is 1 to the number of classes.

    Raises:
      ValueError: another shape, num_splits < 1, or fewer rows than splits.
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or not logits.shape[1]:
        raise ValueError(f"`logits` must be [n, classes]. Received: shape={logits.shape}")
    if not 1 <= num_splits <= len(logits):
        raise ValueError(
            f"`num_splits` must be at least 1 and at most the rows there are ({len(logits)}). "
            f"Received: num_splits={num_splits}"
        )
    log_p = _log_softmax(logits)
    bounds = [split * len(logits) // num_splits for split in range(num_splits + 1)]
    scores = [_score(log_p[start:end]) for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
    return float(np.mean(scores)), float(np.std(scores))


def _log_softmax(logits):
    shifted = logits - np.max(logits, axis=1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True))


def _score(log_p):
    highest = np.max(log_p, axis=0)
    # In logs throughout: a class no image has any weight in would be 0 * log 0.
    log_q = highest + np.log(np.mean(np.exp(log_p - highest), axis=0))
    return np.exp(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1)))
