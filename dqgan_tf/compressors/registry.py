"""Compressors by text, as they stand in a configuration: `name:key=value,key=value`."""

import dataclasses

from dqgan_tf.compressors.base import Compressor
from dqgan_tf.compressors.casts import BFloat16, Float16
from dqgan_tf.compressors.identity import Identity
from dqgan_tf.compressors.linear import Linear
from dqgan_tf.compressors.sign import Sign
from dqgan_tf.compressors.ternary import Ternary, TernGrad
from dqgan_tf.compressors.topk import TopK

_CLASSES = {cls.name: cls for cls in (Identity, Float16, BFloat16, Linear, Ternary, TernGrad, Sign, TopK)}


def available() -> tuple[str, ...]:
    """Returns one complete spec per compressor, with its default parameters."""
    return tuple(cls().spec for cls in _CLASSES.values())


def get(spec: str) -> Compressor:
    """Returns the compressor of a spec such as `linear:bits=4,bucket=512`; parameters left out take their defaults.

    Raises:
      ValueError: unknown name, unknown or repeated parameter, or a value out of range, with a spec that works.
    """
    name, colon, rest = spec.partition(":")
    if name not in _CLASSES or (colon and not rest):
        raise ValueError(f"The compressor must be like one of {', '.join(available())}. Received: {spec!r}")
    cls = _CLASSES[name]
    try:
        return cls(**_parameters(cls, rest.split(",") if rest else []))
    except ValueError as error:
        raise ValueError(f"{error}. A spec that works is {cls().spec!r}. Received: {spec!r}") from error


def _parameters(cls, pairs):
    types = {field.name: field.type for field in dataclasses.fields(cls)}
    parameters = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in types:
            raise ValueError(f"`{cls.name}` has the parameters ({', '.join(types)}). Received: {pair!r}")
        if key in parameters:
            raise ValueError(f"`{key}` must be given once")
        parameters[key] = _value(key, text, types[key])
    return parameters


def _value(key, text, kind):
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"`{key}` must be of type {kind.__name__}. Received: {key}={text}") from None
