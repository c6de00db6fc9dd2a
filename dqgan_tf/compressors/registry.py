"""Compressors by text, as they stand in a configuration: `name:key=value,key=value[+name:...]`."""

from dqgan_tf.compressors import plain_numbers
from dqgan_tf.compressors.adaptive import Adaptive
from dqgan_tf.compressors.blocktopk import BlockTopK
from dqgan_tf.compressors.casts import BFloat16, Float16
from dqgan_tf.compressors.compression import Compression
from dqgan_tf.compressors.identity import Identity
from dqgan_tf.compressors.linear import Linear
from dqgan_tf.compressors.natural import NUQSGD, Natural
from dqgan_tf.compressors.powersgd import PowerSGD
from dqgan_tf.compressors.qsgd import QSGD
from dqgan_tf.compressors.randomk import RandomK
from dqgan_tf.compressors.sign import Sign
from dqgan_tf.compressors.sparse import JOIN, Sparse
from dqgan_tf.compressors.ternary import Ternary, TernGrad
from dqgan_tf.compressors.topk import TopK

_CLASSES = {
    cls.name: cls
    for cls in (
        *(Identity, Float16, BFloat16),
        *(Linear, Ternary, Sign, Natural),
        *(QSGD, NUQSGD, TernGrad),
        *(TopK, BlockTopK, RandomK),
        *(Adaptive, PowerSGD),
    )
}


def available() -> tuple[str, ...]:
    """Returns one complete spec per compressor, with its default parameters."""
    return tuple(cls().spec for cls in _CLASSES.values())


def get(spec: str) -> Compression:
    """Returns the compressor of a spec; parameters left out take their defaults.

    `linear:bits=4,bucket=512`, or `topk:fraction=0.01+linear:bits=8,bucket=512`: what the first sends, by the second.

    Raises:
      ValueError: no text, unknown name, unknown or repeated parameter, a value out of range, or a second compressor
        after one that sends everything; with a spec that works.
    """
    if not isinstance(spec, str):
        raise _unlike(spec)
    first, joined, second = spec.partition(JOIN)
    name, colon, rest = first.partition(":")
    if name not in _CLASSES or (colon and not rest):
        raise _unlike(spec)
    cls = _CLASSES[name]
    try:
        return _build(cls, rest.split(",") if rest else [], second if joined else None)
    except ValueError as error:
        raise ValueError(f"{error}. A spec that works is {cls().spec!r}. Received: {spec!r}") from error


def _unlike(spec):
    return ValueError(f"The compressor must be like one of {', '.join(available())}. Received: {spec!r}")


def _build(cls, pairs, second):
    parameters = _parameters(cls, pairs)
    if second is None:
        return cls(**parameters)
    if not issubclass(cls, Sparse):
        raise ValueError(f"`{cls.name}` sends every value: nothing may follow it after {JOIN!r}")
    return cls(**parameters, values=get(second))


def _parameters(cls, pairs):
    types = {field.name: field.type for field in cls.parameters()}
    parameters = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in types:
            raise ValueError(f"`{cls.name}` has the parameters ({', '.join(types)}). Received: {pair!r}")
        if key in parameters:
            raise ValueError(f"`{key}` must be given once")
        parameters[key] = text if types[key] is str else plain_numbers.read(key, text, types[key])
    return parameters
