"""What several seeds say: a mean with its interval, and the verdict that may be drawn from it.

All networks of a study see the same images, so a difference between two kinds is taken seed by seed and its interval
holds the luck of initial weights, order and augmentation; how far the images stand for others is said by n.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from edgeres.core.statistics import Interval, t_95
from edgeres.study.result import Row, Value, numbers

MIN_SEEDS = 3  # fewer say nothing about training


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean over seeds and its 95 % t interval; one value alone has an infinite one."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Interval(value=mean, low=-math.inf, high=math.inf)
    half = t_95(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(value=mean, low=mean - half, high=mean + half)


def by_seed(rows: Iterable[Row], column: str, **kind: Value) -> list[float]:
    """The column's values in the rows of that kind, in order of their seed."""
    chosen = [row for row in rows if all(row[name] == value for name, value in kind.items())]
    seeds = np.argsort(numbers(chosen, "seed"), kind="stable")
    return [numbers(chosen, column)[place] for place in seeds]


def difference(after: Sequence[float], before: Sequence[float]) -> Interval:
    """The change from `before` to `after`, paired by seed."""
    return mean_interval([b - a for a, b in zip(before, after, strict=True)])


def points(change: Interval) -> str:
    """`+1.20 points (+0.30 to +2.10)`."""
    return change.text("+.2f", "points")
