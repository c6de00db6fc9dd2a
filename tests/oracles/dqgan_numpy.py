"""What an M-worker DQGAN computes, in float64, one worker after another: the judge of the real system.

Arrays of workers are [M, n]. A player is a name and a size; the flat vector w [n] is the players in order. A gradient
is any function F(w, step, worker) -> [n], steps counted from 1. A compressor is any function Q(x, player) -> decoded.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

Gradient = Callable[[np.ndarray, int, int], np.ndarray]
Quantizer = Callable[[np.ndarray, str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Piece:
    """What is compressed as one vector: w[start:stop] of `player`; `owner` averages it in the two-step exchange."""

    player: str
    start: int
    stop: int
    owner: int = 0

    @property
    def slice(self):
        return slice(self.start, self.stop)


@dataclasses.dataclass(frozen=True)
class Adam:
    """u = (m / (1-b1^t)) / (sqrt(V) + eps). second_moment: `local`, `averaged` or `guarded`; period K >= 1."""

    beta_1: float = 0.5
    beta_2: float = 0.9
    epsilon: float = 1e-8
    second_moment: str = "local"
    period: int = 100


@dataclasses.dataclass(frozen=True)
class Settings:
    """One run. eta: [n] or a function step -> [n]; adam None: u = g; two_step: the exchange by shard owners.

    mean_quantizer: of the owners' mean, None for `quantizer`. fold False is the form that fails: the owner keeps a
    residual of its own and no half step contains it.
    """

    pieces: tuple[Piece, ...]
    eta: np.ndarray | Callable[[int], np.ndarray]
    quantizer: Quantizer
    adam: Adam | None = None
    half_step: bool = True
    error_feedback: bool = True
    residual_in_half_step: bool = True
    two_step: bool = False
    fold: bool = True
    mean_quantizer: Quantizer | None = None


@dataclasses.dataclass(frozen=True)
class State:
    """After step t. [n]: w, q (what was subtracted), owner_residual (0 unless `fold` is False). [M, n]: all else.

    residual e_t, gradient g_t, direction u_t, first m_t, second v_t, averaged (the last exact mean of v/(1-b2^t)),
    scale (V used in u_t), half (w_half_t), update p_t, decoded Q(p_t).
    """

    t: int
    w: np.ndarray
    residual: np.ndarray
    gradient: np.ndarray
    direction: np.ndarray
    first: np.ndarray
    second: np.ndarray
    averaged: np.ndarray
    scale: np.ndarray
    half: np.ndarray
    update: np.ndarray
    decoded: np.ndarray
    q: np.ndarray
    owner_residual: np.ndarray


def start(w0, workers) -> State:
    """State 0: weights w0 [n], everything else 0."""
    w0 = np.array(w0, np.float64)
    zeros = np.zeros((workers, len(w0)))
    per_worker = [f.name for f in dataclasses.fields(State) if f.name not in ("t", "w", "q", "owner_residual")]
    return State(t=0, w=w0, q=zeros[0], owner_residual=zeros[0], **dict.fromkeys(per_worker, zeros))


def players(*sizes: tuple[str, int]) -> tuple[Piece, ...]:
    """One piece a player: `players(("g", 3), ("d", 2))`."""
    stops = np.cumsum([size for _, size in sizes])
    return tuple(Piece(name, int(stop) - size, int(stop)) for (name, size), stop in zip(sizes, stops, strict=True))


def shards(pieces, workers) -> tuple[Piece, ...]:
    """Each piece cut into `workers` almost equal parts, part k owned by worker k."""
    cut = []
    for piece in pieces:
        edges = np.linspace(piece.start, piece.stop, workers + 1).round().astype(int)
        cut += [Piece(piece.player, int(edges[k]), int(edges[k + 1]), k) for k in range(workers)]
    return tuple(cut)


def dealt(pieces, bucket, workers) -> tuple[Piece, ...]:
    """Each piece cut into buckets, which are dealt out to the workers in turn."""
    return tuple(
        Piece(piece.player, start, min(start + bucket, piece.stop), index % workers)
        for piece in pieces
        for index, start in enumerate(range(piece.start, piece.stop, bucket))
    )


def run(game: Gradient, w0, workers: int, settings: Settings, steps: int) -> Iterator[State]:
    """Yields the state after every step 1..steps."""
    state = start(w0, workers)
    for _ in range(steps):
        state = step(game, state, settings)
        yield state


def step(game: Gradient, state: State, settings: Settings) -> State:
    """One step of section 2, with section 3's direction when `settings.adam` is given."""
    t, workers = state.t + 1, len(state.residual)
    eta = settings.eta(t) if callable(settings.eta) else settings.eta
    half = half_point(state, eta, settings)
    gradient = np.stack([game(half[m], t, m) for m in range(workers)])
    state = dataclasses.replace(state, t=t, half=half, gradient=gradient)
    state = sgd_direction(state) if settings.adam is None else adam_direction(state, settings.adam)
    state = dataclasses.replace(state, update=eta * state.direction + state.residual)
    return exchange(state, settings)


