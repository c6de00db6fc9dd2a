"""A setting: a dataclass field with its default, help text, bounds and choices, and the check of a value.

`config.py` has the settings themselves. This file imports no TensorFlow.
"""

import dataclasses
import functools
import numbers
import os
import sys
import typing
from typing import Any

from absl import logging

from dqgan_tf.errors import UsageError


def setting(
    default: Any,
    help_text: str,
    *,
    choices: tuple[str, ...] = (),
    lower: float | None = None,
    above: float | None = None,
    below: float | None = None,
    upper: float | None = None,
    example: Any = None,
    is_path: bool = False,
    may_change: bool = False,
    is_local: bool = False,
    used_with: tuple[str, tuple[str, ...]] | None = None,
) -> Any:
    """Returns a dataclass field with help text, bounds and choices in its metadata.

    Args:
      default: default of the field and its flag.
      help_text: explanation for users, with units.
      choices: the allowed values of a text. `dirichlet:ALPHA` allows `dirichlet:` and a number above 0.
      lower, above, below, upper: bounds of a number: value >= lower, value > above, value < below, value <= upper.
      example: a number that works, for error messages; None takes the default.
      is_path: the text is a path.
      may_change: a resumed run may have another value.
      is_local: each worker may have its own value; implies `may_change`.
      used_with: a setting of the same group, and those of its values with which this one has an effect; None: all.
    """
    if used_with:
        help_text += f" Used with {used_with[0]}={' or '.join(used_with[1])}."
    metadata: dict[str, Any] = {
        "used_with": used_with,
        "help": help_text,
        "choices": choices,
        "is_path": is_path,
        "is_local": is_local,
    }
    metadata |= {"lower": lower, "above": above, "below": below, "upper": upper, "may_change": may_change or is_local}
    return dataclasses.field(default=default, metadata=metadata | {"example": default if example is None else example})


def check(field: dataclasses.Field, value: Any) -> bool | int | float | str | None:
    """Returns `value` as the plain bool, int, float or str of the field's type; None where the type allows it.

    Args:
      field: field of a subclass of `Settings`.
      value: may be a number of numpy, or a `pathlib.Path` for a path. `~` in front of a path is the home folder.

    Raises:
      UsageError: another type, not finite, out of bounds, or none of the choices.
    """
    kind, is_optional = value_type(field)
    if value is None and is_optional:
        return None
    is_path = field.metadata["is_path"]
    if is_path and isinstance(value, str | os.PathLike):
        value = os.path.expanduser(os.fspath(value))
    has_type = {
        bool: isinstance(value, bool),
        # At most 64 bits, as TensorFlow's integers have.
        int: isinstance(value, numbers.Integral) and not isinstance(value, bool) and abs(int(value)) < 1 << 63,
        # At most the largest float: false for NaN, for infinity and for integers that no float holds.
        float: isinstance(value, numbers.Real) and not isinstance(value, bool) and abs(value) <= sys.float_info.max,  # type: ignore[operator]
        str: isinstance(value, str) and not (is_path and ("://" in value or value.startswith("~"))),
    }[kind]
    choices, lower, above, below, upper = (
        field.metadata[key] for key in ("choices", "lower", "above", "below", "upper")
    )
    if (
        has_type
        and (not choices or any(_is_choice(value, choice) for choice in choices))
        and (lower is None or value >= lower)
        and (above is None or value > above)
        and (below is None or value < below)
        and (upper is None or value <= upper)
    ):
        return kind(value)
    works = f". A value that works is {field.name}={field.metadata['example']}" if kind in (int, float) else ""
    raise UsageError(f"`{field.name}` must be {requirement(field)}. Received: {field.name}={value!r}{works}")


def requirement(field: dataclasses.Field) -> str:
    """Returns the condition that `check` tests, such as `a whole number of at least 1`."""
    if field.metadata["choices"]:
        return "one of " + ", ".join(field.metadata["choices"])
    kind, _ = value_type(field)
    noun = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
    if field.metadata["is_path"]:
        return "a path, not a URL or the home folder of an unknown user"
    words = {"lower": "of at least", "above": "above", "below": "below", "upper": "at most"}
    bounds = [f"{word} {field.metadata[key]}" for key, word in words.items() if field.metadata[key] is not None]
    return " ".join([noun, " and ".join(bounds)]).rstrip()


def _is_choice(value: Any, choice: str) -> bool:
    name, colon, _ = choice.partition(":")
    if not colon or not value.startswith(name + colon):
        return value == choice
    try:
        return 0 < float(value.removeprefix(name + colon)) <= sys.float_info.max
    except ValueError:
        return False


def value_type(field: dataclasses.Field) -> tuple[type, bool]:
    """Returns the type of a field's values, and whether None is allowed too."""
    allowed = typing.get_args(field.type) or (field.type,)
    return allowed[0], type(None) in allowed


def group_class(field: dataclasses.Field) -> Any:
    """Returns the class of a group of settings. A type checker knows `Field.type` as a class or a text."""
    return field.type


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base class of the dataclasses of `config`. Construction checks every field; the help texts form the docstring.

    Raises:
      UsageError: see `check`; or a field of `RunConfig` has another class than its annotation.
    """

    def __init_subclass__(cls) -> None:
        fields = {name: value for name, value in vars(cls).items() if isinstance(value, dataclasses.Field)}
        lines = [f"{name}: {field.metadata['help']}" for name, field in fields.items() if field.metadata]
        cls.__doc__ = "\n".join([cls.__doc__ or cls.__name__, "", *lines])

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata:
                object.__setattr__(self, field.name, check(field, value))
            elif not isinstance(value, group_class(field)):
                name = group_class(field).__name__
                raise UsageError(f"`{field.name}` must be a dqgan_tf.config.{name}. Received: {field.name}={value!r}")

    def warn_of_unused(self) -> None:
        """Logs a warning for each setting that is not the default and has no effect beside the others, once a process.

        Not at construction: `RunConfig` may still replace what the others say, by its method.
        """
        for field in dataclasses.fields(self):
            value, used_with = getattr(self, field.name), field.metadata.get("used_with")
            if used_with and value != field.default and getattr(self, used_with[0]) not in used_with[1]:
                other, works = used_with
                warn_once(
                    f"{field.name}={value} has no effect with {other}={getattr(self, other)}: it is used with {other}="
                    + " or ".join(works)
                )


@functools.cache
def warn_once(sentence: str) -> None:
    """Logs a warning, the first time that it is given in this process."""
    logging.warning("%s", sentence)
