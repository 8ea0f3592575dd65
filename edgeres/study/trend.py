"""Whether error rises smoothly with the size of a disturbance, or falls off a cliff.

    rank_correlation   Spearman's, between size and error over all draws
    rise               largest mean error of a level - error of the whole network, points
    steepest           largest step between neighbouring levels / rise; 1 for a cliff, 1 / levels for a straight line

The whole network is level 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeres.core.config import Record
from edgeres.core.metrics import Interval
from edgeres.core.statistics import resampled_interval
from edgeres.study.outcomes import Floats, Outcome, redrawn, resampled_means
from edgeres.study.result import Verdict, judged

CLIFF = 0.5  # of the whole rise in one step
MIN_LEVELS = 4  # fewer steps cannot tell a slope from a cliff


@dataclass(frozen=True)
class Draw:
    """One disturbed network: how many changes were made, how large they are, what came out."""

    level: int
    size: float
    outcome: Outcome


class Level(Record):
    """All draws of one level: mean size, mean error with its 95 % interval, quartiles of the draws, in per cent."""

    level: int
    size: float
    draws: int
    error: Interval
    quartiles: tuple[float, float, float]


class Trend(Record):
    """See above; `n` images, `draws` networks."""

    n: int
    draws: int
    rank_correlation: Interval
    rise_points: Interval
    steepest: Interval
    levels: tuple[Level, ...]


def trend_of(whole: Outcome, draws: Sequence[Draw], *, seed: int = 0) -> Trend:
    """The trend over `draws`, in order of their levels (at least one)."""
    generator = np.random.default_rng(seed)
    every = [Draw(0, 0.0, whole), *sorted(draws, key=lambda draw: draw.level)]
    wrong = 100 * np.stack([~draw.outcome.right for draw in every]).astype(np.float64)
    groups, sizes = [draw.level for draw in every], np.asarray([draw.size for draw in every])
    labels = np.asarray(groups)
    places = redrawn(groups, generator)
    errors, again = wrong.mean(1), np.take_along_axis(resampled_means(wrong, generator), places, axis=1)
    means, means_again = _by_level(errors[None], groups)[0], _by_level(again, groups)
    ranks = np.asarray([rank_correlation(sizes[p[1:]], e[1:]) for p, e in zip(places, again, strict=True)])
    return Trend(
        n=wrong.shape[1],
        draws=len(draws),
        rank_correlation=resampled_interval(rank_correlation(sizes[1:], errors[1:]), ranks),
        rise_points=resampled_interval(float(means.max() - means[0]), means_again.max(1) - means_again[:, 0]),
        steepest=resampled_interval(float(_steepest(means[None])[0]), _steepest(means_again)),
        levels=tuple(
            _level(level, sizes[labels == level], errors[labels == level], resampled_interval(float(mean), column))
            for level, mean, column in zip(sorted(set(groups)), means, means_again.T, strict=True)
        ),
    )


def is_smooth(trend: Trend) -> tuple[Verdict, str]:
    """Whether the error rises with the size and no single step makes most of the rise."""
    steps, rank, steepest = len(trend.levels) - 1, trend.rank_correlation, trend.steepest
    text = (
        f"rank correlation of size and error {rank.text()} over {trend.draws} networks; the steepest of {steps} steps"
        f" makes {steepest.text()} of the rise of {trend.rise_points.value:.1f} points"
    )
    if steps < MIN_LEVELS:
        return "undecided", f"{steps} levels are too few to tell a slope from a cliff ({text})"
    rises, falls_off = rank.low > 0 and steepest.high < CLIFF, rank.high <= 0 or steepest.low >= CLIFF
    return judged(holds=rises, fails=falls_off), text


def rank_correlation(x: Floats, y: Floats) -> float:
    """Spearman's: Pearson's correlation of the ranks, ties given their mean rank; 0 if one of them is constant."""
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm else 0.0


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[inverse]
    return ranks


def _by_level(errors: Floats, groups: Sequence[int]) -> Floats:
    """Mean of each level (B, L), levels in order, of errors (B, V)."""
    labels = np.asarray(groups)
    return np.stack([errors[:, labels == label].mean(1) for label in np.unique(labels)], axis=1)


def _steepest(means: Floats) -> Floats:
    """The largest step over the rise (B,) of means (B, L); 1 where nothing rises."""
    rise = means.max(1) - means[:, 0]
    shares: Floats = np.divide(np.diff(means, axis=1).max(1), rise, out=np.ones_like(rise), where=rise > 0)
    return shares


def _level(level: int, sizes: Floats, errors: Floats, mean: Interval) -> Level:
    low, middle, high = (float(q) for q in np.percentile(errors, (25, 50, 75)))
    size = float(sizes.mean())
    return Level(level=level, size=size, draws=len(errors), error=mean, quartiles=(low, middle, high))
