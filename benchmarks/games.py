"""Games whose field is known, as GANs: DQGAN's whole step, error feedback and exchange, without a network to train.

    F(x, y) = (A y + c sin 3x + mu x + s n + b,  -A'x + c sin 3y + mu y + s n' + b'),   x, y in R^d

x are the generator's weights and y the discriminator's; A has entries N(0, 1/d); n, n' are standard normal, drawn anew
for every step and replica. The constants (b, b') are the replica's own, with mean 0 over the replicas. mean_m F^m is
thus the same for `homogeneous` replicas, b = 0, and `heterogeneous` ones, b ~ N(0, 1).

As a GAN with the latent (n, n'):

    G(n, n')   = (x, -(s n' + b'), <s n + b, x> + h(x))     h' = c sin 3x + mu x
    D(u, v, k) = <u, A y> + <v, y> + k - h(y);   G minimises D(G), D minimises -D(G)
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import cells
from dqgan_tf import config as config_lib
from dqgan_tf.distribute.strategy import CompressedStrategy
from dqgan_tf.gan import losses
from dqgan_tf.gan.model import DQGAN

SHARDS = ("homogeneous", "heterogeneous")
_LOST = 1e3  # a field beyond this many times that of the start: the run has diverged


@dataclasses.dataclass(frozen=True)
class Game:
    """A field, its start and the length of its runs.

    dimension: d, number of weights of each player. sine: c. mu: mu. noise: s. start: standard deviation of the first
    weights. steps: T. rates: learning rate of both players by direction, `sgd` and `adam`. matrix_scale: standard
    deviation of A's entries times sqrt(d).
    """

    dimension: int
    sine: float
    mu: float
    noise: float
    start: dict[str, float]
    steps: int
    rates: dict[str, float]


_RATES, _FAR = {"sgd": 0.02, "adam": 0.005}, {"sgd": 1.0, "adam": 1.0}
# Far away sin 3x no longer pulls, so an update that is late or lost shows. Adam's steps have one size: from 1 it does
# not arrive within T steps, even in float32.
_NONLINEAR = {"sgd": 1.0, "adam": 0.5}
GAMES = {
    # Near a zero the Jacobian is about .6 I + B.
    "nonlinear": Game(100, 0.2, 0.0, 0.5, _NONLINEAR, 2048, _RATES),
    # Near from the start, where the error is the noise's alone: from a distance of 1 one worker may not arrive.
    "nonlinear_near": Game(100, 0.2, 0.0, 0.5, {"sgd": 0.25, "adam": 0.25}, 1024, _RATES),
    # With 64 local steps, 2048 steps are 32 exchanges: too few for what residuals still owe from the start.
    "nonlinear_long": Game(100, 0.2, 0.0, 0.5, _NONLINEAR, 8192, _RATES),
    "nonlinear_noise_free": Game(100, 0.2, 0.0, 0.0, _NONLINEAR, 2048, _RATES),
    "affine": Game(100, 0.0, 0.1, 0.5, _FAR, 2048, _RATES),
    # min_x max_y x'Ay: nothing but the half step pulls it together.
    "bilinear_noise_free": Game(20, 0.0, 0.0, 0.0, _FAR, 4096, {"sgd": 0.1, "adam": 0.005}),
}


class Instance:
    """A game with its matrix, start and constants, drawn from a seed; numpy float64. `direction` chooses the start.

    matrix: A, [d, d]. start: w_0 = (x, y), [2 d]. constants: (b, b') of every replica, [M, 2 d].
    """

    def __init__(self, game: Game, direction: str, workers: int, shards: str, seed: int):
        draw = np.random.default_rng([seed, game.dimension])
        d = game.dimension
        self.game = game
        self.matrix = draw.standard_normal((d, d)) / np.sqrt(d)
        self.start = game.start[direction] * draw.standard_normal(2 * d)
        constants = draw.standard_normal((workers, 2 * d)) * (shards == "heterogeneous")
        self.constants = constants - constants.mean(axis=0)

    def field(self, weights: np.ndarray) -> np.ndarray:
        """Returns E F(w) of the mean over replicas, [2 d]."""
        x, y = np.split(np.asarray(weights, np.float64), 2)
        own = self.game.sine * np.sin(3 * np.concatenate([x, y])) + self.game.mu * np.concatenate([x, y])
        return np.concatenate([self.matrix @ y, -self.matrix.T @ x]) + own


class _Strategies(keras.layers.Layer):
    """The weights of one player, [d]; see the equations of the module. `is_generator` chooses G or D."""

    def __init__(self, instance, is_generator):
        super().__init__()
        d = instance.game.dimension
        self._game, self._is_generator = instance.game, is_generator
        self._start = instance.start[:d] if is_generator else instance.start[d:]
        self._matrix, self._constants = (np.float32(value) for value in (instance.matrix, instance.constants))

    def build(self, shape):
        del shape
        self._own = self.add_weight(
            shape=self._start.shape, initializer=lambda shape, dtype: tf.constant(self._start, dtype), name="strategy"
        )

    def call(self, inputs, training=None):
        del training
        own, d = tf.convert_to_tensor(self._own), self._game.dimension
        potential = tf.reduce_sum(self._game.sine / 3 * (1 - tf.cos(3 * own)) + self._game.mu / 2 * own * own)
        if not self._is_generator:
            value = tf.reduce_sum(inputs[:, :d] * tf.linalg.matvec(self._matrix, own), 1)
            return (value + tf.linalg.matvec(inputs[:, d:-1], own) + inputs[:, -1] - potential)[:, None]
        replica = tf.distribute.get_replica_context()
        constants = tf.constant(self._constants)[0 if replica is None else replica.replica_id_in_sync_group]
        drift = self._game.noise * inputs + constants
        constant = tf.linalg.matvec(drift[:, :d], own) + potential
        return tf.concat([tf.ones_like(drift[:, :d]) * own, -drift[:, d:], constant[:, None]], 1)


_ZERO_SUM = losses.Loss(
    "zero_sum",
    generator=tf.reduce_mean,
    discriminator=lambda real, fake: -tf.reduce_mean(fake),
    penalty=losses.no_penalty,
)


def build(instance: Instance, settings: config_lib.RunConfig, strategy: CompressedStrategy) -> DQGAN:
    """Returns the compiled model of a game; optimizer, compression and seed are those of the settings."""
    d = instance.game.dimension
    with strategy.scope():
        generator = keras.Sequential([keras.Input((2 * d,)), _Strategies(instance, is_generator=True)])
        discriminator = keras.Sequential([keras.Input((2 * d + 1,)), _Strategies(instance, is_generator=False)])
        model = DQGAN(generator, discriminator, loss=_ZERO_SUM, seed=settings.train.seed)
    model.compile(settings.optimizer, settings.compression)
    return model


def weights(model: DQGAN) -> np.ndarray:
    """Returns w = (x, y), [2 d]."""
    players = (model.generator, model.discriminator)
    return np.concatenate([model.local_value(player.trainable_variables[0]).numpy() for player in players])


def batches(instance: Instance, strategy: CompressedStrategy) -> Any:
    """Returns the strategy's iterator of the data that `train` takes: zeros, since a game has none."""
    data = tf.data.Dataset.from_tensors(np.zeros((1, 2 * instance.game.dimension + 1), np.float32)).repeat()
    return iter(strategy.distribute_datasets_from_function(lambda context: data))


def train(
    instance: Instance,
    settings: config_lib.RunConfig,
    strategy: CompressedStrategy,
    iterator: Any,
    marks: int,
    tell: Callable,
) -> dict:
    """Trains on the batches of `iterator`; returns the figures of the run.

    Returns:
      field: mean over the marks of the last quarter of |F(w)| / sqrt(2 d), or infinity for a run that diverged.
      norm: |w| at the end. spread: `cells.spread` since the mark before the last.
      curve: lists step, field, seconds (without the first call, which compiles).
      sent_bytes_per_step, steps.
    """
    model = build(instance, settings, strategy)
    steps, curve = settings.train.steps, {"step": [], "field": [], "seconds": []}
    root, seconds = np.sqrt(2 * instance.game.dimension), 0.0
    first = np.linalg.norm(instance.field(instance.start)) / root
    done = 0
    for mark in range(1, marks + 1):
        count = steps * mark // marks - done
        started = time.perf_counter()
        model.train_steps(iterator, count)
        seconds += (time.perf_counter() - started) * (mark > 1)
        done += count
        w = weights(model)
        field = float(np.linalg.norm(instance.field(w)) / root)
        spread = cells.spread(model)
        for name, value in (("step", done), ("field", field), ("seconds", round(seconds, 3))):
            curve[name].append(value)
        tell(done, steps)
        if not field < _LOST * first or int(model.local_value(model.skipped)):
            field = float("inf")
            break
    else:
        field = float(np.mean(curve["field"][-max(1, marks // 4) :]))
    return {
        "field": field,
        "norm": float(np.linalg.norm(w)),
        "steps": done,
        "spread": spread,
        "sent_bytes_per_step": model.bytes_per_step(range(1, done + 1))["sent_bytes"],
        "curve": curve,
    }
