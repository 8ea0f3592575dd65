"""What the machine does besides, read from /proc and /sys; nothing is known where there is neither."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

_PROC = Path("/proc")
_STAT = _PROC / "stat"
_WINDOW_S = 0.5
_IDLE_FIELDS = (3, 4)  # idle and iowait, see proc(5)
_COUNTED_FIELDS = 8  # user to steal; guest time is part of user already
_USED_FIELDS = slice(11, 13)  # utime and stime, counted from the state, which follows the name in brackets

Jiffies = dict[int, tuple[int, int]]


def busy_cores(window_s: float = _WINDOW_S) -> float | None:
    """Cores that other programs keep busy while this one sleeps; None where there is no /proc/stat."""
    before = jiffies()
    time.sleep(window_s)
    after = jiffies()
    return busy_between(before, after, os.sched_getaffinity(0)) if before and after else None


def busy_between(before: Jiffies, after: Jiffies, cores: set[int]) -> float:
    """Busy share summed over `cores` between two readings of (busy, all) jiffies."""
    shares = []
    for core in cores & before.keys() & after.keys():
        busy, total = (late - early for early, late in zip(before[core], after[core], strict=True))
        shares.append(busy / total if total > 0 else 0.0)
    return sum(shares)


def jiffies_from(text: str) -> Jiffies:
    """Core -> (busy, all) jiffies since boot, from the text of /proc/stat."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        if name.startswith("cpu") and name[3:].isdigit():
            counts = [int(field) for field in rest.split()][:_COUNTED_FIELDS]
            total = sum(counts)
            found[int(name[3:])] = total - sum(counts[index] for index in _IDLE_FIELDS), total
    return found


def jiffies() -> Jiffies:
    """The present reading; empty where there is no /proc/stat."""
    try:
        return jiffies_from(_STAT.read_text(encoding="utf-8"))
    except OSError:
        return {}


def cpu_s_of(pids: Sequence[int]) -> float:
    """Processor seconds these processes have used so far, all their threads together; one that has ended has none."""
    ticks = sum(_ticks_of(pid) for pid in pids)
    return ticks / os.sysconf("SC_CLK_TCK")


def _ticks_of(pid: int) -> int:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return sum(map(int, text.rpartition(")")[2].split()[_USED_FIELDS]))
