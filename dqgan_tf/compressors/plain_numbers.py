"""Numbers in texts that a user writes: plain decimals, none of the spellings that `int` and `float` take besides."""

import re

_PATTERNS = {int: r"-?[0-9]+", float: r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"}
_WORDS = {int: "a whole number in plain digits", float: "a number in plain digits"}
_LONGEST = 32  # characters


def read(key: str, text: str, kind: type) -> int | float:
    """Returns the number of `text`, such as `12`, or for a float `0.01` or `1e-3` too.

    Args:
      key: its name, for the message.
      text: what stands for it.
      kind: int or float.

    Raises:
      ValueError: anything else: spaces, `+4`, `0_4`, `nan`, digits that are not ASCII.
    """
    if len(text) > _LONGEST or not re.fullmatch(_PATTERNS[kind], text):
        raise ValueError(f"`{key}` must be {_WORDS[kind]}. Received: {key}={text}")
    return kind(text)
