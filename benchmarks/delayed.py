"""Measures exchanges that travel while the next round of local steps is computed: the mean arrives one round late.

    python -m benchmarks.delayed --problem=nonlinear --output=results/local/delayed.jsonl
    python -m benchmarks.delayed --problem=ring --output=results/local/delayed.jsonl
    python -m benchmarks.delayed --report=results/local/delayed.jsonl

One round of K gradient steps on every worker m. Its packet c^m leaves at its end; the mean of c arrives at the end of
the next round. Until then a worker counts on what it knows, the share a of its own packet:

    x_0 = w - a (sbar + c^m) - e^m          c, s, sbar of the last round; w without the means under way
    for k = 1..K:  g = F(x_{k-1} - eta u_{k-1});  u_k = direction(g);  x_k = x_{k-1} - eta u_k
    p^m = e^m + sum_k eta u_k - s^m;   c^m = encode(p^m);   e^m <- p^m - decode(c^m)

`exact` does not wait: the mean is applied at the end of its own round, as in docs/algorithm.md. `own` is a = 1, `half`
a = 1/2 (the mixture of Streaming DiLoCo, arXiv 2501.18512), `late` is a = 0. A recorded run is not repeated. Nothing
here uses the product's exchange; the recurrence is numpy, and the games' fields and the GAN's networks are the
product's.
"""

import argparse
import functools
import itertools
import json
import math
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.provenance import command_line, provenance
from dqgan_tf.errors import UsageError
from dqgan_tf.telemetry import json_lines
from dqgan_tf.training import command

SHARES = {"exact": None, "own": 1.0, "half": 0.5, "late": 0.0}
_FIRST = ("exact", "own")
COMPRESSORS = ("float32", "sign", "top5%")
BUCKET = 512
NONLINEAR, RING = "nonlinear", "ring"
_STEPS = {NONLINEAR: 4096, RING: 4000}
_WORKERS = {NONLINEAR: 8, RING: 4}
_MARKS = 64
_SAMPLES = 4096
_LOST = 1e3  # a field beyond this many times that of the start: the run has diverged

_EXPLAINED = """\
Means over seeds, smallest and largest in brackets. `exact`: no delay. Until the mean of a round arrives, a replica
counts on its own packet (`own`), on half of it (`half`), or on nothing (`late`); equations: delayed_derivation.md.
Game: norm of the field over the last quarter of the run, with every mean applied. Ring: share of samples within .25
of a mode and number of modes, raw generator over the last quarter of the run, modes seed by seed; `ema`: the averaged
generator at the end. `python -m benchmarks.delayed --report=results/local/delayed.jsonl` makes this page."""


class Cell(NamedTuple):
    """One run. mean: a key of `SHARES`. shards: `homogeneous` or `heterogeneous` workers. shift: its learning rate."""

    problem: str
    shards: str
    direction: str
    local_steps: int
    compressor: str
    mean: str
    shift: float
    seed: int

    @property
    def name(self) -> str:
        return "/".join(map(str, self))


def cells(problem: str) -> list[Cell]:
    """All runs of a problem, seed by seed; on the ring, K = 8 at sign first."""
    if problem == RING:
        first = [("homogeneous", "adam", 8, "sign", mean, 0.0) for mean in SHARES]
        rest = [("homogeneous", "adam", *row, mean, 0.0) for row in ((8, "float32"), (32, "sign")) for mean in _FIRST]
        return [Cell(problem, *row, seed) for rows in (first, rest) for seed in range(3) for row in rows]
    rounds = list(itertools.product(("homogeneous", "heterogeneous"), ("sgd", "adam"), (1, 8, 32)))
    rows = [(*one, *of_row, 0.0) for one in rounds for of_row in itertools.product(COMPRESSORS, SHARES)]
    rows += [
        (*one, *of_row, 0.1)
        for one in rounds
        if one[0] == "heterogeneous"
        for of_row in itertools.product(COMPRESSORS, _FIRST)
    ]
    return [Cell(problem, *row, seed) for seed in range(3) for row in rows]


# --- the recurrence ---


class Round(NamedTuple):
    """After a round. w [n]: weights with all means applied, also those under way. z [n]: w - mean(e), the virtual
    iterate. starts [M, n]: x_0 of the round. moved [M, n]: sum of eta u. steps: gradient steps so far."""

    w: np.ndarray
    z: np.ndarray
    starts: np.ndarray
    moved: np.ndarray
    steps: int