def half_point(state, eta, settings):
    """w_half^m = w - (eta u_prev^m + e^m) [M, n]; w itself without the half step."""
    offset = eta * state.direction
    if settings.residual_in_half_step:
        offset = offset + state.residual
    return state.w - offset if settings.half_step else np.tile(state.w, (len(offset), 1))


def sgd_direction(state):
    """u = g."""
    return dataclasses.replace(state, direction=state.gradient)


def adam_direction(state, adam):
    """Moments per worker, then u = m-hat / (sqrt(V) + eps)."""
    g, t = state.gradient, state.t
    first = adam.beta_1 * state.first + (1 - adam.beta_1) * g
    second = adam.beta_2 * state.second + (1 - adam.beta_2) * g**2
    own = second / (1 - adam.beta_2**t)
    averaged = np.tile(own.mean(axis=0), (len(g), 1)) if averages_at(t, adam.period) else state.averaged
    scale = {"local": own, "averaged": averaged, "guarded": np.maximum(averaged, own)}[adam.second_moment]
    direction = first / (1 - adam.beta_1**t) / (np.sqrt(scale) + adam.epsilon)
    return dataclasses.replace(state, first=first, second=second, averaged=averaged, scale=scale, direction=direction)


def averages_at(t, period):
    """True at t = 1, 2, 4, ..., 64 and at every multiple of the period."""
    return t in (1, 2, 4, 8, 16, 32, 64) or t % period == 0


def exchange(state, settings):
    """decoded^m = Q(p^m); e^m = p^m - decoded^m; w = w - mean decoded. The two-step form re-encodes that mean.

    There, with e folded, the owner of a piece decodes nothing of its own: decoded[owner] is p itself.
    """
    decoded = np.stack([quantize_pieces(p, settings) for p in state.update])
    if settings.two_step and settings.fold and settings.error_feedback:
        decoded = keep_own(decoded, state.update, settings.pieces)
    mean = decoded.mean(axis=0) + state.owner_residual
    q = quantize_mean(mean, settings) if settings.two_step else mean
    state = dataclasses.replace(state, w=state.w - q, q=q, decoded=decoded)
    return remember(state, mean - q, settings) if settings.error_feedback else state


def remember(state, second_error, settings):
    """e^m = p^m - decoded^m, and on the owner of piece k: e[k] += M (q[k] - qhat[k])."""
    residual = state.update - state.decoded
    if not settings.fold:
        return dataclasses.replace(state, residual=residual, owner_residual=second_error)
    for piece in settings.pieces:
        residual[piece.owner, piece.slice] += len(residual) * second_error[piece.slice]
    return dataclasses.replace(state, residual=residual)


def keep_own(decoded, updates, pieces):
    """[M, n]: what was decoded, and the update itself where a worker owns the piece."""
    decoded = decoded.copy()
    for piece in pieces:
        decoded[piece.owner, piece.slice] = updates[piece.owner, piece.slice]
    return decoded


def quantize_pieces(vector, settings):
    """Q of every piece, put together again [n]."""
    out = np.empty_like(vector)
    for piece in settings.pieces:
        out[piece.slice] = settings.quantizer(vector[piece.slice], piece.player)
    return out


def quantize_mean(vector, settings):
    """Q' of every piece of the mean, put together again [n]."""
    return quantize_pieces(
        vector, dataclasses.replace(settings, quantizer=settings.mean_quantizer or settings.quantizer)
    )


def virtual_iterate(state):
    """z_t = w_t - mean_m e_t^m [n]."""
    return state.w - state.residual.mean(axis=0)
