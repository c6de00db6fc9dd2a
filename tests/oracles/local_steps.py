"""What M workers with local steps and a learned shift compute, in float64: sections 10, 11 and 13 of the derivation.

One round of K gradient steps between two exchanges, on every worker m (docs/algorithm.md has the derivation):

    x_0 = w - e^m
    for k = 1..K:  g = F(x_{k-1} - a_k);  u = direction(g);  x_k = x_{k-1} - eta u    (+ (s^m - sbar)/K if `corrected`)
    p = e^m + sum_k eta u - (r/K) s^m;   c = Q(p);   w <- w - ((r/K) sbar + mean c)
    e^m <- p - c, and in the two-step exchange plus M times the second error at its owner
    s^m <- s^m + a (p - e^m_new);   sbar <- sbar + a mean c

r is the number of steps: K, or fewer in a last, shorter round. a_k is how far the worker looks ahead: eta u_{k-1}
(`own`), the common update of the last round divided by its number of steps (`common`), the own one less the drift
(s^m - sbar)/K (`corrected`), or nothing (`none`).

Arrays of workers are [M, n]. Gradients, compressors and pieces are those of `dqgan_numpy`.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from tests.oracles import dqgan_numpy as dqgan
from tests.oracles.dqgan_numpy import Adam, Gradient, Piece, Quantizer


@dataclasses.dataclass(frozen=True)
class Settings:
    """One run. eta: [n] or a function step -> [n]; adam None: u = g; steps of a schedule are gradient steps.

    residual_in_half_step False starts the local steps at w: the form that fails. mean_quantizer: of the owners' mean in
    the two-step exchange, None for `quantizer`.
    """

    pieces: tuple[Piece, ...]
    eta: np.ndarray | Callable[[int], np.ndarray]
    quantizer: Quantizer
    adam: Adam | None = None
    local_steps: int = 1
    shift: float = 0.0
    half_step: str = "own"
    residual_in_half_step: bool = True
    error_feedback: bool = True
    two_step: bool = False
    mean_quantizer: Quantizer | None = None


@dataclasses.dataclass(frozen=True)
class State:
    """After gradient step t. [n]: w, q (what was subtracted), look_ahead (q per step), mean_shift. [M, n]: all else.

    residual e, shift s, direction u, first m, second v, averaged (the last exact mean of v/(1-b2^t)); points where the
    gradients were taken [K, M, n]; update p, decoded Q(p); moved (the sum of eta u of the round).
    """

    t: int
    w: np.ndarray
    q: np.ndarray
    look_ahead: np.ndarray
    mean_shift: np.ndarray
    residual: np.ndarray
    shift: np.ndarray
    direction: np.ndarray
    first: np.ndarray
    second: np.ndarray
    averaged: np.ndarray
    points: np.ndarray
    update: np.ndarray
    decoded: np.ndarray
    moved: np.ndarray


def start(w0, workers) -> State:
    """State 0: weights w0 [n], everything else 0."""
    w0 = np.array(w0, np.float64)
    zeros = np.zeros((workers, len(w0)))
    per_worker = ("residual", "shift", "direction", "first", "second", "averaged", "update", "decoded", "moved")
    common = dict.fromkeys(("q", "look_ahead", "mean_shift"), zeros[0])
    return State(t=0, w=w0, points=zeros[None], **common, **dict.fromkeys(per_worker, zeros))


def run(game: Gradient, w0, workers: int, settings: Settings, steps: int) -> Iterator[State]:
    """Yields the state after every exchange until `steps` gradient steps are done; the last round may be shorter."""
    state = start(w0, workers)
    while state.t < steps:
        state = one_round(game, state, settings, min(settings.local_steps, steps - state.t))
        yield state


def one_round(game: Gradient, state: State, settings: Settings, count: int) -> State:
    """`count` local steps and one exchange."""
    inside = settings.residual_in_half_step and settings.half_step != "none"
    x = state.w - state.residual if inside else np.tile(state.w, (len(state.residual), 1))
    drift = (state.shift - state.mean_shift) / settings.local_steps
    before, points, moved = state, [], 0.0
    for _ in range(count):
        t = state.t + 1
        eta = settings.eta(t) if callable(settings.eta) else settings.eta
        ahead = {
            "own": eta * state.direction,
            "common": before.look_ahead,
            "corrected": eta * state.direction - drift,
            "none": 0.0,
        }[settings.half_step]
        points.append(x - ahead)
        gradient = np.stack([game(point, t, worker) for worker, point in enumerate(points[-1])])
        state = directed(dataclasses.replace(state, t=t), gradient, settings)
        step = eta * state.direction
        x, moved = x - step + (drift if settings.half_step == "corrected" else 0.0), moved + step
    if settings.local_steps > 1 and settings.adam is not None:
        state = averaged_at_exchange(state, settings.adam, before.t)
    update = moved + state.residual - count / settings.local_steps * state.shift
    state = dataclasses.replace(state, points=np.array(points), moved=moved, update=update)
    return exchange(state, settings, count)


def directed(state, gradient, settings):
    """Moments and direction of one gradient step. With one step a round, an average contains this step's gradient."""
    adam, t = settings.adam, state.t
    if adam is None:
        return dataclasses.replace(state, direction=gradient)
    first = adam.beta_1 * state.first + (1 - adam.beta_1) * gradient
    second = adam.beta_2 * state.second + (1 - adam.beta_2) * gradient**2
    own, averaged = second / (1 - adam.beta_2**t), state.averaged
    if settings.local_steps == 1 and dqgan.averages_at(t, adam.period):
        averaged = np.tile(own.mean(axis=0), (len(own), 1))
    scale = {
        "local": own,
        "averaged": np.where(averaged > 0, averaged, own),  # before the first average: the worker's own
        "guarded": np.maximum(averaged, own),
    }[adam.second_moment]
    direction = first / (1 - adam.beta_1**t) / (np.sqrt(scale) + adam.epsilon)
    return dataclasses.replace(state, first=first, second=second, averaged=averaged, direction=direction)