def rounds(
    take_steps: Callable[[np.ndarray, int], np.ndarray],
    w0: np.ndarray,
    workers: int,
    quantize: Callable[[np.ndarray], np.ndarray],
    *,
    share: float | None,
    local_steps: int,
    steps: int,
    shift: float = 0.0,
) -> Iterator[Round]:
    """Yields the state after every round until `steps` gradient steps are done.

    Args:
      take_steps: (x_0 [M, n], count) -> sum of eta u [M, n] of `count` local steps from x_0.
      w0: weights at the start, [n].
      workers: M.
      quantize: decode(encode(.)) of every row, [M, n].
      share: a; None: the means do not wait.
      local_steps, steps, shift: K, gradient steps in all, learning rate of the shift.
    """
    w = w0.copy()
    residual, learned = np.zeros((workers, len(w))), np.zeros((workers, len(w)))
    mean_learned, under_way, own = np.zeros_like(w), np.zeros_like(w), np.zeros((workers, len(w)))
    for start in range(0, steps, local_steps):
        starts = w - (share or 0.0) * own - residual
        count = min(local_steps, steps - start)
        moved = take_steps(starts, count)
        part = count / local_steps  # of the shift, in a last round that is shorter
        update = residual + moved - part * learned
        decoded = quantize(update)
        residual = update - decoded
        arrives = part * mean_learned + decoded.mean(axis=0)
        own = part * mean_learned + decoded
        learned = learned + shift * decoded
        mean_learned = mean_learned + shift * decoded.mean(axis=0)
        if share is None:
            w = w - arrives
        else:
            w, under_way = w - under_way, arrives
        yield Round(w - under_way, w - under_way - residual.mean(axis=0), starts, moved, start + count)


def sign(rows: np.ndarray) -> np.ndarray:
    """sign(x) times the mean of |x| over a bucket, for each row of one player, [M, n]."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % BUCKET))).reshape(len(rows), -1, BUCKET)
    counts = np.minimum(BUCKET, rows.shape[1] - BUCKET * np.arange(padded.shape[1]))
    scales = np.abs(padded).sum(axis=2) / counts
    return np.copysign(np.repeat(scales, BUCKET, axis=1)[:, : rows.shape[1]], rows)


def top_5_percent(rows: np.ndarray) -> np.ndarray:
    """The twentieth of largest magnitude in each row of one player, [M, n]."""
    count = math.ceil(0.05 * rows.shape[1])
    chosen = np.argpartition(-np.abs(rows), count - 1, axis=1)[:, :count]
    kept = np.zeros_like(rows)
    np.put_along_axis(kept, chosen, np.take_along_axis(rows, chosen, axis=1), axis=1)
    return kept


def quantizer(name: str, sizes: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns decode(encode(.)) of rows that consist of players of these sizes."""
    one = {"float32": lambda rows: rows, "sign": sign, "top5%": top_5_percent}[name]
    cuts = np.cumsum(sizes)[:-1]
    return lambda rows: np.concatenate([one(part) for part in np.split(rows, cuts, axis=1)], axis=1)


# --- the nonlinear game ---


class GameSteps:
    """Local steps of every worker on a game of `benchmarks.games`, float64. The noise depends on seed and step alone.

    field: [M, n] -> [M, n], the workers' fields without noise.
    """

    def __init__(self, field, noise, rate, direction, workers, size, seed):
        self._field, self._noise, self._rate, self._direction = field, noise, rate, direction
        self._draw = np.random.default_rng([seed, 1])
        self._u, self._first, self._second = np.zeros((3, workers, size))
        self._t = 0

    def __call__(self, x: np.ndarray, count: int) -> np.ndarray:
        moved = np.zeros_like(x)
        for _ in range(count):
            point = x - moved - self._rate * self._u
            gradient = self._field(point) + self._noise * self._draw.standard_normal(x.shape)
            self._u = self._directed(gradient)
            moved = moved + self._rate * self._u
        return moved

    def _directed(self, gradient, beta_1=0.5, beta_2=0.9, epsilon=1e-8):
        if self._direction == "sgd":
            return gradient
        self._t += 1
        self._first = beta_1 * self._first + (1 - beta_1) * gradient
        self._second = beta_2 * self._second + (1 - beta_2) * gradient**2
        scale = np.sqrt(self._second / (1 - beta_2**self._t)) + epsilon
        return self._first / (1 - beta_1**self._t) / scale


