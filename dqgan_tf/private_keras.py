"""All undocumented methods and attributes of Keras that this project overrides or sets.

All were checked with Keras 3.15.1. `make test-next` prints which of them a newer Keras has moved. tests/test_layers.py
forbids imports of `keras.src` everywhere.
"""

import keras


def flat_layers(network: keras.Model) -> list[keras.Layer]:
    """Returns the network and every layer in it, nested ones too, by `Layer._flatten_layers`.

    Replacement: a public list of nested layers; `Model.layers` holds the outermost ones alone.
    """
    return list(network._flatten_layers())


class LoopModel(keras.Model):
    """A `keras.Model` whose `fit` and `evaluate` call `train_on` and `test_on`, several steps at a time.

    Overridden: `make_train_function`, `make_test_function` and `_maybe_symbolic_build`. Set: `train_function` and
    `test_function`, which `compile` resets to None. Replacement: a documented hook for a call of several steps. Keras'
    own loop, which calls `train_step`, reduces scalar logs over axis 0 and fails with several workers.
    """

    def train_on(self, iterator) -> dict:
        """Takes up to `steps_per_execution` steps and returns logs. Raises `StopIteration` if the data have ended."""
        raise NotImplementedError

    def test_on(self, iterator) -> dict:
        """As `train_on`, for an evaluation."""
        raise NotImplementedError

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            self.train_function = self.train_on

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            self.test_function = self.test_on

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # The networks are built already. Keras' symbolic build fails on per-replica values.
        del iterator, data_batch
