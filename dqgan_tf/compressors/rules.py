"""Which compressor a weight gets: rules by its name, `PATTERN=SPEC;PATTERN=SPEC`."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from dqgan_tf.compressors.base import Compressor
from dqgan_tf.compressors.registry import get

EXAMPLE = "bias|gamma|beta=none;discriminator/=sign:bucket=512"
_SHOWN = 4  # names at either end of a long list


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
      ValueError: a rule without a pattern or spec, a pattern that is no regular expression or that occurs in every
        name as nothing, such as `gamma|`, or see `registry.get`.
    """
    if not isinstance(text, str):
        raise ValueError(f"The rules must be a text such as {EXAMPLE!r}. Received: {text!r}")
    return tuple(map(_rule, text.split(";"))) if text else ()


def check_names(names: Sequence[str], rules: Sequence[Rule]) -> None:
    """Refuses rules that would be forgotten in silence; `names` are those of the weights of all players.

    A rule whose weights all belong to earlier ones is none of these: the first wins.

    Raises:
      ValueError: a pattern that occurs in no name, with names that exist.
    """
    for rule in rules:
        if not any(map(rule.pattern.search, names)):
            raise ValueError(
                f"{rule.pattern.pattern!r} of the rules of compressors occurs in no weight's name. The names are "
                f"{_some(names)}. A rule that works is {EXAMPLE}"
            )


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
        rule = Rule(re.compile(pattern), get(spec))
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error}). A rule that works is {EXAMPLE}") from None
    if _is_everywhere(rule.pattern):
        raise ValueError(
            f"{pattern!r} occurs in every name, because it matches nothing at all too. A rule that works is {EXAMPLE}; "
            "for all weights it is `.*=none`"
        )
    return rule


def _is_everywhere(pattern):
    """Returns whether a pattern occurs in every name as an empty text, which nobody means: lookarounds alone are so."""
    found = pattern.search("/")
    return found is not None and not found.group() and "(?" not in pattern.pattern


def _some(names):
    if len(names) <= 2 * _SHOWN:
        return ", ".join(names)
    return ", ".join([*names[:_SHOWN], "...", *names[-_SHOWN:]]) + f" ({len(names)} in all)"


def _first(name, rules):
    return next((number for number, rule in enumerate(rules, 1) if rule.pattern.search(name)), 0)
