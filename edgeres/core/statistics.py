"""Bootstrap intervals of latencies.

Calls that follow each other share what disturbs them (clock frequency, a neighbour's burst), so the unit that
is drawn with replacement is the round of an interleaved session, not the call. A ratio draws the SAME rounds
on both sides: what slowed a round slowed both and cancels. Without rounds the calls themselves are drawn.

What an interval does not hold is the luck of one process start (memory layout): a graph timed against its own
copy differed by 0.1, 0.1 and 1.0 % in three sessions, the last just outside its interval. Below 1 % draw no
conclusion.

Source: Efron & Tibshirani 1993, chapters 8 (dependent data) and 13 (percentile interval).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgeres.core.errors import InputError
from edgeres.core.metrics import Z_95, Interval, Latency

RESAMPLES = 1000
_AT_ONCE = 1 << 21  # weights in memory: 16 MB, so that a board is not filled by a long session
_LEVEL = (2.5, 97.5)  # percentiles that enclose 95 %
MIN_ROUNDS = 5  # fewer rounds than this give no interval worth the name; their calls are drawn instead

# two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

Counts = NDArray[np.int64]


def calls_needed(q: float) -> int:
    """Calls below which the q-th percentile, q in (0, 100), has no 95 % interval.

    The slowest of n independent calls is below that percentile with probability (q/100)^n; until that is less than
    2.5 % no order statistic bounds it from above (and, q below 50, the fastest none from below).
    Source: Conover 1999, "Practical Nonparametric Statistics", section 3.2.
    """
    tail = max(q, 100 - q) / 100
    return math.ceil(math.log((100 - _LEVEL[1]) / 100) / math.log(tail))


P99_CALLS = calls_needed(99)


def t_95(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t: by table, above it by the expansion around the normal quantile.

    Source: Abramowitz & Stegun 26.7.5, three terms, right to 0.1 % from 11 degrees on.
    """
    n, z = max(degrees, 1), Z_95
    if n <= len(_T_95):
        return _T_95[n - 1]
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)


@lru_cache(maxsize=256)  # a report asks several times
def percentile_interval(latency: Latency, q: float, seed: int = 0) -> Interval:
    """The q-th percentile in milliseconds, q in [0, 100]."""
    return interval_of(latency.samples_ms, latency.rounds, q=q, seed=seed)


def interval_of(samples_ms: Sequence[float], rounds: Sequence[int], *, q: float, seed: int = 0) -> Interval:
    """The q-th percentile of `samples_ms`, which came in rounds of so many calls; no rounds if none are recorded."""
    samples = np.asarray(samples_ms)
    owners = _round_of_each(len(samples), rounds)
    draws = _resampled(samples, owners, _draws(int(owners[-1]) + 1, seed), q)
    return resampled_interval(float(np.percentile(samples, q)), draws)


def rate_interval(latency: Latency) -> Interval:
    """Images a second: batch over median."""
    return percentile_interval(latency, 50).inverse(1000 * latency.batch)


def round_medians(latency: Latency) -> NDArray[np.float64]:
    """Median of every round in milliseconds, in order: float64 (rounds,); of one round if none are recorded."""
    return np.asarray([np.median(part) for part in by_round(latency)])


def by_round(latency: Latency) -> list[NDArray[np.float64]]:
    """The samples of every round in milliseconds, in order; one round if none are recorded."""
    samples = np.asarray(latency.samples_ms)
    return np.split(samples, np.cumsum(latency.rounds)[:-1]) if latency.rounds else [samples]


@lru_cache(maxsize=256)
def ratio_interval(before: Latency, after: Latency, seed: int = 0) -> Interval:
    """Median of `after` over median of `before`; raises InputError if they must not be compared."""
    check_comparable(before, after)
    rounds_before, rounds_after = (_round_of_each(len(one.samples_ms), one.rounds) for one in (before, after))
    value = after.p50_ms / before.p50_ms
    n_before, n_after = int(rounds_before[-1]) + 1, int(rounds_after[-1]) + 1
    draws_before = _draws(n_before, seed)
    are_paired = n_before == n_after and len(before.rounds) == n_before and len(after.rounds) == n_after
    draws_after = draws_before if are_paired else _draws(n_after, seed + 1)
    medians_before = _resampled(np.asarray(before.samples_ms), rounds_before, draws_before, 50)
    medians_after = _resampled(np.asarray(after.samples_ms), rounds_after, draws_after, 50)
    return resampled_interval(value, medians_after / medians_before)


def check_comparable(before: Latency, after: Latency) -> None:
    """Raises InputError unless both come from one session and differ only in the model and its runtime."""
    for name in ("session", "machine", "batch", "threads"):
        seen = getattr(before, name), getattr(after, name)
        if seen[0] != seen[1]:
            raise InputError(
                f"latencies of {name} {seen[0]} and {seen[1]} cannot be compared;"
                " time both in one session: edgeres bench A B"
            )


def spread_ms(latency: Latency) -> float:
    """Distance between the quartiles."""
    return latency.percentile_ms(75) - latency.percentile_ms(25)


def _round_of_each(n: int, rounds: Sequence[int]) -> Counts:
    """Number of the round each of `n` samples belongs to, non-decreasing."""
    if len(rounds) < MIN_ROUNDS or sum(rounds) != n or min(rounds) < 1:
        return np.arange(n)
    return np.repeat(np.arange(len(rounds)), rounds)


def _draws(units: int, seed: int) -> Counts:
    """How often each unit was drawn: int64 (resamples, units)."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(units, np.full(units, 1 / units), size=RESAMPLES)


def _resampled(samples: NDArray[np.float64], owners: Counts, draws: Counts, q: float) -> NDArray[np.float64]:
    """The q-th percentile of every resample: samples weighted by how often their round was drawn."""
    order = np.argsort(samples)
    ranked, owners, step, found = samples[order], owners[order], max(_AT_ONCE // len(samples), 1), []
    for start in range(0, len(draws), step):
        reached = np.cumsum(draws[start : start + step, owners], axis=1)
        wanted = np.maximum(reached[:, -1:] * (q / 100), 1)
        found.append(ranked[np.argmax(reached >= wanted, axis=1)])
    return np.concatenate(found)


def resampled_interval(value: float, draws: NDArray[np.float64]) -> Interval:
    """The figure and the 95 % percentile interval of its resamples (NaN ones left out)."""
    low, high = np.nanpercentile(draws, _LEVEL)
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))
