"""Children that die with the agent, also where it is killed without warning (SIGKILL, the kernel out of memory).

    prctl(PR_SET_PDEATHSIG, SIGKILL)    in the child, before it becomes another program

The kernel sends the signal when the *thread* that started the child ends: children are started by the main thread and
by the leash's, and both last as long as the process. Two kinds are not reached: what runs through sudo, where the
kernel forgets the setting (it ends by itself, and is short), and what a child starts in turn.

Source: prctl(2), PR_SET_PDEATHSIG.
"""

import ctypes
import os
import signal
from typing import Callable  # noqa: UP035 - Python 3.6

_PR_SET_PDEATHSIG = 1
_ENDED = 1


def bond() -> "Callable[[], None] | None":
    """To be called in the child between fork and exec; None where there is no prctl.

    All it needs is looked up here: between fork and exec of a program with threads little may be done.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    parent, name, number = os.getpid(), ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signal.SIGKILL)

    def follow() -> "None":
        prctl(name, number)
        if os.getppid() != parent:  # it ended before this child could ask
            os._exit(_ENDED)

    return follow