def worker_field(instance) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the field of every worker of a `games.Instance`, [M, 2 d] -> [M, 2 d]."""
    d, game = instance.game.dimension, instance.game

    def field(points):
        x, y = points[:, :d], points[:, d:]
        own = game.sine * np.sin(3 * points) + game.mu * points + instance.constants
        return np.concatenate([y @ instance.matrix.T, -x @ instance.matrix], axis=1) + own

    return field


def run_game(cell: Cell) -> dict[str, Any]:
    """Returns `field`, the mean over the last quarter of the marks of |F(w)| / sqrt(2 d), null if the run diverged; and
    `spread`, the root mean square distance of the last starting points to their mean."""
    from benchmarks import games

    game, workers, steps = games.GAMES[cell.problem], _WORKERS[cell.problem], _STEPS[cell.problem]
    instance = games.Instance(game, cell.direction, workers, cell.shards, cell.seed)
    size = 2 * game.dimension
    rate = game.rates[cell.direction]
    take_steps = GameSteps(worker_field(instance), game.noise, rate, cell.direction, workers, size, cell.seed)
    norm = lambda w: float(np.linalg.norm(instance.field(w)) / math.sqrt(size))  # noqa: E731
    first, fields, spread = norm(instance.start), [], math.nan
    with np.errstate(over="ignore", invalid="ignore"):
        for state in _rounds_of(cell, take_steps, instance.start, [game.dimension] * 2):
            if not np.all(np.abs(state.w) < 1e9):
                return {"field": None, "spread": None, "steps": state.steps}
            if state.steps % (steps // _MARKS) == 0:
                fields.append(norm(state.w))
            spread = spread_of(state.starts)
    end = statistics.mean(fields[-_MARKS // 4 :])
    return {"field": end if end < _LOST * first else None, "spread": spread, "steps": steps}


def spread_of(starts: np.ndarray) -> float:
    """Root mean square over workers of the distance to the mean, [M, n]."""
    return float(np.sqrt(np.mean(np.sum((starts - starts.mean(axis=0)) ** 2, axis=1))))


def _rounds_of(cell, take_steps, w0, sizes):
    return rounds(
        take_steps,
        w0,
        _WORKERS[cell.problem],
        quantizer(cell.compressor, sizes),
        share=SHARES[cell.mean],
        local_steps=cell.local_steps,
        steps=_STEPS[cell.problem],
        shift=cell.shift,
    )


# --- the GAN on the ring ---


class RingSteps:
    """Local Adam steps of every worker of a GAN on the ring of Gaussians, all workers in one compiled function.

    Networks and their first weights are those of the product's `mlp`; non-saturating loss with R1, .1; rate 1e-3.

    first: weights of both players, [n]. sizes: values of each player.
    """

    def __init__(self, workers: int, seed: int, batch: int = 64, rate: float = 1e-3):
        import tensorflow as tf

        from dqgan_tf.config import NetworkConfig
        from dqgan_tf.data import mixtures
        from dqgan_tf.gan import networks

        players = networks.build(NetworkConfig(), (2,), seed)
        weights = [network.trainable_variables for network in (players.generator, players.discriminator)]
        self._shapes = [[tuple(weight.shape) for weight in own] for own in weights]
        self.sizes = [sum(math.prod(shape) for shape in own) for own in self._shapes]
        self.first = np.concatenate([weight.numpy().ravel() for own in weights for weight in own]).astype(np.float64)
        self._latent_dim, self._workers, self._batch = players.latent_dim, workers, batch
        self._spec, self._rate, self._seed = mixtures.describe("gaussian_ring"), rate, seed
        self._state = [tf.zeros([workers, len(self.first)]) for _ in range(3)]  # u, first and second moment
        self._t = 0
        self._compiled = tf.function(self._take, jit_compile=True, autograph=False)

    def __call__(self, x: np.ndarray, count: int) -> np.ndarray:
        import tensorflow as tf

        moved, *self._state = self._compiled(
            tf.constant(x, tf.float32), *self._state, tf.constant(self._t), tf.constant(count)
        )
        self._t += count
        return moved.numpy().astype(np.float64)

    def generate(self, x, latent):
        """Returns samples [M, B, 2] of generators x [M, n], of latents [M, B, l]."""
        import tensorflow as tf

        return self._network(x[:, : self.sizes[0]], self._shapes[0], latent, tf.nn.relu)

    def judge(self, x, samples):
        """Returns logits [M, B] of discriminators x [M, n]."""
        import tensorflow as tf

        leaky = lambda value: tf.nn.leaky_relu(value, 0.2)  # noqa: E731
        return self._network(x[:, self.sizes[0] :], self._shapes[1], samples, leaky)[..., 0]

    def quality(self, w: np.ndarray) -> dict[str, float]:
        """Returns the share of samples within the wide radius of a mode, and the modes with a twentieth of their due
        share or more, of the generator in w [n]."""
        import tensorflow as tf

        latent = tf.random.stateless_normal([1, _SAMPLES, self._latent_dim], [7, self._seed])
        samples = self.generate(tf.constant(w[None], tf.float32), latent).numpy()[0]
        distances = np.linalg.norm(samples[:, None] - self._spec.modes[None], axis=2)
        near = distances.min(axis=1) <= self._spec.high_quality_radius
        counts = np.bincount(distances.argmin(axis=1)[near], minlength=len(self._spec.modes))
        modes = int(np.sum(counts >= 0.05 * _SAMPLES / len(counts)))
        return {"share": float(near.mean()), "modes": modes}

    @staticmethod
    def _network(flat, shapes, value, activation):
        """A perceptron for every worker: weights [M, n], inputs [M, B, i]."""
        import tensorflow as tf

        parts = tf.split(flat, [math.prod(shape) for shape in shapes], axis=1)
        kernels, biases = parts[::2], parts[1::2]
        for index, (kernel, bias, shape) in enumerate(zip(kernels, biases, shapes[::2], strict=True)):
            value = value @ tf.reshape(kernel, [-1, *shape]) + bias[:, None]
            value = activation(value) if index < len(kernels) - 1 else value
        return value

    def _take(self, x, u, first, second, t, count):
        import tensorflow as tf

        def body(k, moved, u, first, second):
            step = tf.cast(t + k + 1, tf.float32)
            gradient = self._gradient(x - moved - self._rate * u, t + k)
            first = 0.5 * first + 0.5 * gradient
            second = 0.9 * second + 0.1 * gradient**2
            u = first / (1 - 0.5**step) / (tf.sqrt(second / (1 - 0.9**step)) + 1e-8)
            return k + 1, moved + self._rate * u, u, first, second

        loop = (tf.constant(0), tf.zeros_like(x), u, first, second)
        return tf.while_loop(lambda k, *_: k < count, body, loop)[1:]

    def _gradient(self, x, step):
        import tensorflow as tf

        seeds = [tf.stack([self._seed * 4 + stream, step]) for stream in range(3)]
        shape = [self._workers, self._batch]
        modes = tf.random.stateless_uniform(shape, seeds[0], maxval=len(self._spec.modes), dtype=tf.int32)
        noise = tf.random.stateless_normal([*shape, 2], seeds[1])
        real = tf.gather(tf.constant(self._spec.modes), modes) + self._spec.standard_deviation * noise
        latent = tf.random.stateless_normal([*shape, self._latent_dim], seeds[2])
        per_worker = lambda value: tf.reduce_sum(tf.reduce_mean(value, axis=1))  # noqa: E731
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            fake = self.generate(x, latent)
            with tf.GradientTape() as inner:
                inner.watch(real)
                real_logits = self.judge(x, real)
            slopes = inner.gradient(real_logits, real)
            fake_logits = self.judge(x, fake)
            penalty = 0.05 * per_worker(tf.reduce_sum(slopes**2, axis=2))
            of_discriminator = per_worker(tf.nn.softplus(-real_logits)) + per_worker(tf.nn.softplus(fake_logits))
            of_generator = per_worker(tf.nn.softplus(-fake_logits))
            of_discriminator += penalty
        by_player = [tape.gradient(loss, x) for loss in (of_generator, of_discriminator)]
        return tf.concat([by_player[0][:, : self.sizes[0]], by_player[1][:, self.sizes[0] :]], axis=1)


def run_ring(cell: Cell) -> dict[str, Any]:
    """Returns `share` and `modes` of the raw generator, means over the last quarter of the marks; `ema_share` and
    `ema_modes` of the averaged generator at the end; `spread`."""
    take_steps = RingSteps(_WORKERS[cell.problem], cell.seed)
    steps, judged, average, spread = _STEPS[cell.problem], [], take_steps.first, 0.0
    for state in _rounds_of(cell, take_steps, take_steps.first, take_steps.sizes):
        if not np.all(np.isfinite(state.w)):
            return {"share": None, "modes": None, "ema_share": None, "spread": None, "steps": state.steps}
        decay = 0.99**cell.local_steps
        average = decay * average + (1 - decay) * state.w
        if state.steps * 16 // steps > (state.steps - cell.local_steps) * 16 // steps:
            judged.append(take_steps.quality(state.w))
        spread = spread_of(state.starts)
    last = judged[-len(judged) // 4 :]
    figures = {name: statistics.mean(one[name] for one in last) for name in ("share", "modes")}
    averaged = {f"ema_{name}": value for name, value in take_steps.quality(average).items()}
    return figures | averaged | {"spread": spread, "steps": steps}


# --- the file and its tables ---


def run(problem: str, path: str | os.PathLike, tell: Callable[[str], None] = print, seconds: int = 0) -> None:
    """Runs the cells of a problem that the file does not hold."""
    path, started = pathlib.Path(path), time.monotonic()
    path.parent.mkdir(parents=True, exist_ok=True)
    recorded = {row["cell"] for row in json_lines.read(path)}
    missing = [cell for cell in cells(problem) if cell.name not in recorded]
    tell(f"{problem}: {len(missing)} runs are missing in {path}.")
    execute = run_ring if problem == RING else run_game
    for cell in missing:
        row = execute(cell)
        source = provenance(command_line("benchmarks.delayed"), threads=1, seeds=[cell.seed])
        with json_lines.JsonLinesWriter(path, resume_step=None) as writer:
            writer.write(row.pop("steps"), {"cell": cell.name, **cell._asdict(), **row, **source})
        tell(f"{cell.name}: {json.dumps(row)}")
        if seconds and time.monotonic() - started > seconds:
            tell("Stopped by --seconds; the same command continues.")
            return


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the tables of the recorded runs: means over seeds, smallest and largest in brackets."""
    from benchmarks.report import markdown

    parts = ["# An exchange that arrives one round late", _EXPLAINED]
    for problem in dict.fromkeys(row["problem"] for row in rows):
        own = [row for row in rows if row["problem"] == problem]
        cell = _ring_text if problem == RING else _field_text
        lines = []
        keys = ("shards", "direction", "shift", "local_steps", "compressor")
        for key in sorted({tuple(row[name] for name in keys) for row in own}, key=_order):
            of_key = [row for row in own if tuple(row[name] for name in keys) == key]
            means = [[row for row in of_key if row["mean"] == mean] for mean in SHARES]
            seeds = len({row["seed"] for row in of_key})
            lines.append([*map(str, key), str(seeds), *(_counted(cell, runs, seeds) for runs in means)])
        header = ["workers", "direction", "shift", "K", "compressor", "seeds", *SHARES]
        title = {NONLINEAR: "nonlinear game, M = 8, norm of the field", RING: "GAN on the ring, M = 4"}[problem]
        commits = ", ".join(sorted({row["commit"] for row in own}))
        hardware = "; ".join(sorted({row["hardware"] for row in own}))
        commands = f"`python -m benchmarks.delayed --problem={problem} --output=FILE`"
        source = f"{commands}; {own[0]['step']} gradient steps; {hardware}; commit {commits}."
        parts += [f"## {title}", markdown(header, lines), source]
    return "\n\n".join(parts) + "\n"


