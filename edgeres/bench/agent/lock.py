"""One run at a time on a board: two that measure together measure each other.

The lock is `flock` on edgeres.lock in TMPDIR or /tmp; it is free again when its holder is gone, however that ended.
"""

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path
from typing import Iterator  # noqa: UP035 - Python 3.6

from . import process
from .process import Refused

NAME = "edgeres.lock"
_PID_BYTES = 20
TAKEN = "another edgeres run (pid %s) is using this board; try again when it has ended"


@contextlib.contextmanager
def held() -> "Iterator[None]":
    """Holds the board for the block; raises Refused if another run does."""
    path = str(Path(tempfile.gettempdir()) / NAME)
    descriptor = _taken(path)

    def give_back() -> "None":
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108
        os.close(descriptor)

    with process.at_the_end(give_back):
        yield


def is_held() -> "bool":
    """Whether a run uses the board now."""
    try:
        descriptor = os.open(str(Path(tempfile.gettempdir()) / NAME), os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _taken(path: "str") -> "int":
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except PermissionError:  # another user's file can only be read, which is enough to lock it
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    if _is_mine(descriptor, path):
        with contextlib.suppress(OSError):  # another user's file
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
        return descriptor
    owner = os.pread(descriptor, _PID_BYTES, 0).decode("ascii", "replace").strip() or "unknown"
    os.close(descriptor)
    raise Refused(TAKEN % owner)


def _is_mine(descriptor: "int", path: "str") -> "bool":
    """Locks it; False if another has it, or if the one who had it has just removed the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.stat(path))  # noqa: PTH116 - follows the name, as open did
    except (BlockingIOError, FileNotFoundError):
        return False
