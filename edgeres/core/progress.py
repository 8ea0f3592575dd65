"""Progress on stderr: a bar on a terminal, on a pipe lines of the log; and lengths of time as people write them."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from edgeres.core.errors import InputError

T = TypeVar("T")
log = logging.getLogger(__name__)
_SAID_EVERY_S = 10.0
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_PART = r"(?:(\d+(?:\.\d+)?){unit})?"
_WHOLE = re.compile("".join(_PART.format(unit=unit) for unit in _SECONDS))
_began_s: ContextVar[float | None] = ContextVar("began_s", default=None)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` while a bar with the remaining time is drawn, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, description, total=total, console=Console(file=sys.__stderr__), transient=True)


@dataclass(frozen=True)
class Bar:
    """For work that is not a loop: `expect` says how much there is in all, `advance` that some of it is done."""

    expect: Callable[[float], None]
    advance: Callable[[float], None]


@contextlib.contextmanager
def bar(description: str) -> Iterator[Bar]:
    """A bar with the remaining time, on a pipe a line now and then; how much there is may be said later, and again."""
    if not sys.stderr.isatty():
        spoken = _Spoken(description)
        yield Bar(spoken.expect, spoken.advance)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=sys.__stderr__), transient=True) as progress:
        task = progress.add_task(description, total=None)
        yield Bar(
            lambda total: progress.update(task, total=total), lambda amount: progress.update(task, advance=amount)
        )


class Countdown:
    """How long the rest of `total` pieces of work will take, at the pace of those that are done."""

    def __init__(self, total: float) -> None:
        self._left, self._done, self._began_s = total, 0.0, time.monotonic()

    def advance(self, amount: float = 1) -> None:
        """So much more is done."""
        self._left, self._done = self._left - amount, self._done + amount

    @property
    def text(self) -> str:
        """`; about 4m left`, for the end of a line; empty as long as nothing is done, and once all is."""
        if not self._done or self._left <= 0:
            return ""
        return f"; about {text_from((time.monotonic() - self._began_s) / self._done * self._left)} left"


class _Spoken(Countdown):
    """A bar in lines: so much is done, and what the rest will take."""

    def __init__(self, description: str) -> None:
        super().__init__(0.0)
        self._description, self._said_s = description, self._began_s

    def expect(self, total: float) -> None:
        """There is so much in all."""
        self._left = total - self._done

    def advance(self, amount: float = 1) -> None:
        """So much more is done, which is said if it is some time since the last line."""
        super().advance(amount)
        if time.monotonic() - self._said_s >= _SAID_EVERY_S and self.text:
            self._said_s = time.monotonic()
            log.info("%s: %.0f %%%s", self._description, 100 * self._done / (self._done + self._left), self.text)


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """The logger of that name warns only, unless `-v` asks for everything: its lines are about one of dozens."""
    logger = logging.getLogger(name)
    before = logger.level
    if not logger.isEnabledFor(logging.DEBUG):
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def budget_runs_from(began_s: float | None) -> Iterator[None]:
    """Inside, the first that asks `budget_began` is told this: the start of a command counts for its budget."""
    before = _began_s.set(began_s)
    try:
        yield
    finally:
        _began_s.reset(before)


def budget_began() -> float:
    """When a budget that is asked for now began to run, on time.perf_counter."""
    began_s = _began_s.get()
    _began_s.set(None)
    return time.perf_counter() if began_s is None else began_s


def seconds_from(text: str) -> float:
    """The seconds `text` stands for; raises InputError unless it is a positive length like "90s", "3m" or "1h30m"."""
    match = _WHOLE.fullmatch("".join(text.lower().split()))
    amounts = match.groups() if match else ()
    seconds = sum(float(amount or 0) * unit for amount, unit in zip(amounts, _SECONDS.values(), strict=False))
    if seconds <= 0:
        raise InputError(f"--budget {text!r} is no length of time; write it as 90s, 3m or 1h30m")
    return seconds


def text_from(seconds: float) -> str:
    """The shortest of the forms `seconds_from` reads, rounded to whole seconds up to an hour and to minutes above."""
    whole = max(1, round(seconds))
    if whole < _SECONDS["m"]:
        return f"{whole}s"
    if whole < _SECONDS["h"]:
        minutes, rest = divmod(whole, 60)
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours}h{minutes}m" if minutes else f"{hours}h"
