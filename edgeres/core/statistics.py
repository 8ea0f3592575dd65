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

import numpy as np
from numpy.typing import NDArray

from edgeres.core.config import Record
from edgeres.core.errors import InputError
from edgeres.core.metrics import Z_95, Latency

_RESAMPLES = 1000
_LEVEL = (2.5, 97.5)  # percentiles that enclose 95 %
_MIN_ROUNDS = 5  # fewer rounds than this give no interval worth the name; their calls are drawn instead

# two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

Counts = NDArray[np.int64]


class Interval(Record):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def t_95(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t: by table, above it by the expansion around the normal quantile.

    Source: Abramowitz & Stegun 26.7.5, three terms, right to 0.1 % from 11 degrees on.
    """
    n, z = max(degrees, 1), Z_95
    if n <= len(_T_95):
        return _T_95[n - 1]
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)


def percentile_interval(latency: Latency, q: float, seed: int = 0) -> Interval:
    """The q-th percentile in milliseconds, q in [0, 100]."""
    rounds = _round_of_each(latency)
    draws = _resampled(latency, rounds, _draws(int(rounds[-1]) + 1, seed), q)
    return _interval(latency.percentile_ms(q), draws)


def ratio_interval(before: Latency, after: Latency, seed: int = 0) -> Interval:
    """Median of `after` over median of `before`; raises InputError if they must not be compared."""
    check_comparable(before, after)
    rounds_before, rounds_after = _round_of_each(before), _round_of_each(after)
    value = after.p50_ms / before.p50_ms
    n_before, n_after = int(rounds_before[-1]) + 1, int(rounds_after[-1]) + 1
    draws_before = _draws(n_before, seed)
    are_paired = n_before == n_after and len(before.rounds) == n_before and len(after.rounds) == n_after
    draws_after = draws_before if are_paired else _draws(n_after, seed + 1)
    medians_before = _resampled(before, rounds_before, draws_before, 50)
    return _interval(value, _resampled(after, rounds_after, draws_after, 50) / medians_before)


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


def _round_of_each(latency: Latency) -> Counts:
    """Number of the round each sample belongs to, non-decreasing."""
    n = len(latency.samples_ms)
    if len(latency.rounds) < _MIN_ROUNDS or sum(latency.rounds) != n or min(latency.rounds) < 1:
        return np.arange(n)
    return np.repeat(np.arange(len(latency.rounds)), latency.rounds)


def _draws(units: int, seed: int) -> Counts:
    """How often each unit was drawn: int64 (resamples, units)."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(units, np.full(units, 1 / units), size=_RESAMPLES)


def _resampled(latency: Latency, rounds: Counts, draws: Counts, q: float) -> NDArray[np.float64]:
    """The q-th percentile of every resample: samples weighted by how often their round was drawn."""
    samples = np.asarray(latency.samples_ms)
    order = np.argsort(samples)
    reached = np.cumsum(draws[:, rounds[order]], axis=1)
    wanted = np.maximum(reached[:, -1:] * (q / 100), 1)
    values: NDArray[np.float64] = samples[order][np.argmax(reached >= wanted, axis=1)]
    return values


def _interval(value: float, draws: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(draws, _LEVEL)
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))
