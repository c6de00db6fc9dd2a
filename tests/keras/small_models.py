"""Small models, their data, and their state on every replica as arrays."""

import keras
import numpy as np
import tensorflow as tf

INPUTS, HIDDEN, OUTPUTS = 4, 6, 2
SHAPES = ((INPUTS, HIDDEN), (HIDDEN,), (HIDDEN, OUTPUTS), (OUTPUTS,))  # 44 weights: two buckets of 32


def mlp(strategy, optimizer, *, layers=(), seed=3, **compile_options):
    """Returns a compiled 4-6-2 network with tanh; `optimizer` is a function without arguments."""
    keras.utils.set_random_seed(seed)
    with strategy.scope():
        # Zero biases would leave their first updates to chance: the sign of a rounding error.
        bias = {"bias_initializer": keras.initializers.RandomNormal(stddev=0.3)}
        hidden = keras.layers.Dense(HIDDEN, "tanh", **bias)
        model = keras.Sequential([keras.Input((INPUTS,)), hidden, *layers, keras.layers.Dense(OUTPUTS, **bias)])
        model.compile(optimizer(), **({"loss": "mse"} | compile_options))
    return model


def batches(steps, replicas, rows=8, seed=0):
    """float32 x [T, M rows, 4] and y [T, M rows, 2]: every replica's share has a mean of its own."""
    random = np.random.default_rng(seed)
    shift = np.repeat(random.standard_normal((replicas, 1)), rows, 0)
    x = random.standard_normal((steps, replicas * rows, INPUTS)) + shift
    y = np.sin(2 * x[..., :OUTPUTS]) + 0.5 * shift
    return x.astype(np.float32), y.astype(np.float32)


def dataset(x, y):
    """Element t is (x[t], y[t])."""
    return tf.data.Dataset.from_tensor_slices((x, y))


def gradient(x, y, replicas):
    """F(w, t, replica), float64 [44]: the gradient of the mean squared error on the replica's share of batch t."""

    def of(w, t, replica):
        rows = x.shape[1] // replicas
        share = slice(replica * rows, (replica + 1) * rows)
        inputs, targets = x[t - 1, share].astype(np.float64), y[t - 1, share].astype(np.float64)
        a, b, c, d = split(w)
        hidden = np.tanh(inputs @ a + b)
        slope = 2 * (hidden @ c + d - targets) / targets.size
        back = (slope @ c.T) * (1 - hidden**2)
        return np.concatenate([v.ravel() for v in (inputs.T @ back, back.sum(0), hidden.T @ slope, slope.sum(0))])

    return of


def split(w):
    """[44] -> the four weights."""
    parts = np.split(w, np.cumsum([np.prod(shape) for shape in SHAPES])[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True)]


def values(strategy, variables):
    """Every local replica's variables as one flat vector, [M, n]."""
    local = [strategy.experimental_local_results(variable.value) for variable in variables]
    return np.array([np.concatenate([np.ravel(v[m]) for v in local]) for m in range(len(strategy.local_devices))])


def residuals(optimizer, replicas):
    """Every local replica's residuals of the optimizer's only channel, [M, n]; zeros where nothing is kept."""
    (channel,) = optimizer.compression.channels.values()
    rows = []
    for replica in range(replicas):
        per_weight = zip(channel.residuals(replica), channel.vectors[0].sizes, strict=True)
        rows.append(np.concatenate([np.zeros(n) if e is None else np.ravel(e) for e, n in per_weight]))
    return np.array(rows)


class Recorder(keras.callbacks.Callback):
    """Calls `look()` after every batch and keeps what it returns."""

    def __init__(self, look):
        super().__init__()
        self._look, self.seen = look, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self._look())
