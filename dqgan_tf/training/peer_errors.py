"""Which of TensorFlow's errors mean that another worker is gone, and which are a fault of this program."""

import re

import tensorflow as tf

from dqgan_tf.errors import LostConnectionError

# What TensorFlow 2.21 raised from collectives and the coordination service when a worker was killed, frozen or left.
_ALWAYS = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
# These have other causes too; they count where the text says that it comes from a collective or the service.
_OF_A_COLLECTIVE = (tf.errors.CancelledError, tf.errors.InternalError, tf.errors.FailedPreconditionError)
_OF_A_SOCKET = re.compile(rf"{LostConnectionError.__name__}: ([^\n]*)")
_SOURCES = re.compile(r"\[\[\{\{node [^}]*Collective|Collective ops is aborted|[Cc]oordination|remote target /job:")


def is_peer_lost(error: tf.errors.OpError) -> bool:
    """Whether `error` says that a socket, a collective or the coordination service lost a member."""
    if _OF_A_SOCKET.search(error.message):
        return True
    return isinstance(error, _ALWAYS) or isinstance(error, _OF_A_COLLECTIVE) and bool(_SOURCES.search(_cause(error)))


def reason(error: tf.errors.OpError) -> str:
    """Returns the line of `error` that names the cause, at most 300 characters."""
    if found := _OF_A_SOCKET.search(error.message):
        return found[1][:300]
    lines = [line for line in _cause(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _cause(error):
    """The message without the Python stack of the failing node, whose file names speak of collectives in any case."""
    *_, last_of_stack = re.split(r'^ +File ".*", line \d+, in .*$', error.message, flags=re.MULTILINE)
    return last_of_stack