def averaged_at_exchange(state, adam, before):
    """The exact mean of v/(1-b2^t) after the round, if one of its steps before + 1..t is one that averages."""
    if not any(dqgan.averages_at(t, adam.period) for t in range(before + 1, state.t + 1)):
        return state
    own = state.second / (1 - adam.beta_2**state.t)
    return dataclasses.replace(state, averaged=np.tile(own.mean(axis=0), (len(own), 1)))


def exchange(state, settings, count):
    """Encodes, averages, and remembers what did not arrive; `update` holds p."""
    workers, a = len(state.update), settings.shift
    decoded = np.stack([dqgan.quantize_pieces(p, settings) for p in state.update])
    if settings.two_step and settings.error_feedback:
        decoded = dqgan.keep_own(decoded, state.update, settings.pieces)
    mean = decoded.mean(axis=0)
    arrived = dqgan.quantize_mean(mean, settings) if settings.two_step else mean
    residual = state.update - decoded
    for piece in settings.pieces:  # nothing where mean == arrived, as it does without a second encoding
        residual[piece.owner, piece.slice] += workers * (mean - arrived)[piece.slice]
    q = count / settings.local_steps * state.mean_shift + arrived
    return dataclasses.replace(
        state,
        w=state.w - q,
        q=q,
        look_ahead=q / count,
        decoded=decoded,
        residual=residual if settings.error_feedback else state.residual,
        shift=state.shift + a * (state.update - residual),
        mean_shift=state.mean_shift + a * arrived,
    )


def virtual_iterate(state):
    """z = w - mean_m e^m [n]."""
    return state.w - state.residual.mean(axis=0)


def spread(state):
    """Root mean square distance of the next starting points w - e^m to their mean."""
    centred = state.residual - state.residual.mean(axis=0)
    return np.sqrt(np.mean(np.sum(centred**2, axis=1)))
