"""Errors that end a run in one line, and the exit codes of the binaries. Every other exception is a fault."""

EXIT_USAGE = 2
EXIT_TRAINING = 3
EXIT_PEER_LOST = 4
EXIT_FAULT = 70  # EX_SOFTWARE of BSD's sysexits.h; Python itself and absl use 1


class UsageError(ValueError):
    """A value that the user gave cannot be used.

    The message is one sentence with the value received and one that works. Every check of a user's value raises this
    class; any other exception is a fault of the library and keeps its traceback.
    """

    exit_code = EXIT_USAGE


class CheckpointError(UsageError):
    """A checkpoint does not fit the run or cannot be read; the message names it."""


class TrainingError(Exception):
    """The run cannot continue: too many skipped steps, diverged replicas, a full disk."""

    exit_code = EXIT_TRAINING


class PeerLostError(Exception):
    """Another worker was killed, froze or failed. Collectives fail until all processes are restarted."""

    exit_code = EXIT_PEER_LOST


class LostConnectionError(ConnectionError):
    """A connection to another worker could not be opened, was closed, timed out or received unexpected data."""
