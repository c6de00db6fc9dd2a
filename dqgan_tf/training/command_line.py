"""The command line of a binary: what is wrong with it is said in one line, before TensorFlow is imported."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import flags

from dqgan_tf.training.errors import EXIT_USAGE


def parse(arguments: Sequence[str]) -> list[str]:
    """Parses the command line for `app.run(main, flags_parser=parse)`; returns the binary's name alone.

    A flag that is unknown or has a bad value, or an argument that is no flag, ends the process with one line on stderr
    and `EXIT_USAGE`, as every error of the user does: absl's own parser would leave with 1, which a launcher takes for
    a crash that is worth another start.
    """
    try:
        rest = flags.FLAGS(arguments)
    except flags.Error as error:
        refuse(f"{error} See --helpshort.")
    if len(rest) > 1:
        refuse(f"Unexpected argument {rest[1]!r}.")
    return rest


def parse_before_dashes(arguments: Sequence[str]) -> list[str]:
    """`parse` of what stands before `--`; returns the binary's name and what stands behind."""
    arguments = list(arguments)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    return [*parse(arguments[:cut]), *arguments[cut + 1 :]]


def refuse(text: str) -> NoReturn:
    """Ends the process with `text` as one line on stderr and `EXIT_USAGE`."""
    print("ERROR: " + " ".join(text.split()), file=sys.stderr, flush=True)
    raise SystemExit(EXIT_USAGE) from None
