"""Decisions that depend on texts of TensorFlow. Checked with TensorFlow 2.21.0; imports no TensorFlow.

`tests/distributed/test_lost_peer.py` provokes each of these errors in real processes. If TensorFlow had a class or code
for each of these errors, this file would not be needed.
"""

import re
from typing import Any

from dqgan_tf.errors import LostConnectionError

# Lines that TensorFlow prints at import and start at any log level. Those of 2.20 begin with date and time; 2.22.0rc0
# adds lines that say where an error of NVIDIA's driver was made.
START_UP_NOISE = re.compile(
    r"^(WARNING: All log messages before absl|[IWE]0000 |\d{4}-\d\d-\d\d [\d:.]+: [IWE] )|rebuild TensorFlow with the"
    r"|^=== Source Location Trace: === *$|^external/xla/\S*/cuda_status\.cc:\d+$"
)

# Lines that TensorFlow 2.21.0 prints at import before any log level applies, and the error that says that there is no
# driver of NVIDIA: 303 is CUDA_ERROR_SHARED_OBJECT_INIT_FAILED. Other errors are shown.
HARMLESS = re.compile(
    rb"^WARNING: All log messages before absl|^I0000 |failed call to cuInit: .*\(303\)$|rebuild TensorFlow with the"
    rb"|^\d{4}-\d\d-\d\d [\d:.]+: I |^=== Source Location Trace: === *$|^$|^external/xla/\S*/cuda_status\.cc:\d+$"
)

# The classes that a collective or the coordination service raises when a worker was killed, froze or left.
_PEER_LOST = ("UnavailableError", "AbortedError", "DeadlineExceededError")
# These can have other causes. They count if the text names a collective or the service.
_MAYBE_PEER_LOST = ("CancelledError", "InternalError", "FailedPreconditionError")
_SERVICE = re.compile(
    r"\[\[\{\{node [^}]*Collective|Collective ops is aborted|[Cc]oordination|remote target /job:"
    r"|Agent must be in CONNECTED state"
)
_SOCKET = re.compile(rf"{LostConnectionError.__name__}: ([^\n]*)")  # raised in a Python function of a graph
_NODE = re.compile(r"^\{\{.*?\}\} ")  # in front of a message, the node that failed
_STACK_LINE = re.compile(r'^ +File ".*", line \d+, in .*$', re.MULTILINE)


# What the system says of ENOSPC, EDQUOT, EFBIG and EMFILE.
_FULL_DISK = re.compile(r"No space left on device|Disk quota exceeded|File too large|Too many open files")


def is_full_disk(error: Any) -> bool:
    """Returns whether TensorFlow's file system could write no more.

    An allocation of memory that fails raises the same class, `ResourceExhaustedError`, and is a fault.
    """
    return type(error).__name__ == "ResourceExhaustedError" and bool(_FULL_DISK.search(str(error)))


def is_peer_lost(error: Any) -> bool:
    """Returns whether a `tf.errors.OpError` means that another worker was killed, froze or left."""
    name, text = type(error).__name__, error.message
    return (
        bool(_SOCKET.search(text))
        or name in _PEER_LOST
        or name in _MAYBE_PEER_LOST
        and bool(_SERVICE.search(_cause(text)))
    )


def reason(error: Any) -> str:
    """Returns the line of a `tf.errors.OpError` that names the cause, at most 300 characters."""
    if match := _SOCKET.search(error.message):
        return match[1][:300]
    line = next((line for line in _cause(error.message).splitlines() if line.strip()), type(error).__name__)
    if line == "Could not start gRPC server":
        line += ": is the port of this worker in TF_CONFIG in use?"
    return line[:300]


def first_line(error: Exception) -> str:
    """Returns the first line of an error, without the node that TensorFlow puts in front of it."""
    text = _NODE.sub("", getattr(error, "message", None) or str(error))
    return text.partition("\n")[0] or type(error).__name__


def _cause(text):
    """Returns the message after the Python stack of the failing node, whose file names always contain `collective`."""
    return _STACK_LINE.split(text)[-1]
