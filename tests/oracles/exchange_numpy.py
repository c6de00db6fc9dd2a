"""One compressed exchange of M workers in numpy float32, from the equations of the topologies and their streams.

`exchange` is one reduction of one vector, with one residual per worker; `Outcome` is its result. Seeds are pairs of
integers, taken modulo 2^32.
"""

import dataclasses
import math

import numpy as np

from tests.oracles import adaptive_numpy, codecs_numpy, hash_numpy, powersgd_numpy

SHARD_STREAM, OWNER_STREAM = 0x51ED270B, 0x2545F491
MEMORY = 0.9  # share of a running histogram that one call keeps


@dataclasses.dataclass(frozen=True)
class Vector:
    """spec: complete text of the compressor. shapes: of the tensors that the flat vector consists of."""

    spec: str
    shapes: tuple[tuple[int, ...], ...]

    @property
    def size(self):
        return sum(math.prod(shape) for shape in self.shapes)


@dataclasses.dataclass
class Outcome:
    """Of one vector. mean [n]; residuals and decoded [M, n]; state: learned, or None; margin: see `codecs_numpy`.

    energies [M, 3]: squared norms of p, of the residual before and of the error, padding of shards included.
    """

    mean: np.ndarray
    residuals: np.ndarray
    energies: np.ndarray
    state: np.ndarray | None
    margin: float


def exchange(vector, index, topology, updates, residuals, state, seeds, common_seed, error_feedback=True) -> Outcome:
    """One reduction of the vector number `index`.

    Args:
      topology: `dense`, `all_gather`, `two_step` or `low_rank`.
      updates, residuals: float32 [M, n].
      state: what `start` returned, or an `Outcome`'s.
      seeds, common_seed: of every worker and of all.
    """
    updates, residuals = np.asarray(updates, np.float32), np.asarray(residuals, np.float32)
    p = updates + residuals if error_feedback else updates
    seeds = [(a, b + index) for a, b in seeds]
    if topology == "dense":
        return _dense(updates, residuals)
    common_seed = common_seed[0], common_seed[1] + index
    if topology == "low_rank":
        mean, kept, errors, state, margin = _low_rank(vector, p, state, common_seed)
    else:
        reduce = {"all_gather": _all_gather, "two_step": _two_step}[topology]
        draws_in_common = codecs_numpy.parse(vector.spec).name == "randomk"
        state_or_seed = (common_seed,) if draws_in_common else state
        mean, kept, errors, margin = reduce(vector, p, state_or_seed, seeds, error_feedback)
    before = residuals if error_feedback else np.zeros_like(residuals)
    energies = [[_energy(one) for one in row] for row in zip(p, before, errors, strict=True)]
    if state is not None and topology != "low_rank":
        state, learning = _learn(vector, p, state)
        margin = min(margin, learning)
    return Outcome(mean, kept if error_feedback else residuals, np.array(energies), state, margin)


def start(vector):
    """The state before the first call: queries, or (levels, running histogram), or None."""
    one = codecs_numpy.parse(vector.spec)
    if one.name == "powersgd":
        widest = [_matrix(shape)[1] for shape in vector.shapes if _is_sent_as_matrix(one, shape)]
        return np.random.default_rng(190513727).standard_normal(one.number("rank") * sum(widest), np.float32)
    if one.name == "adaptive":
        count = 2 ** (one.number("bits") - 1)
        mantissa, exponent = np.frexp(np.arange(count) / (count - 1))
        return np.ldexp(np.rint(np.ldexp(mantissa, 8)), exponent - 8), np.zeros(64)
    return None


def _dense(updates, residuals):
    mean = _mean(updates)
    nothing = np.zeros(len(updates))
    energies = np.stack([[_energy(x) for x in updates], nothing, nothing], 1)
    return Outcome(mean, residuals, energies, None, np.inf)


def _all_gather(vector, p, state, seeds, error_feedback):
    del error_feedback  # changes what the replicas keep, not what they send
    decoded, margins = _quantize_rows(vector.spec, p, seeds, state)
    return _mean(decoded), p - decoded, p - decoded, min(margins)


def _two_step(vector, p, state, seeds, error_feedback):
    """Shard by shard, then the owner's encoding of the average, whose error the owner keeps M times.

    With error feedback the average holds the owner's own p in place of its decoded one.
    """
    workers, n = p.shape
    positions = shards(vector.spec, n, workers)
    padded = np.pad(p, ((0, 0), (0, positions.size - n)))
    if _is_dealt(vector.spec, positions.shape[1]):
        decoded, margins = _quantize_rows(vector.spec, padded, seeds, state)
    else:
        decoded, margins = np.zeros_like(padded), []
        for k, places in enumerate(positions):
            streams = [(a + k * SHARD_STREAM % 2**31, b) for a, b in seeds]
            decoded[:, places], more = _quantize_rows(vector.spec, padded[:, places], streams, state)
            margins += more
    errors, mean = padded - decoded, _mean(decoded)
    kept = errors.copy()
    mean[n:] = 0.0
    for owner, places in enumerate(positions):
        if error_feedback:
            mine = np.where(places < n, kept[owner, places], np.float32(0))
            mean[places] += mine * np.float32(1 / workers)
        again, margin = _quantize(vector.spec, mean[places], (seeds[owner][0] + OWNER_STREAM, seeds[owner][1]), state)
        kept[owner, places] = np.float32(workers) * (mean[places] - again)
        mean[places] = again
        margins.append(margin)
    return mean[:n], kept[:, :n], errors, min(margins)


