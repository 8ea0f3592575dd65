"""Which process began when: its number is used again, by another one."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

_DEAD, _BEGAN = "Z", 19  # of the fields after the program's name in /proc/PID/stat, see proc(5)


def process_began(pid: int) -> str | None:
    """When the process began, as its system counts; None if it is gone. A number is used again, by another one."""
    if Path("/proc/self/stat").exists():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            return None if fields[0] == _DEAD else fields[_BEGAN]
        return None
    with contextlib.suppress(OSError):
        asked = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return "".join(asked.stdout.split()) or None
    return None
