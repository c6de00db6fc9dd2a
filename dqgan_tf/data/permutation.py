"""Which sample stands where: one keyed permutation of the data per epoch, evaluated at single positions.

The position of sample j of replica r in step t is p = (t num_replicas + r) batch_size + j. It lies in epoch p // n, and
the sample there is permutation_(seed, epoch)(p mod n). Nothing is stored: the permutation is a cipher on the numbers
below n (`RandomIndexShuffle`: Simon, Beaulieu et al. 2013, eprint 2013/404).
"""

import tensorflow as tf

ROUNDS = 8  # With the op's usual 4, neighbouring positions and successive epochs are correlated (.07); from 8 on, not.


def indices(
    num_examples: int, batch_size: int, num_replicas: int, seed: int, step: tf.Tensor, replica: tf.Tensor
) -> tf.Tensor:
    """Returns the samples of one batch, i64 [batch_size] in [0, num_examples); `step` and `replica` are i64 []."""
    first = (step * num_replicas + replica) * batch_size
    positions = first + tf.range(batch_size, dtype=tf.int64)
    epochs = positions // num_examples
    keys = tf.gather(_epoch_keys(num_examples, batch_size, seed, epochs[0]), epochs - epochs[0])
    # tf.random.experimental.index_shuffle is this op, but pads a seed per index wrongly (TensorFlow 2.21).
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % num_examples,
        seed=keys,
        max_index=tf.constant(num_examples - 1, tf.int64),
        rounds=ROUNDS,
    )


def _epoch_keys(num_examples, batch_size, seed, first_epoch):
    """Returns one key per epoch that a batch can touch, uint32 [epochs, 3].

    The op's permutations for keys that differ by 1 are correlated (.7), so that a key is drawn, not counted.
    """
    touched = (batch_size - 1 + num_examples - 1) // num_examples + 1
    return tf.stack([_epoch_key(seed, first_epoch + offset) for offset in range(touched)])


def _epoch_key(seed, epoch):
    return tf.random.stateless_uniform(
        [3], tf.stack([tf.constant(seed, tf.int64), epoch]), minval=None, maxval=None, dtype=tf.uint32
    )