def shards(spec, n, workers):
    """int [M, size]: the places of every owner's values; places from n on are padding.

    Buckets are dealt out in turn; a shard shorter than a bucket, or of a compressor without, is a range.
    """
    bucket = codecs_numpy.parse(spec).bucket
    if codecs_numpy.parse(spec).name in ("none", "topk", "blocktopk", "randomk"):
        bucket = None
    lanes = _round_up(_round_up(n, workers) // workers, 32)
    size = _round_up(_round_up(n, workers) // workers, min(bucket or 32, lanes))
    places = np.arange(workers * size)
    if bucket is None or size % bucket:
        return places.reshape(workers, size)
    return places.reshape(-1, workers, bucket).transpose(1, 0, 2).reshape(workers, size)


def _is_dealt(spec, size):
    one = codecs_numpy.parse(spec)
    return one.name not in ("none", "topk", "blocktopk", "randomk") and size % one.bucket == 0


def _low_rank(vector, p, state, seed):
    """Every matrix by `powersgd_numpy.step`, everything else exactly."""
    one = codecs_numpy.parse(vector.spec)
    rank, explore = one.number("rank"), one.number("explore")
    matrices = [_matrix(shape) for shape in vector.shapes if _is_sent_as_matrix(one, shape)]
    top = max([rows for rows, _, _ in matrices], default=0)
    columns = rank + 2 * explore
    draws = hash_numpy.gaussian(len(matrices) * top, columns, seed).reshape(len(matrices), top, columns)
    decoded, mean, queries = p.astype(np.float64), p.astype(np.float64).mean(0), []
    at = used = count = 0
    for shape in vector.shapes:
        places, at = slice(at, at + math.prod(shape)), at + math.prod(shape)
        if not _is_sent_as_matrix(one, shape):
            continue
        rows, cols, transposed = _matrix(shape)
        query, used = state[used : used + cols * rank].reshape(cols, rank), used + cols * rank
        given = np.stack([_oriented(x, rows, cols, transposed) for x in p[:, places].astype(np.float64)])
        own, average, query = powersgd_numpy.step(given, query, draws[count, :rows, :explore])
        decoded[:, places] = [(x.T if transposed else x).ravel() for x in own]
        mean[places] = (average.T if transposed else average).ravel()
        queries.append(query.ravel())
        count += 1
    errors = (p - decoded).astype(np.float32)
    return mean.astype(np.float32), errors, errors, np.concatenate([*queries, []]), np.inf


def _matrix(shape):
    """(rows, cols, transposed): all axes but the last against the last, the longer side second."""
    tall, wide = math.prod(shape[:-1]), shape[-1]
    return min(tall, wide), max(tall, wide), tall > wide


def _is_sent_as_matrix(one, shape):
    rows, cols, _ = _matrix(shape)
    rank, explore = one.number("rank"), one.number("explore")
    return len(shape) > 1 and rank * rows + (rank + explore) * cols < rows * cols


def _oriented(flat, rows, cols, transposed):
    return flat.reshape(cols, rows).T if transposed else flat.reshape(rows, cols)


def _learn(vector, p, state):
    """The running histogram of all workers and the levels fitted to it. Returns (state, margin)."""
    one, (levels, running) = codecs_numpy.parse(vector.spec), state
    counted = [adaptive_numpy.histogram(x, one.number("bucket")) for x in p]
    running = MEMORY * running + sum(counts for counts, _ in counted)
    levels, rounding = adaptive_numpy.companded(running, len(levels))
    # A count moves by float32's 1e-7, a level before its rounding to 8 bits by some 1e-4 of its last place.
    return (levels, running), min(min(20.0 * edge for _, edge in counted), 0.01 * rounding)


def _quantize(spec, x, seed, state):
    return codecs_numpy.quantize(spec, x, seed, None if state is None else state[0])


def _quantize_rows(spec, rows, seeds, state):
    made = [_quantize(spec, x, seed, state) for x, seed in zip(rows, seeds, strict=True)]
    return np.stack([decoded for decoded, _ in made]), [margin for _, margin in made]


def _mean(rows):
    """float32: added in the order of the workers, times 1 / M."""
    total = rows[0].copy()
    for row in rows[1:]:
        total += row
    return total * np.float32(1.0 / len(rows))


def _energy(x):
    return np.sum(x.astype(np.float64) ** 2)


def _round_up(n, multiple):
    return -(-n // multiple) * multiple
