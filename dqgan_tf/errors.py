"""Errors that the user can mend, and the exit codes of the binaries."""


class UsageError(ValueError):
    """A value that the user gave cannot be used.

    The message is one sentence that names the value received and one that works. Every check of a user's value raises
    this class; any other exception is a fault of the library and keeps its traceback.
    """


class LostConnectionError(ConnectionError):
    """A connection to another worker could not be opened, was closed, fell silent, or brought what was not expected."""
