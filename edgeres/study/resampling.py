"""Intervals when both the images and the random draws are a sample: each is drawn with replacement.

Source: Efron & Tibshirani 1993, chapters 8 and 13 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeres.core.statistics import Interval
from edgeres.study.outcomes import Floats

RESAMPLES = 1000
_LEVEL = (2.5, 97.5)  # percentiles that enclose 95 %
Indices = NDArray[np.int64]


def resampled_means(values: Floats, generator: np.random.Generator) -> Floats:
    """Means (RESAMPLES, V) of `values` (V, N), of V networks on the same N images, the images drawn anew each time."""
    n = values.shape[1]
    weights = generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    means: Floats = weights @ values.T
    return means


def redrawn(groups: Sequence[int], generator: np.random.Generator) -> Indices:
    """Places (RESAMPLES, V) of V draws, drawn anew inside each group; groups (V,) says which one each is of."""
    labels = np.asarray(groups)
    places = np.empty((RESAMPLES, len(labels)), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        places[:, members] = members[generator.integers(len(members), size=(RESAMPLES, len(members)))]
    return places


def interval_of(value: float, draws: Floats) -> Interval:
    """The figure and the 95 % percentile interval of its resamples (NaN ones left out)."""
    low, high = np.nanpercentile(draws, _LEVEL)
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))