def _counted(cell, runs, seeds):
    missing = f"; {len(runs)} seeds" if 0 < len(runs) < seeds else ""
    return cell(runs) + missing if runs else ""


def _order(key):
    shards, direction, shift, local_steps, compressor = key
    return shards != "homogeneous", direction != "sgd", shift, local_steps, COMPRESSORS.index(compressor)


def _field_text(runs):
    fields = [row["field"] for row in runs]
    if None in fields:
        return f"diverges ({fields.count(None)} of {len(fields)})"
    return f"{statistics.mean(fields):.4f} ({min(fields):.4f} to {max(fields):.4f})"


def _ring_text(runs):
    if any(row["share"] is None for row in runs):
        return "diverges"
    shares = [row["share"] for row in runs]
    modes = " ".join(f"{row['modes']:g}" for row in runs)
    averaged = statistics.mean(row["ema_share"] for row in runs)
    return f"{statistics.mean(shares):.3f} ({min(shares):.3f} to {max(shares):.3f}), {modes} modes; ema {averaged:.3f}"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", choices=[NONLINEAR, RING], help="run the cells of it that the file does not hold")
    parser.add_argument("--output", help="file of the runs, JSON lines")
    parser.add_argument("--report", help="run nothing: print the tables of this file")
    parser.add_argument("--seconds", type=int, default=0, help="stop after the run that ends after so many; 0: never")
    return parser


def main(arguments: argparse.Namespace) -> None:
    if arguments.report:
        if not (rows := json_lines.read(arguments.report)):
            raise UsageError(
                f"--report must name a file of recorded runs, such as results/local/delayed.jsonl. Received: "
                f"{arguments.report}"
            )
        print(table(rows), end="")
    elif arguments.problem and arguments.output:
        tell = functools.partial(print, flush=True)
        run(arguments.problem, arguments.output, tell, arguments.seconds)
    else:
        raise UsageError("Name --problem and --output, such as --problem=nonlinear --output=runs/delayed.jsonl")


if __name__ == "__main__":
    command.run_parsed(main, make_parser())
