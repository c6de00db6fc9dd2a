"""Every compressor as a numpy map of (vector, seed): from its spec and its equation, with the distance from a decision.

`quantize` returns what arrives and a margin: how far the nearest value is from being decided otherwise, relative to the
scale of the decision. An oracle is to be believed where its margin is far above the rounding of float32.
"""

import math
from typing import NamedTuple

import numpy as np

from dqgan_tf import compressors
from tests.oracles import adaptive_numpy, hash_numpy
from tests.oracles import compressors_numpy as oracle

VALUES_STREAM = 0x2545F491


class Spec(NamedTuple):
    """`text`, which is `name:key=value,...+inner`."""

    text: str
    name: str
    parameters: dict
    inner: str

    def number(self, key):
        return int(self.parameters[key])

    @property
    def bucket(self):
        """Values that are encoded together; None for compressors of whole vectors."""
        if self.name not in _CODECS:
            return compressors.get(self.text).block_multiple
        if self.name in ("fp16", "bf16"):
            return 512
        bucket = self.number("bucket") if "bucket" in self.parameters else None
        return 5 * bucket if self.name in ("ternary", "terngrad") else bucket


def parse(spec):
    """Returns the `Spec` of a complete text."""
    first, _, inner = spec.partition("+")
    name, _, pairs = first.partition(":")
    return Spec(spec, name, dict(pair.split("=") for pair in pairs.split(",") if pair), inner)


def quantize(spec, x, seed, shared=None):
    """Returns (decode(encode(x)) as float32 [n], margin). `shared`: levels of `adaptive`, seed of `randomk`'s draws."""
    parsed = parse(spec)
    decoded, margin = _CODECS.get(parsed.name, _library)(parsed, np.asarray(x, np.float32), seed, shared)
    return np.asarray(decoded).astype(np.float32), float(np.min(margin, initial=np.inf))


def _library(spec, x, seed, shared):
    """A compressor without a numpy version yet: the exchange around it is still compared with numpy."""
    compressor = compressors.get(spec.text)
    return compressor.decode(compressor.encode(x, np.array(seed, np.int64).astype(np.int32)), len(x)), np.inf


def _none(spec, x, seed, levels):
    return x, np.inf


def _float16(spec, x, seed, levels):
    return oracle.float16(x), np.inf


def _bfloat16(spec, x, seed, levels):
    return oracle.bfloat16(x), np.inf


def _linear(spec, x, seed, levels):
    bits, bucket = spec.number("bits"), spec.number("bucket")
    if spec.parameters.get("rounding") != "stochastic":
        return oracle.linear_nearest(x, bits, bucket)
    return _each_bucket(oracle.linear_stochastic, x, hash_numpy.uniform(len(x), seed), bits, bucket)


def _qsgd(spec, x, seed, levels):
    u = hash_numpy.uniform(len(x), seed)
    return _each_bucket(oracle.qsgd, x, u, spec.number("bits"), spec.number("bucket"))


def _ternary(spec, x, seed, levels):
    bucket = spec.number("bucket")
    margins = [np.abs(np.abs(part) / s - 0.5) for part, s in _scaled(x, bucket)]
    return oracle.ternary(x, bucket), np.concatenate([*margins, [np.inf]])


def _terngrad(spec, x, seed, levels):
    bucket, u = spec.number("bucket"), hash_numpy.uniform(len(x), seed)
    decoded, margins = [], [np.inf]
    for part, draws in zip(oracle.buckets(x, bucket), oracle.buckets(u, bucket), strict=True):
        scale = float(np.abs(part).max())
        decoded.append(np.where(np.abs(part) > draws * scale, np.copysign(scale, part), 0.0))
        margins += list(np.abs(np.abs(part[part != 0]) / scale - draws[part != 0])) if scale else []
    return np.concatenate(decoded), margins


def _sign(spec, x, seed, levels):
    bucket = spec.number("bucket")
    margins = [np.abs(part[part != 0]) / np.abs(part).mean() for part, _ in _scaled(x, bucket)]
    return oracle.sign(x, bucket), np.concatenate([*margins, [np.inf]])


def _natural(spec, x, seed, levels):
    nearest = spec.parameters["rounding"] == "nearest"
    u = np.full(len(x), 0.5) if nearest else hash_numpy.uniform(len(x), seed, bits=23)
    return _exponential(spec, x, u, oracle.power_of_two_above)


