"""Errors that are the user's to mend, and the exit codes of the binaries."""

import re

EXIT_USAGE = 2
EXIT_TRAINING = 3
EXIT_PEER_LOST = 4


class UsageError(Exception):
    """Something that the user asked for cannot be done; the message is one sentence that says what to do."""

    exit_code = EXIT_USAGE


class CheckpointError(UsageError):
    """A checkpoint does not fit the run or cannot be read; the message names it."""


class TrainingError(Exception):
    """The run cannot go on: too many non-finite steps, diverged replicas, a full disk."""

    exit_code = EXIT_TRAINING


class PeerLostError(Exception):
    """Another worker died or froze; collectives are dead until all processes restart."""

    exit_code = EXIT_PEER_LOST


def first_line(error: Exception) -> str:
    """Returns an error's first line, without the node that TensorFlow 2.21 puts in front of it."""
    text = re.sub(r"^\{\{.*?\}\} ", "", getattr(error, "message", None) or str(error))
    return text.partition("\n")[0] or type(error).__name__
