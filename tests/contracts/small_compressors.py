"""Every compressor of the registry, at parameters for vectors of some hundred values: what the exchange is tested with.

A new compressor is covered as soon as it is registered. A numpy version in `tests/oracles/codecs_numpy.py` replaces the
comparison with the compressor itself.
"""

import dataclasses

from dqgan_tf import compressors

_SMALL = {"bucket": 32, "block": 32, "fraction": 0.1}


def small(spec: str) -> str:
    """Returns the spec with buckets and blocks of 32 values, a tenth of the values sent, and all else as it was."""
    compressor = compressors.get(spec)
    names = {field.name for field in compressor.parameters()}
    return dataclasses.replace(compressor, **{n: v for n, v in _SMALL.items() if n in names}).spec


SPECS = tuple(small(spec) for spec in compressors.available())
"""One spec for each name of the registry."""

COMPOSED = (
    "linear:bits=4,bucket=512",  # buckets longer than a shard
    "linear:bits=8,bucket=32,rounding=stochastic",
    "topk:fraction=0.1+linear:bits=4,bucket=32",
    "randomk:fraction=0.1+terngrad:bucket=32",
    "blocktopk:fraction=0.1,block=64+sign:bucket=32",
)
"""Further settings that take other ways through an exchange."""
