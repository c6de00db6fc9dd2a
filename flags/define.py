"""Defines a flag from the dataclass field of the same name: the default stands in one place."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from absl import flags

flags.disclaim_key_flags()  # a flag belongs to the file that asks for it, in --help too

_NUMBERS = {int: flags.IntegerParser, float: flags.FloatParser}


def define(
    config_class, name: str, help_text: str, *, choices: Sequence[str] = (), lower=None, upper=None, works=None
) -> None:
    """Defines `--name` with the type and default of `config_class.name`.

    Args:
      config_class: a dataclass of dqgan_tf.config.
      name: of the field and the flag.
      help_text: for the user, with units.
      choices: allowed values of a string.
      lower, upper: inclusive bounds of a number.
      works: a number for messages; default: the default.
    """
    default = _field(config_class, name).default
    kind = _kind(config_class, name)
    if kind is bool:
        flags.DEFINE_boolean(name, default, help_text)
    elif kind in _NUMBERS:
        parser = _NumberParser(_NUMBERS[kind](lower, upper), f"--{name}={default if works is None else works}")
        flags.DEFINE(parser, name, default, help_text, serializer=flags.ArgumentSerializer())
        if kind is float:
            finite(name)
    elif choices:
        flags.DEFINE_enum(name, default, list(choices), help_text)
    else:
        flags.DEFINE_string(name, default, help_text)


def validate(name: str, check: Callable[[object], None]) -> None:
    """Refuses `--name` when `check(value)` raises ValueError, with its message."""

    def validator(value):
        try:
            check(value)
        except ValueError as error:
            raise flags.ValidationError(str(error)) from None
        return True

    flags.register_validator(name, validator)


def finite(name: str) -> None:
    """Refuses a `--name` that is infinite or not a number: bounds let the latter through."""

    def check(value):
        if not math.isfinite(value):
            raise ValueError(f"`{name}` must be finite. Received: {name}={value}. {_works(name)}")

    validate(name, check)


def positive(name: str) -> None:
    """Refuses `--name` unless it is above 0."""

    def check(value):
        if not value > 0:
            raise ValueError(f"`{name}` must be positive. Received: {name}={value}. {_works(name)}")

    validate(name, check)


def below_one(name: str) -> None:
    """Refuses `--name` unless it lies in [0, 1)."""

    def check(value):
        if not 0 <= value < 1:
            raise ValueError(f"`{name}` must lie in [0, 1). Received: {name}={value}. {_works(name)}")

    validate(name, check)


def collect(config_class):
    """Returns `config_class` with every field taken from the flag of its name."""
    return config_class(**{field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(config_class)})


class _NumberParser(flags.ArgumentParser):
    """Another parser of numbers, whose refusals end with an argument that works."""

    def __init__(self, parser, works):
        self._parser = parser
        self.syntactic_help = parser.syntactic_help
        self.works = f"A value that works is {works}."

    def parse(self, argument):
        try:
            return self._parser.parse(argument)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{error}. {self.works}") from None

    def flag_type(self):
        return self._parser.flag_type()


def _works(name):
    return flags.FLAGS[name].parser.works


def _field(config_class, name):
    return {field.name: field for field in dataclasses.fields(config_class)}[name]


def _kind(config_class, name):
    annotation = _field(config_class, name).type
    return {"int | None": int, "str | None": str}.get(str(annotation), annotation)
