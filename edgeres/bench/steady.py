"""Whether a series of measurements kept one level, and which calls stand out.

    change    Pettitt's test over the medians of the rounds x_1 .. x_n:
              U_t = sum over i <= t < j of sign(x_i - x_j),   K = max |U_t|,   p = 2 exp(-6 K^2 / (n^3 + n^2))
    outlier   a call with |M| > 3.5, M = 0.6745 (d - median d) / MAD, d: its time over the median of its round

Rounds that follow each other resemble each other, which makes p too small: a change counts only if the level also moved
by more than `MOVED`. Dividing by the round keeps a drift, which is the business of the first test, out of the second.
Outliers are counted and kept: a percentile without them would not be one.

Source: Pettitt 1979, doi:10.2307/2346729; Iglewicz & Hoaglin 1993, "How to Detect and Handle Outliers", chapter 3.
For why warm-up alone does not make a benchmark steady: Barrett et al. 2017, doi:10.1145/3133876.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeres.core.config import Record
from edgeres.core.metrics import Latency
from edgeres.core.statistics import round_medians

MIN_ROUNDS = 16  # with fewer, even two levels that do not overlap stay above SIGNIFICANT
SIGNIFICANT = 0.01
MOVED = 0.03  # of the level; below it lies what rounds of an undisturbed CPU differ from each other
_CUT = 3.5
_NORMAL_MAD = 0.6745  # of a normal distribution, in standard deviations
_NORMAL_MEAN_DEVIATION = 1.253314  # standard deviation over mean deviation; stands in where the MAD is 0
_MIN_CALLS = 3  # a round's median says something only with them

Series = NDArray[np.float64]


class Level(Record):
    """The likeliest change of level: between round `after_round` and the next, by the factor `ratio`."""

    rounds: int
    after_round: int
    ratio: float
    p_value: float

    @property
    def is_steady(self) -> bool:
        """Whether no change can be claimed."""
        return self.p_value >= SIGNIFICANT or abs(self.ratio - 1) <= MOVED


class Outliers(Record):
    """How many of the `calls` stand out, upwards (`slow`) or downwards (`fast`)."""

    calls: int
    slow: int
    fast: int

    @property
    def share(self) -> float:
        """Of all calls, in [0, 1]."""
        return (self.slow + self.fast) / self.calls


def level_of(latency: Latency) -> Level | None:
    """Pettitt's test over the medians of the rounds; None with fewer than MIN_ROUNDS of them."""
    medians = round_medians(latency)
    return change_in(medians) if len(medians) >= MIN_ROUNDS else None


def change_in(series: Series) -> Level:
    """Pettitt's test of float64 (n,), n at least 2."""
    n = len(series)
    signs = np.sign(series[:, None] - series[None, :])
    statistic = np.cumsum(signs.sum(axis=1))[:-1]  # pairs within the first t cancel
    split = int(np.abs(statistic).argmax()) + 1
    largest = float(abs(statistic[split - 1]))
    return Level(
        rounds=n,
        after_round=split,
        ratio=float(np.median(series[split:]) / np.median(series[:split])),
        p_value=min(1.0, 2 * math.exp(-6 * largest**2 / (n**3 + n**2))),
    )


def outliers_in(latency: Latency) -> Outliers:
    """The calls whose modified z-score exceeds 3.5."""
    scores = modified_z(_relative(latency))
    return Outliers(calls=len(scores), slow=int((scores > _CUT).sum()), fast=int((scores < -_CUT).sum()))


def modified_z(values: Series) -> Series:
    """Distances from the median in robust standard deviations: float64 (n,), all 0 if the values are all the same."""
    distances = values - np.median(values)
    spread = float(np.median(np.abs(distances))) / _NORMAL_MAD
    spread = spread or _NORMAL_MEAN_DEVIATION * float(np.abs(distances).mean())
    scores: Series = distances / spread if spread else np.zeros_like(distances)
    return scores


def _relative(latency: Latency) -> Series:
    """Each call over the median of its round, or of all calls where rounds are too short."""
    samples = np.asarray(latency.samples_ms)
    medians: Series = np.median(samples, keepdims=True)
    if latency.rounds and min(latency.rounds) >= _MIN_CALLS:
        medians = np.repeat(round_medians(latency), latency.rounds)
    relative: Series = samples / medians
    return relative
