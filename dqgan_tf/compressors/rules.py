"""Rules that give weights other compressors by name: `PATTERN=SPEC;PATTERN=SPEC`."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from dqgan_tf.compressors.base import Compression
from dqgan_tf.compressors.registry import get
from dqgan_tf.errors import UsageError

EXAMPLE = "bias|gamma|beta=none;discriminator/=sign:bucket=512"
_NAMES_SHOWN = 4  # names of a long list that are shown from each end


class Rule(NamedTuple):
    """One `PATTERN=SPEC`."""

    pattern: re.Pattern
    compressor: Compression


class Group(NamedTuple):
    """The weights that share a compressor and its state.

    label: number of their rule, from 1; empty if no rule matches.
    compressor: compressor of these weights.
    members: indices of the weights, ascending.
    """

    label: str
    compressor: Compression
    members: tuple[int, ...]


def parse(text: str) -> tuple[Rule, ...]:
    """Returns the rules of a text such as `bias|gamma|beta=none;discriminator/=sign:bucket=512`.

    >>> [(rule.pattern.pattern, rule.compressor.spec) for rule in parse("bias|gamma=none;discriminator/=sign")]
    [('bias|gamma', 'none'), ('discriminator/', 'sign:bucket=512')]

    Raises:
      UsageError: a rule without a pattern or a spec; a pattern that is no regular expression, or that matches the empty
        text in every name, such as `gamma|`; a bad spec, see `registry.get`.
    """
    if not isinstance(text, str):
        raise UsageError(f"The rules must be a text such as {EXAMPLE!r}. Received: {text!r}")
    return tuple(map(_parse_rule, text.split(";"))) if text else ()


def _parse_rule(text: str) -> Rule:
    pattern, equals, spec = text.strip().partition("=")
    if not (pattern and equals and spec):
        raise UsageError(f"A rule is PATTERN=SPEC, several are joined by `;`: {EXAMPLE}. Received: {text!r}")
    try:
        rule = Rule(re.compile(pattern), get(spec))
    except re.error as error:
        raise UsageError(f"{pattern!r} is no regular expression ({error}). A rule that works is {EXAMPLE}") from None
    # `gamma|` matches the empty text at the start of every name, which is a mistake, except in a lookaround, `(?...)`.
    match = rule.pattern.search("/")
    if match is not None and not match.group() and "(?" not in pattern:
        raise UsageError(
            f"{pattern!r} matches every name, because it matches the empty text. A rule that works is {EXAMPLE}; "
            "a rule for all weights is `.*=none`"
        )
    return rule


def check_names(names: Sequence[str], rules: Sequence[Rule]) -> None:
    """Refuses a rule that matches no name. A rule whose weights all belong to earlier rules is accepted.

    Args:
      names: names of the weights of all players.
      rules: see `parse`.

    Raises:
      UsageError: a rule matches no name; the message has names that exist.
    """
    for rule in rules:
        if not any(map(rule.pattern.search, names)):
            shown = list(names)
            if len(shown) > 2 * _NAMES_SHOWN:
                shown = [*shown[:_NAMES_SHOWN], "...", *shown[-_NAMES_SHOWN:]]
            count = f" ({len(names)} in all)" if len(names) > 2 * _NAMES_SHOWN else ""
            raise UsageError(
                f"{rule.pattern.pattern!r} of the compressor rules matches no weight's name. The names are "
                f"{', '.join(shown)}{count}. A rule that works is {EXAMPLE}"
            )


def assign(names: Sequence[str], default: Compression, rules: Sequence[Rule]) -> list[Group]:
    """Returns the groups that have members: first the group of `default`, then one group per rule, in their order.

    A weight belongs to the first rule whose pattern occurs in its name, such as `generator/dense_1/kernel`.
    """
    numbers = [next((i for i, rule in enumerate(rules, 1) if rule.pattern.search(name)), 0) for name in names]
    groups = []
    for number in range(len(rules) + 1):
        members = tuple(index for index, chosen in enumerate(numbers) if chosen == number)
        compressor = rules[number - 1].compressor if number else default
        groups.append(Group(str(number or ""), compressor, members))
    return [group for group in groups if group.members]
