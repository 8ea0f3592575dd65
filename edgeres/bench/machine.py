"""Whether the machine is quiet enough to measure on."""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_WINDOW_S = 0.5
_IDLE_FIELDS = (3, 4)  # idle and iowait, see proc(5)
_COUNTED_FIELDS = 8  # user to steal; guest time is part of user already

Jiffies = dict[int, tuple[int, int]]


def busy_cores(window_s: float = _WINDOW_S) -> float | None:
    """Cores that other programs keep busy while this one sleeps; None where there is no /proc/stat."""
    before = _jiffies()
    time.sleep(window_s)
    after = _jiffies()
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


def _jiffies() -> Jiffies:
    try:
        return jiffies_from(_STAT.read_text(encoding="utf-8"))
    except OSError:
        return {}
