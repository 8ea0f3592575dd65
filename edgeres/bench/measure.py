"""The measuring loop: a pure function of what is timed, such as a Runner, and a clock."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Protocol

from edgeres.core.config import Record

Clock = Callable[[], float]

_WINDOW_S = 0.25  # long enough for a CPU to reach its clock frequency
_WINDOW_CALLS = 3  # a median needs them, however slow the model
_STABLE = 0.05  # two windows this close are the same speed; timer and scheduler noise stay below it
_WARMUP_LIMIT_S = 10.0
_REWARM_CALLS = 3  # another model ran since the last turn: caches and branch predictors are its own


class Steps(Protocol):
    """What is timed: a loaded Runner, or more around one."""

    name: str

    def step(self) -> None:
        """One call."""

    def synchronize(self) -> None:
        """Waits until the last step is done."""


class Turn(Record):
    """One model's share of a round: calls for `seconds`, but at least `least` and at most `most` of them."""

    seconds: float
    least: int
    most: int


def warm_up(runner: Steps, clock: Clock) -> tuple[int, bool]:
    """Calls the loaded `runner` until its speed no longer changes, or for ten seconds.

    (how many calls it took until two windows in a row had the same median, whether that came).
    """
    start, calls, before = clock(), 0, 0.0
    while clock() - start < _WARMUP_LIMIT_S:
        window = _calls_ms(runner, Turn(seconds=_WINDOW_S, least=_WINDOW_CALLS, most=1_000_000), clock)
        calls += len(window)
        median = statistics.median(window)
        if before and abs(median - before) <= _STABLE * before:
            return calls, True
        before = median
    return calls, False


def take_turn(runner: Steps, turn: Turn, clock: Clock) -> list[float]:
    """Milliseconds of each call of the loaded `runner`, a few untimed calls made first."""
    for _ in range(_REWARM_CALLS):
        runner.step()
    runner.synchronize()
    return _calls_ms(runner, turn, clock)


def _calls_ms(runner: Steps, turn: Turn, clock: Clock) -> list[float]:
    samples: list[float] = []
    end = clock() + turn.seconds
    while len(samples) < turn.most and (len(samples) < turn.least or clock() < end):
        start = clock()
        runner.step()
        runner.synchronize()
        samples.append((clock() - start) * 1000)
    return samples
