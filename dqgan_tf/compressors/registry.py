"""Compressors by name, and the parser of a spec, `name:key=value,key=value[+name:...]`."""

import pkgutil
import re
from typing import Any

from dqgan_tf.compressors.base import Compression
from dqgan_tf.compressors.sparse import JOIN, Sparse
from dqgan_tf.errors import UsageError

COMPRESSORS = {
    "none": "dqgan_tf.compressors.casts:Identity",
    "fp16": "dqgan_tf.compressors.casts:Float16",
    "bf16": "dqgan_tf.compressors.casts:BFloat16",
    "linear": "dqgan_tf.compressors.linear:Linear",
    "ternary": "dqgan_tf.compressors.ternary:Ternary",
    "sign": "dqgan_tf.compressors.sign:Sign",
    "natural": "dqgan_tf.compressors.contrib.natural:Natural",
    "qsgd": "dqgan_tf.compressors.linear:QSGD",
    "nuqsgd": "dqgan_tf.compressors.contrib.natural:NUQSGD",
    "terngrad": "dqgan_tf.compressors.ternary:TernGrad",
    "topk": "dqgan_tf.compressors.topk:TopK",
    "blocktopk": "dqgan_tf.compressors.contrib.blocktopk:BlockTopK",
    "randomk": "dqgan_tf.compressors.contrib.randomk:RandomK",
    "adaptive": "dqgan_tf.compressors.contrib.adaptive:Adaptive",
    "powersgd": "dqgan_tf.compressors.contrib.powersgd:PowerSGD",
}
"""Name -> module:class. The module is imported when the compressor is first used."""

_NUMBERS = {
    int: (r"-?[0-9]+", "a whole number in plain digits"),
    float: (r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", "a number in plain digits"),
}
_LONGEST_NUMBER = 32  # characters


def available() -> tuple[str, ...]:
    """Returns one complete spec for each compressor, with its default parameters."""
    return tuple(_class_of(name)().spec for name in COMPRESSORS)


def get(spec: str) -> Compression:
    """Returns the compressor of a spec; missing parameters take their defaults.

    `linear:bits=4,bucket=512`, or `topk:fraction=0.01+linear:bits=8,bucket=512`: the second compressor encodes the
    values that the first one sends.

    >>> from dqgan_tf import compressors
    >>> compressors.get("linear:bits=8")
    Linear(bits=8, bucket=512, rounding='nearest')
    >>> top = compressors.get("topk:fraction=0.01+linear:bits=8,bucket=512")
    >>> top.wire_bytes(100_000), round(top.delta(100_000), 5)
    (2128, 0.00992)

    Raises:
      UsageError: not a text, an unknown name, an unknown or repeated parameter, a value out of range, or a second
        compressor after one that sends every value.
    """
    first, joined, second = spec.partition(JOIN) if isinstance(spec, str) else ("", "", "")
    name, colon, rest = first.partition(":")
    if name not in COMPRESSORS or (colon and not rest):
        raise UsageError(f"The compressor must be like one of {', '.join(available())}. Received: {spec!r}")
    cls = _class_of(name)
    try:
        parameters = _parameters(cls, rest.split(",") if rest else [])
        if not joined:
            return cls(**parameters)
        if not issubclass(cls, Sparse):
            raise UsageError(f"`{name}` sends every value: no compressor may follow it after {JOIN!r}")
        return cls(**parameters, values=get(second))
    except UsageError as error:
        raise UsageError(f"{error}. A spec that works is {cls().spec!r}. Received: {spec!r}") from error


def _class_of(name: str) -> Any:
    return pkgutil.resolve_name(COMPRESSORS[name])


def _parameters(cls: type[Compression], pairs: list[str]) -> dict[str, Any]:
    types = {field.name: type(field.default) for field in cls.parameters()}
    parameters: dict[str, Any] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in types:
            raise UsageError(f"`{cls.name}` has the parameters ({', '.join(types)}). Received: {pair!r}")
        if key in parameters:
            raise UsageError(f"`{key}` must appear once")
        parameters[key] = text if types[key] is str else read_number(key, text, types[key])
    return parameters


def read_number(key: str, text: str, number_type: type) -> int | float:
    """Returns the number that a user wrote, such as `12`, or for a float also `0.01` or `1e-3`.

    Refuses other texts that `int` and `float` accept: spaces, `+4`, `0_4`, `nan`, digits that are not ASCII.

    Args:
      key: name of the number, for the message.
      text: the number.
      number_type: int or float.

    Raises:
      UsageError: the text is no such number.
    """
    pattern, words = _NUMBERS[number_type]
    if len(text) > _LONGEST_NUMBER or not re.fullmatch(pattern, text):
        raise UsageError(f"`{key}` must be {words}. Received: {key}={text}")
    return number_type(text)
