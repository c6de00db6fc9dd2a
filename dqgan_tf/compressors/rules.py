"""Which compressor a weight gets: rules by its name, `PATTERN=SPEC;PATTERN=SPEC`."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from dqgan_tf.compressors.base import Compressor
from dqgan_tf.compressors.registry import get

EXAMPLE = "bias|gamma|beta=none;discriminator/=sign:bucket=512"


class Group(NamedTuple):
    """Weights that share a compressor, and what it learns from them.

    label: `` for those that no rule names, else the number of their rule, from 1.
    compressor: theirs.
    members: indices of the weights, ascending.
    """

    label: str
    compressor: Compressor
    members: tuple[int, ...]


class Rule(NamedTuple):
    """One `PATTERN=SPEC`."""

    pattern: re.Pattern
    compressor: Compressor


def parse(text: str) -> tuple[Rule, ...]:
    """Returns the rules of a text such as `bias|gamma|beta=none;discriminator/=sign:bucket=512`.

    Raises:
      ValueError: a rule without a pattern or spec, a pattern that is no regular expression, or see `registry.get`.
    """
    return tuple(_rule(rule) for rule in text.split(";") if rule.strip())


def assign(names: Sequence[str], default: Compressor, rules: Sequence[Rule]) -> list[Group]:
    """Returns the groups of weights with at least one member, those of no rule first.

    A weight belongs to the first rule whose pattern occurs in its name, such as `generator/dense_1/kernel`.
    Two rules are two groups, even with equal compressors.
    """
    chosen = [_first(name, rules) for name in names]
    groups = [
        Group(
            str(number) if number else "",
            rules[number - 1].compressor if number else default,
            tuple(index for index, one in enumerate(chosen) if one == number),
        )
        for number in range(len(rules) + 1)
    ]
    return [group for group in groups if group.members]


def _rule(text):
    pattern, equals, spec = text.strip().partition("=")
    if not (pattern and equals and spec):
        raise ValueError(f"A rule is PATTERN=SPEC, several are joined by `;`: {EXAMPLE}. Received: {text!r}")
    try:
        return Rule(re.compile(pattern), get(spec))
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error}). A rule that works is {EXAMPLE}") from None


def _first(name, rules):
    return next((number for number, rule in enumerate(rules, 1) if rule.pattern.search(name)), 0)
