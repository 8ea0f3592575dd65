"""What several seeds say: a mean with its interval, and the verdict that may be drawn from it.

All networks of a study see the same images, so a difference between two kinds is taken seed by seed and its interval
holds the luck of initial weights, order and augmentation; how far the images stand for others is said by n.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from edgeres.core.statistics import Interval, t_95
from edgeres.study.result import Value, Verdict

Row = dict[str, Value]
MIN_SEEDS = 3  # fewer say nothing about training


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean over seeds and its 95 % t interval; one value alone has an infinite one."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Interval(value=mean, low=-math.inf, high=math.inf)
    half = t_95(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(value=mean, low=mean - half, high=mean + half)


def judged(*, holds: bool, fails: bool, seeds: int) -> Verdict:
    """`undecided` with too few seeds, or if the figures show neither."""
    if seeds < MIN_SEEDS or holds == fails:
        return "undecided"
    return "supported" if holds else "not supported"


def by_seed(rows: Iterable[Row], column: str, **kind: Value) -> list[float]:
    """The column's values in the rows of that kind, in order of their seed."""
    chosen = [row for row in rows if all(row[name] == value for name, value in kind.items())]
    return [_number(row[column]) for row in sorted(chosen, key=lambda row: _number(row["seed"]))]


def difference(after: Sequence[float], before: Sequence[float]) -> Interval:
    """The change from `before` to `after`, paired by seed."""
    return mean_interval([b - a for a, b in zip(before, after, strict=True)])


def shown(interval: Interval, unit: str = "points") -> str:
    """`+1.2 points (0.3 to 2.1)`."""
    if math.isinf(interval.low):
        return f"{interval.value:+.2f} {unit} (one seed, no interval)"
    return f"{interval.value:+.2f} {unit} ({interval.low:+.2f} to {interval.high:+.2f})"


def _number(value: Value) -> float:
    assert isinstance(value, (int, float))
    return float(value)
