"""What else the machine does while a session runs: load of other programs, and the clock frequency.

    other cores = busy share of our cores, summed, from /proc/stat - processor time of our own processes / elapsed time

The reading is taken between rounds, while every worker sleeps; time that a hypervisor gave to somebody else counts as
busy. The clock is read right after a turn, when the core that worked still runs at its frequency; no machine at hand
said its clock, so that part has only been tested on files written for the test.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from edgeres.core.config import Record
from edgeres.core.environment import affinity, clock_mhz

_WINDOW_S = 0.5  # the kernel counts in ticks of 10 ms: shorter windows would be noise
_PROC = Path("/proc")
_STAT = _PROC / "stat"
_IDLE_FIELDS = (3, 4)  # idle and iowait, see proc(5)
_COUNTED_FIELDS = 8  # user to steal; guest time is part of user already
_USED_FIELDS = slice(11, 13)  # utime and stime, counted from the state, which follows the name in brackets
_FELL = 0.9  # of the clock; turbo steps of one bin stay above it
_FEWEST = 6  # readings from which a first and a last third can be told

Jiffies = dict[int, tuple[int, int]]


class Reading(Record):
    """One window that ended `at_s` seconds after the session began."""

    at_s: float
    other_cores: float | None
    clock_mhz: float | None


class Watch:
    """Takes a reading whenever it is asked to `look`, but not more often than every half second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.readings: list[Reading] = []
        self._clock = clock

    def start(self, pids: Sequence[int]) -> None:
        """Begins; `pids` are our own processes besides this one."""
        self._pids = (os.getpid(), *pids)
        self._began = self._clock()
        self._remember()

    def look(self) -> None:
        """One reading of the time since the last, if that was long enough ago."""
        now = self._clock()
        if now - self._since < _WINDOW_S:
            return
        clocks = clock_mhz()
        self.readings.append(
            Reading(
                at_s=round(now - self._began, 3),
                other_cores=self.other_cores(now - self._since),
                clock_mhz=max(clocks) if clocks else None,
            )
        )
        self._remember()

    def other_cores(self, elapsed_s: float) -> float | None:
        """Cores that other programs kept busy in these seconds since the last reading; None without /proc/stat."""
        present = jiffies()
        if not present or not self._jiffies:
            return None
        busy = busy_between(self._jiffies, present, set(affinity()))
        own = (cpu_s_of(self._pids) - self._used_s) / elapsed_s
        return round(max(busy - own, 0.0), 3)

    def _remember(self) -> None:
        self._since, self._jiffies = self._clock(), jiffies()
        self._used_s = cpu_s_of(self._pids) if self._jiffies else 0.0


class Neighbours(Record):
    """What other programs took during a session: cores on average and at most, and in how many readings too much."""

    mean_cores: float
    most_cores: float
    readings: int
    busy_readings: int


def neighbours_in(readings: Sequence[Reading], limit_cores: float) -> Neighbours | None:
    """A summary, "too much" being more than `limit_cores`; None if the system did not say."""
    seen = [reading.other_cores for reading in readings if reading.other_cores is not None]
    if not seen:
        return None
    return Neighbours(
        mean_cores=float(np.mean(seen)),
        most_cores=max(seen),
        readings=len(seen),
        busy_readings=sum(cores > limit_cores for cores in seen),
    )


def fallen_clock(readings: Sequence[Reading]) -> tuple[float, float] | None:
    """Clock in MHz of the first and of the last third of the session if it fell by more than a tenth."""
    seen = [reading.clock_mhz for reading in readings if reading.clock_mhz is not None]
    if len(seen) < _FEWEST:
        return None
    third = len(seen) // 3
    first, last = float(np.median(seen[:third])), float(np.median(seen[-third:]))
    return (first, last) if last < _FELL * first else None


def busy_cores(window_s: float = _WINDOW_S) -> float | None:
    """Cores that other programs keep busy while this one sleeps; None where there is no /proc/stat."""
    watch = Watch()
    watch.start(())
    time.sleep(window_s)
    return watch.other_cores(window_s)


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
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
            ticks += sum(map(int, text.rpartition(")")[2].split()[_USED_FIELDS]))
    return ticks / os.sysconf("SC_CLK_TCK")