def _nuqsgd(spec, x, seed, levels):
    return _exponential(spec, x, hash_numpy.uniform(len(x), seed, bits=23), oracle.norm)


def _exponential(spec, x, u, scale_of):
    def one(x, u, bits, bucket):
        return oracle.exponential(x, u, bits, bucket, scale_of)

    return _each_bucket(one, x, u, spec.number("bits"), spec.number("bucket"))


def _each_bucket(one, x, u, bits, bucket):
    """`one` bucket by bucket; a bucket of zeros has no scale and decides nothing."""
    decoded, margins = [], [np.inf]
    for part, draws in zip(oracle.buckets(x, bucket), oracle.buckets(u, bucket), strict=True):
        if part.any():
            values, distances = one(part, draws, bits, bucket)
            margins += list(distances[part != 0])
        decoded.append(values if part.any() else np.zeros(len(part)))
    return np.concatenate(decoded), margins


def _scaled(x, bucket):
    return [(part, np.abs(part).max()) for part in oracle.buckets(x, bucket) if part.any()]


def _adaptive(spec, x, seed, levels):
    return adaptive_numpy.nearest_short(x, levels, spec.number("bucket"))


def _topk(spec, x, seed, levels):
    n = len(x)
    k = max(1, math.ceil(float(spec.parameters["fraction"]) * n))
    chosen, gaps = _largest(x, k)
    # A row of 32 W values is W words, bit b of word w is the value b W + w, and words are read from bit 0 on.
    width = min(4096, -(-n // 32) * 32)
    row, inside = np.divmod(chosen, width)
    bit, word = np.divmod(inside, width // 32)
    return _send(spec, x, chosen[np.lexsort([bit, word, row])], seed, gaps[-1])


def _block_topk(spec, x, seed, levels):
    block = spec.number("block")
    chosen, margins = [], [np.inf]
    for start in range(0, len(x), block):
        part = np.pad(x[start : start + block], (0, max(0, block - len(x) + start)))
        largest, gaps = _largest(part, math.ceil(float(spec.parameters["fraction"]) * block))
        chosen.append(start + largest)
        # Values travel in the order of their magnitudes, which are compared without 8 of 24 significand bits.
        gap = np.min(gaps if spec.inner else gaps[-1])
        margins.append(gap if gap > 2.0**-14 else 0.0)
    return _send(spec, x, np.concatenate(chosen), seed, min(margins))


def _random_k(spec, x, seed, common_seed):
    k = max(1, math.ceil(float(spec.parameters["fraction"]) * len(x)))
    chosen = hash_numpy.one_of_each_arc(len(x), k, seed if common_seed is None else common_seed)
    return _send(spec, x, chosen, (seed[0] + VALUES_STREAM, seed[1]), np.inf)


def _largest(x, k):
    """Returns (indices of the k largest |x|, largest first, of equals the first; relative gap of each to the next).

    Equals have an infinite gap: values that two encodings made equal are equal in float32 as well.
    """
    order = np.argsort(-np.abs(x), kind="stable")
    sizes = np.append(np.abs(x[order]).astype(np.float64), -np.inf)[: k + 1]
    drop = sizes[:-1] - sizes[1:]
    return order[:k], np.where(drop > 0, drop / np.where(sizes[:-1] > 0, sizes[:-1], 1.0), np.inf)


def _send(spec, x, chosen, seed, margin):
    """The values at `chosen`, in that order, by the inner compressor. Places behind the vector hold zeros."""
    padded = np.pad(x, (0, max(0, int(chosen.max()) + 1 - len(x))))
    sent, inner_margin = quantize(spec.inner or "none", padded[chosen], seed)
    decoded = np.zeros_like(padded)
    decoded[chosen] = sent
    return decoded[: len(x)], min(margin, inner_margin)


_CODECS = {
    "none": _none,
    "fp16": _float16,
    "bf16": _bfloat16,
    "linear": _linear,
    "ternary": _ternary,
    "sign": _sign,
    "natural": _natural,
    "qsgd": _qsgd,
    "nuqsgd": _nuqsgd,
    "terngrad": _terngrad,
    "topk": _topk,
    "blocktopk": _block_topk,
    "randomk": _random_k,
    "adaptive": _adaptive,
}
