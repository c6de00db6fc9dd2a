"""A lock on a folder that one job writes. It ends with its process, however that ends."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import struct
import sys

from dqgan_tf.errors import UsageError

_NAME = "LOCK"
_TAKEN = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_descriptors: dict[pathlib.Path, int] = {}  # closing any descriptor of a file would release the process' lock on it


def acquire(folder: pathlib.Path) -> None:
    """Locks `folder` for this process, or does nothing if this process has locked it already.

    The lock is a POSIX record lock on `folder`/LOCK. The kernel releases it when the process ends, so a killed job
    leaves no stale lock. It also holds between machines on NFS, whose server releases the locks of a dead machine: at
    once after its restart, otherwise after the lease (NFSv4, usually 90 s).

    On a file system without locks, prints a warning and goes on.

    Raises:
      UsageError: another process has locked it.
      OSError: the file cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / _NAME
    if path in _descriptors:
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_current(descriptor, path):  # its last holder has removed it between the two calls
            os.close(descriptor)
            acquire(folder)
            return
    except OSError as error:
        holder = _holder(descriptor)
        os.close(descriptor)
        if error.errno in _TAKEN:
            raise UsageError(
                f"{folder} is in use by {holder}. Stop that job first, or choose another folder for this one."
            ) from None
        if error.errno not in _NO_LOCKS:
            raise
        print(f"{folder} has no file locks: make sure that no other job writes into it.", file=sys.stderr, flush=True)
        return
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode(), 0)
    _descriptors[path] = descriptor


def release(folder: pathlib.Path) -> None:
    """Unlocks `folder` and removes the file, if this process has locked it."""
    path = folder.resolve() / _NAME
    descriptor = _descriptors.pop(path, None)
    if descriptor is not None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # while it is locked: afterwards it could be another job's lock
        os.close(descriptor)


def is_held(folder: pathlib.Path) -> bool:
    """Returns whether another process has locked `folder`, without touching the lock.

    True if that cannot be known: on a file system without locks, and elsewhere than on Linux.
    """
    try:
        descriptor = os.open(folder / _NAME, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        if sys.platform != "linux":
            return True
        # `struct flock` of Linux, see fcntl(2): type, whence, start, length, process.
        question = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        return struct.unpack("hhqqi", fcntl.fcntl(descriptor, fcntl.F_GETLK, question))[0] != fcntl.F_UNLCK
    except OSError:
        return True
    finally:
        os.close(descriptor)


def _is_current(descriptor, path):
    """Whether `path` is still the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(descriptor):
    with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
        holder = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {holder['process']} on {holder['host']}"
    return "another process"
